"""The options of `kafka://` URLs, and what of them cannot be meant. No I/O but a look at the files that are named."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from messaging.drivers.base import Settings
from messaging.errors import ConfigError, InvalidUrl
from messaging.wire.options import ControlExchange, WireName

__all__ = ["KafkaSettings", "check"]


class KafkaSettings(Settings, frozen=True, kw_only=True):
    """One field per option."""

    def __repr__(self) -> str:
        # The generated one would show tls_key_password.
        return f"{type(self).__name__}({self.url!r})"

    wire_dialect: ClassVar[str] = "kafka"

    wire: WireName = "native"
    control_exchange: ControlExchange = "openstack"
    create_topics: Annotated[
        Literal["listeners", "all", "no"],
        Meta(
            description="Who creates missing topics: listeners alone (notifying to a topic that nobody has ever "
            "listened to is NoRoute then), notifiers too, or nobody"
        ),
    ] = "listeners"
    partitions: Annotated[
        int | None, Meta(description="Partitions of a topic that is created; by default the broker's num.partitions")
    ] = None
    replication: Annotated[
        int | None,
        Meta(description="Replicas of a topic that is created; by default the broker's default.replication.factor"),
    ] = None
    start: Annotated[
        Literal["end", "beginning"], Meta(description="Where a pool that has never been there begins to read")
    ] = "end"
    order: Annotated[
        Literal["key", "partition"],
        Meta(
            description="What a Listener handles one after the other: notifications of one key, or all of a partition"
        ),
    ] = "key"
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Meta(
            description="classic (cooperative), or consumer: the protocol of Kafka 4, whose brokers assign partitions"
        ),
    ] = "classic"
    session_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds without a heartbeat after which the broker gives a member's partitions to others; "
            "with group_protocol=consumer the broker decides",
        ),
    ] = 10.0
    commit_interval: Annotated[
        float, Meta(gt=0, le=60, description="Seconds between two commits, while notifications are settled")
    ] = 0.1
    prefetch: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Messages of each partition that the client library fetches ahead")
    ] = 2_000
    window_bytes: Annotated[
        int,
        Meta(
            ge=1,
            description="Bytes of notifications that a listener has in hand, about, and again as many that wait for "
            "another attempt: of large ones fewer are read, though always one",
        ),
    ] = 64 * 1024 * 1024
    retry_buffer: Annotated[
        int,
        Meta(ge=1, description="Notifications that wait in memory for another attempt; the others stay in their topic"),
    ] = 10_000
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], Meta(description="How batches of messages are compressed")
    ] = "none"
    linger: Annotated[
        float, Meta(ge=0, le=10, description="Seconds for which a message may wait for others to share its batch")
    ] = 0.005
    send_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds for which the client library goes on trying to write a message; it cannot be recalled "
            "earlier, so a sender whose own deadline has passed is told MAYBE",
        ),
    ] = 30.0
    max_body: Annotated[
        int,
        Meta(
            ge=1, le=10**9, description="Bytes of the largest message; the broker's message.max.bytes limits it as well"
        ),
    ] = 1_000_000
    buffer: Annotated[
        int,
        Meta(ge=1, description="Bytes of messages that may wait in the client library; then connections are BLOCKED"),
    ] = 256 * 1024 * 1024
    heartbeat: Annotated[
        float, Meta(ge=0.5, le=600, description="Seconds; a broker that stands still is noticed within two of them")
    ] = 5.0
    connect_timeout: Annotated[float, Meta(gt=0, description="Seconds for reaching a broker")] = 5.0
    client_id: Annotated[
        str, Meta(description="Name under which the broker logs connections; role and number are appended")
    ] = "messaging"
    sasl: Annotated[
        Literal["plain", "scram-sha-256", "scram-sha-512"],
        Meta(description="How to log in, where the URL or credentials= has a user"),
    ] = "plain"
    tls: Annotated[bool, Meta(description="Connect by TLS; the broker's certificate and host name are verified")] = (
        False
    )
    tls_ca: Annotated[
        str | None, Meta(description="Path of a PEM file with the authorities to trust; by default the system's")
    ] = None
    tls_cert: Annotated[str | None, Meta(description="Path of a PEM file with the client's certificate")] = None
    tls_key: Annotated[str | None, Meta(description="Path of a PEM file with the client's private key")] = None
    tls_key_password: Annotated[str | None, Meta(description="Password of that key")] = None
    tls_verify: Annotated[
        bool, Meta(description="No: take any certificate, which protects from nobody; for trying things")
    ] = True
    oslo_group: Annotated[str, Meta(description="With wire=oslo: the consumer group of listeners without a pool")] = (
        "oslo_messaging_consumer"
    )
    oslo_suffix: Annotated[
        Literal["senders", "both"],
        Meta(
            description="With wire=oslo: who appends the path of the URL to topics; oslo.messaging's senders do, "
            "its listeners do not"
        ),
    ] = "senders"


def check(settings: KafkaSettings) -> None:
    """Refuse what cannot work, before anything is connected. Raises InvalidUrl or ConfigError."""
    url = settings.url
    if url.variant:
        raise InvalidUrl(f"kafka:// has no variants; {url.variant!r} is none")
    if not url.hosts:
        raise InvalidUrl("kafka:// needs a broker to begin with: kafka://host:9092, or kafka://host1:9092,host2:9092")
    if url.vhost and settings.wire == "native":
        raise InvalidUrl(
            f"kafka:// has no virtual hosts, and {url.vhost!r} would be one; exchanges keep applications apart: "
            'Target(exchange="…", topic="…")'
        )
    logins = {(host.username, host.password) for host in url.hosts if host.username is not None}
    if len(logins) > 1:
        raise InvalidUrl("kafka:// logs in to all brokers of a cluster as the same user; the hosts name different ones")
    _check_tls(settings)
    for name in ("partitions", "replication"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"option {name!r} must be a whole number of at least 1, not {value!r}")


def _check_tls(settings: KafkaSettings) -> None:
    given = [name for name in ("tls_ca", "tls_cert", "tls_key", "tls_key_password") if getattr(settings, name)]
    if given and not settings.tls:
        raise ConfigError(f"option {given[0]!r} is of no use without tls=yes")
    for name in ("tls_ca", "tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(f"option {name!r}: the file {path!r} cannot be read")
    if (settings.tls_cert is None) is not (settings.tls_key is None):
        raise ConfigError("options 'tls_cert' and 'tls_key' belong together: give both or none")
