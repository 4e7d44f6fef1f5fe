"""Which host is tried next, and when: a rotation over all hosts of the URL, with full-jitter backoff between rounds;
and in which order its addresses are.

Pure: names are resolved and sockets opened elsewhere. The first host is drawn by lot, so that a thousand clients of a
cluster spread over its nodes, and after a loss the next one is tried, not the one that has just failed. Within a round
the next host follows soon: after a long outage the one that is back must not wait for the backoffs of the others.

The time for one attempt is that of a whole host, and an address that drops what comes to it takes all of it. So such
addresses are remembered and tried last, or no attempt would ever come to those behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from messaging.backoff import Backoff
from messaging.url import Host

__all__ = ["Hosts"]

_SOON = 0.05
"""Seconds, at most, to the next host of a round; drawn, because all clients of a dead node go on at once."""
_MOST_SILENT = 1000
"""Addresses that are remembered: those of a name may be others each time."""
PlaceT = TypeVar("PlaceT", bound=Hashable)


class Hosts:
    """The hosts of one connection. `random` gives a float from [0, 1)."""

    def __init__(self, hosts: Sequence[Host], random: Callable[[], float]) -> None:
        self._hosts = list(hosts)
        self._at = int(random() * len(self._hosts)) - 1
        self._random = random
        self._backoff = Backoff(initial=_SOON, source=random)
        self._failures = 0
        self._silences = 0
        self._silent: dict[Hashable, int] = {}
        """At which silence each address was silent last; the longest ago first."""

    def next(self) -> Host:
        """The host that is tried now."""
        self._at = (self._at + 1) % len(self._hosts)
        return self._hosts[self._at]

    def in_turn(self, places: Iterable[PlaceT]) -> list[PlaceT]:
        """The addresses of a host in the order in which they are tried: as they come, but those that were silent last,
        of them the one first whose silence is the longest time ago.
        """
        return sorted(places, key=lambda place: self._silent.get(place, 0))

    def silent(self, place: Hashable) -> None:
        """The time of an attempt has run out while this address was tried."""
        self._silences += 1
        self._silent.pop(place, None)
        self._silent[place] = self._silences
        if len(self._silent) > _MOST_SILENT:
            del self._silent[next(iter(self._silent))]

    def delay(self) -> float:
        """Seconds before the next attempt, after one that has failed."""
        self._failures += 1
        if self._failures % len(self._hosts):
            return self._random() * _SOON
        return self._backoff.next()

    def whole_again(self) -> None:
        """Everything is back that was lost: the next loss is answered quickly again."""
        self._failures = 0
        self._backoff.reset()
