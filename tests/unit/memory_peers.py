"""Connections to one hub of memory://, pumped by hand on a virtual clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from messaging.clock import VirtualClock
from messaging.drivers.base import Role
from messaging.drivers.memory import Driver, Settings, hub
from messaging.drivers.memory.connection import MemoryConnection
from messaging.drivers.memory.faults import Faults
from messaging.message import Source, SourceKind
from messaging.url import parse_url
from tests.unit.pumping import Peer, Recorder, Services

ANY = Source(SourceKind.ANY, "", "topic")
REPLY = Source.reply()
ALL = Source(SourceKind.ALL, "", "topic", "host-1")


def one(server: str) -> Source:
    """The source of a named server."""
    return Source(SourceKind.ONE, "", "topic", server)


def pool(name: str) -> Source:
    """The source of a pool."""
    return Source(SourceKind.POOLS, "", "topic", "", name)


def dead(name: str = "") -> Source:
    """The source of a pool's dead letters."""
    return Source(SourceKind.DEAD, "", "topic", "", name)


class MemoryPeer(Peer):
    """A peer whose connection shows its address."""

    connection: MemoryConnection

    @property
    def address(self) -> str:
        """The connection's own address."""
        return self.connection.address

    @property
    def counts(self) -> dict[str, int]:
        """The counts of the connection and its hub."""
        return self.connection.counts()


class World:
    """A hub, its clock and its faults."""

    _names = itertools.count()

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.virtual = VirtualClock(start=1000.0)
        self.clock = self.virtual if clock is None else clock
        # Connections of a test that has ended may not be closed, and would take part.
        self.name = f"world-{next(self._names)}"
        self.hub = hub(self.name, self.clock)

    @property
    def faults(self) -> Faults:
        """The faults of the hub."""
        return self.hub.faults

    def connection(self, jitter: Callable[[], float] | None = None, **options: Any) -> MemoryPeer:
        """A connection that has not been pumped."""
        events = Recorder()
        settings = Settings(url=parse_url(f"memory://{self.name}"), **options)
        services = Services(self.clock, jitter)
        return MemoryPeer(Driver().connect(settings, Role.ALL, events, services), events)

    def peer(self, *sources: Source, window: int = 10, **options: Any) -> MemoryPeer:
        """A connection that is READY and subscribed."""
        peer = self.connection(**options)
        peer.pump()
        for source in sources:
            peer.subscribe(source, window)
        return peer
