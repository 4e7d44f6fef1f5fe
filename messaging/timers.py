"""When the owner of a connection has to do something without being asked: timers, and hooks that know of deadlines.

Pure: the time is passed in. `due` is lowered by whatever has an earlier time, and everything is looked at when it has
come; looking at all of it in each turn would cost a tenth of a call.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["Timers"]

_LONGEST_WAIT = 30.0
"""Seconds after which the owner looks around even when nothing asked for it: a bound on the harm of a driver's bug."""


class Timers:
    """Functions to call at a time, and hooks to call whenever something is due. Belongs to the owner."""

    __slots__ = ("_heap", "_ids", "due", "hooks")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = itertools.count()
        self.hooks: list[Callable[[float], float]] = []
        """Each is given the time and returns when it wants to be called next."""
        self.due = 0.0

    def at(self, when: float, function: Callable[[], None]) -> None:
        """Have a function called at a time."""
        heapq.heappush(self._heap, (when, next(self._ids), function))
        if when < self.due:
            self.due = when

    def run(self, now: float, call: Callable[[Callable[[], None]], None]) -> None:
        """Do what is due at the time `now`; `call` calls a timer's function. Sets `due` anew."""
        heap = self._heap
        # What a timer has published lies in the connection's buffer: it goes out in a pump, before any wait.
        soonest = now if heap and heap[0][0] <= now else now + _LONGEST_WAIT
        while heap and heap[0][0] <= now:
            call(heapq.heappop(heap)[2])
        for hook in self.hooks:
            soonest = min(soonest, hook(now))
        self.due = min(soonest, heap[0][0]) if heap else soonest
