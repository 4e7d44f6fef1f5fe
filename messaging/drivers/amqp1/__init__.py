"""`amqp1://`: RPC and notifications over AMQP 1.0, on Apache Artemis, Apache Qpid Broker-J and routers; on RabbitMQ 3
notifications alone.

On the protocol engine of python-qpid-proton with a loop of our own. What kind of peer it is, the peer says itself; what
follows from that stands in profiles.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from messaging.drivers.amqp1.connection import Amqp1Connection
from messaging.drivers.amqp1.options import Amqp1Settings, check
from messaging.drivers.amqp1.profiles import AUTO, PROFILES, capabilities_of
from messaging.drivers.base import Capabilities, Connection, ConnectionEvents, Role, Services

__all__ = ["Amqp1Settings", "Driver"]


class Driver:
    """See messaging.drivers.base.Driver."""

    schemes: ClassVar[Collection[str]] = ("amqp1",)
    options: type[Any] = Amqp1Settings
    why_no_rpc = PROFILES["rabbitmq"].refusal
    """Only with that profile is a client refused when it is built."""
    peers: ClassVar[Mapping[str, str]] = {f"amqp1-{name}": f"amqp1://peer?profile={name}" for name in PROFILES}
    """The kinds of peers by name, each with a URL that promises what one keeps: columns of the capability matrix, which
    is written without a server.
    """

    def capabilities(self, settings: Amqp1Settings) -> Capabilities:
        """See Driver. Raises InvalidUrl and ConfigError for options that cannot be meant."""
        check(settings)
        profile = PROFILES.get(settings.profile, AUTO)
        return capabilities_of(profile, settings.max_body, settings.presettled != "requests")

    def connect(self, settings: Amqp1Settings, role: Role, events: ConnectionEvents, services: Services) -> Connection:
        """See Driver."""
        return Amqp1Connection(settings, role, events, services)
