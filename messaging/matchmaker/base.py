"""The contract of a matchmaker: a store of leased records, seen through a table that is always there.

A brokerless driver asks two things of it: publish what I serve, and tell me who serves what. The rules that every
store keeps:

* A record is a lease. Its owner renews it; one whose owner died is gone after `lease` seconds at the latest, earlier
  where the store can see it.
* A record has an incarnation: `instance` is drawn at random by each connection, so what a dead process left behind is
  never taken for its successor, even at the same address.
* The table is a cache. Reading it does no I/O, and it keeps serving, as it was, while the store is down.
* Nothing here blocks. What a store can only do by blocking it hands to `services.offload`; its `done` appends to a
  queue of the matchmaker's own, calls `wake`, and the next `tick` goes on with it. Only the owner of the connection
  calls these methods.

It knows nothing of sockets and messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from messaging.message import Source

__all__ = ["Matchmaker", "Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection tells about itself."""

    instance: str
    """The random name of this incarnation; for a store that cannot know it (static), any name that is unique in the
    table."""
    endpoint: str
    """Where it is reached, in the driver's own notation."""
    revision: int = 0
    """Grows with each change of `sources`, so that news by another way (the driver's own) can be put in order with
    the table's."""
    sources: Mapping[int, Source] | None = None
    """What it serves, by subscription number; None where only asking it can tell."""
    incarnate: bool = True
    """False when `instance` is only a place, whose inhabitant nobody knows beforehand."""


class Matchmaker(Protocol):
    """One store, as one connection sees it. Times are seconds on the clock of the owner of the connection."""

    @property
    def spans_machines(self) -> bool:
        """Whether readers may sit on another machine, where a loopback address leads nowhere."""

    @property
    def records(self) -> Mapping[str, Record]:
        """The table by instance, as it was last seen. A new mapping after each change, never one that changes."""

    @property
    def registered(self) -> Record | None:
        """The own record as others can see it now; None when there is none."""

    @property
    def failure(self) -> Exception | None:
        """Why the last registration failed; None while it is under way or in place."""

    def start(self, wake: Callable[[], None], now: float) -> None:
        """Begin. `wake` makes the owner pump soon and is thread-safe. Raises ConfigError where the store cannot be
        used at all.
        """

    def tick(self, now: float) -> float:
        """Renew, refresh, collect what has come in; return when it wants to be called next."""

    def refresh(self, now: float) -> None:
        """Somebody needs the table to be fresh: look again, if that is cheap or long ago. May change `records` now or
        later.
        """

    def suspect(self, instance: str, now: float) -> None:
        """That instance does not answer: look whether it is gone. May change `records` now or later."""

    def register(self, record: Record, now: float) -> None:
        """Publish, or replace, the own record; done when `registered` equals it."""

    def withdraw(self) -> None:
        """Take the own record out of the store, as well as can be done now. Called before the connection closes, in
        every state.
        """

    def close(self) -> None:
        """Let go of everything. The own record is withdrawn already."""
