"""The options of `rabbit://` and `kombu://` URLs, and what of them cannot be meant.

One table for both, because both speak to the same brokers with the same topology. Whatever the files and names in it
have to be for TLS is looked at when a transport is built, and not when it first connects.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from messaging.drivers.tls import TlsSettings, tls_of
from messaging.errors import ConfigError, InvalidUrl
from messaging.wire.options import ControlExchange, NotificationFormat, WireName

__all__ = ["DEFAULT_PORT", "DEFAULT_TLS_PORT", "RabbitSettings", "check"]

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671


class RabbitSettings(TlsSettings, frozen=True, kw_only=True):
    """One field per option, beside those of TLS."""

    heartbeat: Annotated[
        int, Meta(description="Seconds; a broker that is silent is given up within two of them", ge=1, le=600)
    ] = 15
    connect_timeout: Annotated[
        float, Meta(description="Seconds for one host: its name, TCP, TLS and the login", gt=0, le=600)
    ] = 5.0
    login: Annotated[
        Literal["plain", "external"],
        Meta(description="plain: user and password; external: the client certificate says who this is"),
    ] = "plain"
    declare: Annotated[
        bool,
        Meta(description="Declare exchanges and queues; no: only check that they are there, for accounts that may not"),
    ] = True
    queue_type: Annotated[
        Literal["classic", "quorum"], Meta(description="Type of topic and pool queues and of dead letters")
    ] = "classic"
    expires: Annotated[
        float,
        Meta(description="Seconds for which the queues of a process (answers, fanout, server) outlive it", ge=1),
    ] = 300.0
    topic_expires: Annotated[
        float,
        Meta(description="Seconds for which topic and pool queues are kept that nobody reads; 0: for ever", ge=0),
    ] = 0.0
    max_length: Annotated[
        int, Meta(description="Messages in a topic, pool or server queue; beyond it senders get Overloaded", ge=1)
    ] = 1_000_000
    replies: Annotated[
        Literal["queue", "direct"],
        Meta(
            description="queue: answers survive a reconnect; direct: by direct reply-to, without any queue, as always "
            "with declare=no"
        ),
    ] = "queue"
    max_body: Annotated[
        int, Meta(description="Bytes of the largest message; no more than the broker's max_message_size", ge=1)
    ] = 128 * 1024 * 1024
    frame_max: Annotated[
        int, Meta(description="Bytes of the largest frame that is offered to the broker", ge=4096, le=16 * 1024 * 1024)
    ] = 131_072
    codec: Annotated[
        Literal["own", "library"],
        Meta(
            description="own: the frames of messages are read and written by a short codec; library: by pika or kombu"
        ),
    ] = "own"
    coalesce: Annotated[
        bool, Meta(description="Write what is ready in one go; no: each message by itself, for comparing")
    ] = True
    wire: WireName = "native"
    control_exchange: ControlExchange = "openstack"
    notification_format: NotificationFormat = "messagingv2"
    amqp_durable_queues: Annotated[
        bool, Meta(description="With wire=oslo, as there: exchanges and queues that stay are durable")
    ] = False
    amqp_auto_delete: Annotated[
        bool, Meta(description="With wire=oslo, as there: exchanges and queues that stay go with their last user")
    ] = False
    rabbit_quorum_queue: Annotated[
        bool, Meta(description="With wire=oslo, as there: queues that stay are quorum queues")
    ] = False
    rabbit_quorum_delivery_limit: Annotated[
        int, Meta(description="With wire=oslo, as there: deliveries of one message from a quorum queue; 0: any", ge=0)
    ] = 0
    rabbit_transient_quorum_queue: Annotated[
        bool, Meta(description="With wire=oslo, as there: queues of one process are quorum queues")
    ] = False
    rabbit_transient_queues_ttl: Annotated[
        int, Meta(description="With wire=oslo, as there: seconds for which queues of one process outlive it", ge=0)
    ] = 1800


_NATIVE = ("queue_type", "expires", "topic_expires", "max_length", "replies")
_OSLO = (
    "amqp_durable_queues",
    "amqp_auto_delete",
    "rabbit_quorum_queue",
    "rabbit_quorum_delivery_limit",
    "rabbit_transient_quorum_queue",
    "rabbit_transient_queues_ttl",
)


def check(settings: RabbitSettings) -> None:
    """Refuse what cannot be meant, before anything is connected. Raises InvalidUrl or ConfigError."""
    url = settings.url
    if not url.hosts:
        raise InvalidUrl(
            f"{url.scheme}:// needs the host of its broker: {url.scheme}://user:password@host:{DEFAULT_PORT}/vhost"
        )
    if settings.login == "external" and settings.tls_cert is None:
        raise ConfigError("login=external needs tls_cert: the certificate is what says who this is")
    tls_of(settings)
    # Two sides that declare one queue have to agree, so an option that has no effect is a mistake that costs an outage.
    defaults = {field.name: field.default for field in msgspec.structs.fields(RabbitSettings)}
    for name in _OSLO if settings.wire == "native" else _NATIVE:
        if getattr(settings, name) != defaults[name]:
            other = "oslo" if settings.wire == "native" else "native"
            raise ConfigError(f"option {name!r} is one of wire={other}, and this is wire={settings.wire}")
