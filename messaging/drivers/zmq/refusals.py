"""Messages that somebody would not take: who was asked, and when everybody is asked again."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Container

from messaging.backoff import Backoff
from messaging.drivers.sweep import Sweep
from messaging.drivers.zmq.frames import GONE
from messaging.drivers.zmq.link import Copy, Item, Link, is_withdrawn, outgoing_of
from messaging.drivers.zmq.reasons import nobody
from messaging.drivers.zmq.runtime import Runtime
from messaging.errors import Overloaded, TransportError

__all__ = ["Refusals"]

_FIRST, _LONGEST = 0.01, 1.0
"""Bounds of the backoff between two rounds, in seconds."""
_ROUNDS = 6
"""How often a message without a deadline is offered to everybody."""
_SPARE = 0.01
"""Seconds that a last round needs."""
_PURGE = 1000
"""After how many refusals those of withdrawn messages are looked for; at each new one, 10,000 took 3.6 s."""


class _Refusal:
    """What a refused message has behind it."""

    __slots__ = ("backoff", "gone", "rounds", "tried")

    def __init__(self, backoff: Backoff) -> None:
        self.tried: set[Link] = set()
        self.gone = True
        """Whether everybody who refused it in this round does not serve it any more."""
        self.rounds = 0
        self.backoff = backoff


class Refusals:
    """Refused messages of one connection."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._refusals: dict[Item, _Refusal] = {}
        self._retries: list[tuple[float, int, Item]] = []
        self._serial = itertools.count()
        self._sweep = Sweep(_PURGE)
        self.forget = self._refusals.pop
        """`forget(item, None)`: it was taken or has failed."""

    def __len__(self) -> int:
        return len(self._refusals)

    def note(self, item: Item, link: Link, why: int) -> None:
        """Somebody has refused an item."""
        refusal = self._refusals.get(item)
        if refusal is None:
            if self._sweep.is_due(len(self._refusals)):
                self._purge()
            refusal = _Refusal(Backoff(_FIRST, _LONGEST, self._runtime.random))
            self._refusals[item] = refusal
        refusal.tried.add(link)
        if why != GONE:
            refusal.gone = False

    def tried(self, item: Item) -> Container[Link]:
        """Who has refused it in this round."""
        refusal = self._refusals.get(item)
        return refusal.tried if refusal is not None else ()

    def next_round(self, item: Item, now: float) -> TransportError | None:
        """Everybody has refused it: ask again after a while; if there is no time for that, return what it failed
        with.
        """
        outgoing = outgoing_of(item)
        refusal = self._refusals[item]
        if refusal.gone:
            return nobody(outgoing.route)
        refusal.rounds += 1
        refusal.tried.clear()
        refusal.gone = True
        when = now + refusal.backoff.next()
        until = item.group.until if isinstance(item, Copy) and outgoing.deadline else outgoing.deadline
        if refusal.rounds >= _ROUNDS if not until else when >= until - _SPARE:
            return Overloaded(f"everybody who could take the message is busy, in {refusal.rounds} rounds of asking")
        heapq.heappush(self._retries, (when, next(self._serial), item))
        self._runtime.at(when)
        return None

    def due(self, now: float) -> list[Item]:
        """Take what is to be offered again now."""
        found = []
        while self._retries and self._retries[0][0] <= now:
            item = heapq.heappop(self._retries)[2]
            if is_withdrawn(item):
                self.forget(item, None)
            elif item in self._refusals:
                found.append(item)
        if self._retries:
            self._runtime.at(self._retries[0][0])
        return found

    def take_all(self) -> list[Item]:
        """Take everything that waits for its next round, because the connection closes."""
        retries, self._retries = self._retries, []
        return [item for _when, _serial, item in retries if item in self._refusals]

    def _purge(self) -> None:
        for item in [item for item in self._refusals if is_withdrawn(item)]:
            del self._refusals[item]
        self._sweep.done(len(self._refusals))
