"""`zmq://`: RPC and notifications over ZeroMQ, without a broker.

Each process listens on one ROUTER once it serves something, and connects one DEALER to each process that it talks to.
Who serves what is in a matchmaker, which the variant of the URL chooses: `zmq://` and `zmq+local:///directory` (this
machine), `zmq+static://host:port,...`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from messaging.drivers.base import Capabilities, Connection, ConnectionEvents, Role, Services
from messaging.drivers.zmq.addresses import check_addresses
from messaging.drivers.zmq.connection import ZmqConnection
from messaging.drivers.zmq.options import ZmqSettings
from messaging.drivers.zmq.security import load_keys
from messaging.errors import ConfigError, InvalidUrl
from messaging.matchmaker.base import Matchmaker
from messaging.matchmaker.local import LocalMatchmaker
from messaging.matchmaker.static import StaticMatchmaker
from messaging.options import nearest

__all__ = ["Driver", "ZmqSettings"]

_VARIANTS = ("local", "static")


class Driver:
    """See messaging.drivers.base.Driver."""

    schemes: ClassVar[Collection[str]] = ("zmq",)
    options: type[Any] = ZmqSettings

    def capabilities(self, settings: ZmqSettings) -> Capabilities:
        """See Driver. Raises ConfigError for keys and addresses that would be unsafe or useless."""
        load_keys(settings)
        check_addresses(settings, spans_machines=_matchmaker(settings).spans_machines)
        return Capabilities(
            fanout="live",
            pools=True,
            confirms=True,
            acceptance="peer",
            no_route="consumer",
            knows_servers=True,
            requeue="now",
            reject="drop",
            max_body=settings.max_message,
            shared_roles=True,
        )

    def connect(self, settings: ZmqSettings, role: Role, events: ConnectionEvents, services: Services) -> Connection:
        """See Driver."""
        return ZmqConnection(settings, _matchmaker(settings), events, services)


def _matchmaker(settings: ZmqSettings) -> Matchmaker:
    url = settings.url
    if url.variant == "static":
        return StaticMatchmaker(url.hosts)
    if url.variant not in ("", "local"):
        raise ConfigError(
            f"zmq+{url.variant}:// is not known{nearest(url.variant, _VARIANTS)}; variants: {', '.join(_VARIANTS)}"
        )
    if url.hosts:
        raise InvalidUrl(
            f"zmq:// finds its peers in a directory of this machine and connects to no {url.hosts[0].address}; "
            "write zmq:// alone, zmq+local:///directory, or zmq+static://host:port,... for fixed peers"
        )
    directory = Path("/", url.vhost) if url.vhost else None
    return LocalMatchmaker(directory, lease=settings.lease, refresh=settings.refresh)
