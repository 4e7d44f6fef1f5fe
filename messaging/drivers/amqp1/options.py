"""The options of `amqp1://` URLs, and what of them cannot be meant."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta

from messaging.drivers.amqp1.addresses import Words
from messaging.drivers.amqp1.sasl import SCRAM
from messaging.drivers.tls import TlsSettings, tls_of, uses_tls
from messaging.errors import ConfigError, InvalidUrl

__all__ = ["DEFAULT_PORT", "DEFAULT_TLS_PORT", "Amqp1Settings", "check", "mechanisms"]

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671


class Amqp1Settings(TlsSettings, frozen=True, kw_only=True):
    """One field per option, beside those of TLS."""

    profile: Annotated[
        Literal["auto", "artemis", "broker-j", "rabbitmq", "router"],
        Meta(
            description="What the peer is; auto: one of the brokers, by what it says of itself. A router has to be "
            "named, because nothing is stored there"
        ),
    ] = "auto"
    rpc_prefix: Annotated[str, Meta(description="Start of the addresses of RPC", min_length=1)] = "openstack.org/om/rpc"
    notify_prefix: Annotated[str, Meta(description="Start of the addresses of notifications", min_length=1)] = (
        "openstack.org/om/notify"
    )
    multicast: Annotated[str, Meta(description="Part of addresses that reach all", min_length=1)] = "multicast"
    unicast: Annotated[str, Meta(description="Part of addresses that reach a named server", min_length=1)] = "unicast"
    anycast: Annotated[str, Meta(description="Part of addresses that reach one of many", min_length=1)] = "anycast"
    presettled: Annotated[
        Literal["replies", "requests"],
        Meta(
            description="Of which messages nobody asks the peer what became of them: replies; or calls, casts and "
            "fanouts too, which may then be lost without a word"
        ),
    ] = "replies"
    durable: Annotated[
        bool,
        Meta(
            description="Ask the broker to keep notifications, dead letters and what is stored through its restart; "
            "no: for a broker whose store is in memory and refuses that"
        ),
    ] = True
    heartbeat: Annotated[
        float, Meta(description="Seconds; a peer that is silent is given up within two of them", ge=0.2, le=600)
    ] = 15.0
    connect_timeout: Annotated[
        float, Meta(description="Seconds for one host: its name, TCP, TLS, the login and the opening", gt=0, le=600)
    ] = 5.0
    login: Annotated[
        Literal["auto", "anonymous", "plain", "scram", "external"],
        Meta(
            description="How to say who this is. auto: by user and password where the URL or credentials= has them, "
            "else by the client certificate, else not at all; of what the peer offers, scram comes before plain"
        ),
    ] = "auto"
    insecure: Annotated[
        bool, Meta(description="Send a password without TLS to another machine, where everybody on the way can read it")
    ] = False
    max_body: Annotated[int, Meta(description="Bytes of the largest message", ge=1)] = 16 * 1024 * 1024


def check(settings: Amqp1Settings) -> None:
    """Refuse what cannot be meant, before anything is connected. Raises InvalidUrl or ConfigError."""
    url = settings.url
    if url.variant:
        raise InvalidUrl(f"amqp1:// has no variants; {url.variant!r} is none")
    if not url.hosts:
        raise InvalidUrl(f"amqp1:// needs the host of its peer: amqp1://user:password@host:{DEFAULT_PORT}/vhost")
    tls_of(settings)
    if settings.login == "external" and settings.tls_cert is None:
        raise ConfigError("login=external needs tls_cert: the certificate is what says who this is")
    with_password = settings.login in ("auto", "plain") and (
        settings.credentials is not None or any(host.username is not None for host in url.hosts)
    )
    abroad = [host.address for host in url.hosts if not _is_here(host.name)]
    if with_password and abroad and not uses_tls(settings) and not settings.insecure:
        raise ConfigError(
            f"the password would go to {abroad[0]} in clear text; use tls=yes, or allow it by insecure=yes"
        )


def mechanisms(settings: Amqp1Settings, with_login: bool) -> tuple[str, ...]:
    """The SASL mechanisms that may be used, the best first."""
    login = settings.login
    if login == "scram":
        return SCRAM
    if login == "auto":
        if with_login:
            return (*SCRAM, "PLAIN")
        login = "external" if settings.tls_cert is not None else "anonymous"
    return (login.upper(),)


def words(settings: Amqp1Settings, vhost: str) -> Words:
    """The configurable parts of addresses; `vhost` where the peer has no virtual hosts of its own."""
    return Words(
        settings.rpc_prefix,
        settings.notify_prefix,
        settings.multicast,
        settings.unicast,
        settings.anycast,
        vhost,
    )


def _is_here(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
