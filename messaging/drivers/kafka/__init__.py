"""The driver of `kafka://`: notifications over Apache Kafka, by confluent-kafka.

Kafka keeps messages in partitions that are read in order by one member of each group: that is what notifications and
their pools need, and what a reply to one caller is not. So there is no RPC here; `capabilities` says so, and a client
is refused when it is built.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from messaging.drivers.base import Capabilities, Connection, ConnectionEvents, Role, Services
from messaging.drivers.kafka import clients
from messaging.drivers.kafka.listening import ListenerConnection
from messaging.drivers.kafka.notifying import NotifierConnection
from messaging.drivers.kafka.options import KafkaSettings, check

__all__ = ["Driver"]


class Driver:
    """See messaging.drivers.base.Driver."""

    schemes: ClassVar[Collection[str]] = ("kafka",)
    options = KafkaSettings
    why_no_rpc = (
        "Kafka hands out partitions to groups, not single messages to whoever is free, and has no address for an answer"
    )

    def capabilities(self, settings: KafkaSettings) -> Capabilities:
        """See Driver. Raises InvalidUrl or ConfigError for options that contradict each other."""
        check(settings)
        return Capabilities(
            rpc=False,
            direct=False,
            pools=True,
            storage=True,
            confirms=True,
            no_route="queue" if settings.create_topics != "all" and settings.wire == "native" else "never",
            redelivers="seconds",
            settle="cumulative",
            requeue="later",
            # The predecessor has no place for dead letters: who sends one again cannot name its pool, nor its level.
            reject="dead_letter" if settings.wire == "native" else "drop",
            ordering="key",
            max_body=settings.max_body,
            threadsafe_publish=True,
            collects=True,
        )

    def connect(self, settings: KafkaSettings, role: Role, events: ConnectionEvents, services: Services) -> Connection:
        """See Driver. Raises Forked in the child of a process that uses Kafka."""
        clients.check_fork()
        if role is Role.LISTENER:
            return ListenerConnection(settings, events, services)
        return NotifierConnection(settings, events, services)
