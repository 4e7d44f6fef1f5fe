"""A clock that stands still until it is told to go on: for tests of what happens after minutes, in microseconds.

A clock here is any callable that returns monotonic seconds. A virtual one also has to wake those who wait for a time,
because nobody else will; so whoever waits on one registers how it is woken. It knows nothing of connections.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

__all__ = ["VirtualClock"]


class VirtualClock:
    """Seconds that only `advance` moves. Thread-safe for one thread that advances and many that read."""

    __slots__ = ("_now", "_sleepers")

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: dict[int, weakref.WeakMethod[Callable[[], None]]] = {}

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time forward and wake everybody who is registered. Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back: {seconds}")
        self._now += seconds
        for key, sleeper in list(self._sleepers.items()):
            wake = sleeper()
            if wake is None:
                del self._sleepers[key]
            else:
                wake()

    def register(self, wake: Callable[[], None]) -> None:
        """Call a bound method after each step, for as long as its object lives."""
        sleeper = weakref.WeakMethod(wake)
        self._sleepers[id(sleeper)] = sleeper
