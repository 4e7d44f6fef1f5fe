"""Peers that stand in the URL: `zmq+static://h1:5555,h2:5555/`.

There is no store: the table never changes, and what each peer serves only the peer itself can tell. A server is not
registered anywhere; it has to listen at an address that stands in its clients' URLs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from messaging.errors import InvalidUrl
from messaging.matchmaker.base import Record
from messaging.url import Host

__all__ = ["StaticMatchmaker"]


class StaticMatchmaker:
    """A fixed list of places. `hosts` all need a port. Raises InvalidUrl."""

    spans_machines = False
    """Nobody reads an address here: what is advertised is what the clients' URLs say."""
    failure: Exception | None = None

    def __init__(self, hosts: Sequence[Host]) -> None:
        if not hosts:
            raise InvalidUrl("zmq+static:// needs its peers, for example zmq+static://h1:5555,h2:5555/")
        for host in hosts:
            if host.port is None:
                raise InvalidUrl(f"zmq+static:// needs a port for each peer: {host.name}:5555")
        self.records: Mapping[str, Record] = {
            host.address: Record(instance=host.address, endpoint=f"tcp://{host.address}", incarnate=False)
            for host in hosts
        }
        self.registered: Record | None = None

    def start(self, wake: Callable[[], None], now: float) -> None:
        """Nothing to begin."""

    def tick(self, now: float) -> float:
        """Nothing to do, ever."""
        return math.inf

    def refresh(self, now: float) -> None:
        """The table cannot change."""

    def suspect(self, instance: str, now: float) -> None:
        """A place stays a place, whoever is there."""

    def register(self, record: Record, now: float) -> None:
        """Readers know the place already."""
        self.registered = record

    def withdraw(self) -> None:
        """Nobody was told."""
        self.registered = None

    def close(self) -> None:
        """Nothing to let go of."""
