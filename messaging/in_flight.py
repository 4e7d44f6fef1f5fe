"""How many operations of one caller are under way: what bounds a pipeline, and what waits for its last outcome.

A semaphore does the same at ten times the cost per operation, and has to be drained permit by permit to learn that all
are back. Here an end is one step of a counter, and somebody is woken only when he waits for just that end.
"""

from __future__ import annotations

import threading
import time

from messaging.counters import Tally

__all__ = ["OVERDUE", "InFlight"]

OVERDUE = 5.0
"""Seconds after its deadline by which an operation has ended, on a busy machine too: whoever ends what is overdue needs
the processor for it. A pipeline that is full waits for as long.
"""


class InFlight:
    """Counts beginnings and ends. One thread at a time begins, one waits; `ended` may be called from any."""

    __slots__ = ("_begun", "_bell", "_count_end", "_ends", "_full_at", "_limit", "_wanted")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ends = Tally()
        self._count_end = self._ends.add
        self._begun = 0
        self._full_at = limit
        """How many may have begun before it is looked how many have ended."""
        self._wanted = 0
        self._bell = threading.Event()

    def begin(self, timeout: float) -> bool:
        """Count one more, waiting up to `timeout` seconds for room; False: none came, and nothing was counted.

        Who has to wait, waits for half of the room: woken for the next end, it would take the interpreter from the
        thread that brings them, again and again.
        """
        if self._begun >= self._full_at and self._is_full():
            self._wait(self._begun - self._limit // 2, timeout)
            if self._is_full():
                return False
        self._begun += 1
        return True

    def try_begin(self) -> bool:
        """Count one more without waiting; False: there is no room."""
        if self._begun >= self._full_at and self._is_full():
            return False
        self._begun += 1
        return True

    def _is_full(self) -> bool:
        self._full_at = self._limit + int(self._ends)
        return self._begun >= self._full_at

    def ended(self) -> None:
        """Count one end."""
        if self._count_end() + 1 >= self._wanted > 0:
            self._bell.set()

    def wait(self, timeout: float) -> bool:
        """Wait until everything begun has ended; False when `timeout` seconds passed first."""
        return self._wait(self._begun, timeout)

    def _wait(self, ends: int, timeout: float) -> bool:
        until = time.monotonic() + timeout
        while True:
            self._bell.clear()
            # Say what is waited for, then look: an end in between sees the one or is seen by the other.
            self._wanted = ends
            if int(self._ends) >= ends:
                self._wanted = 0
                return True
            if not self._bell.wait(max(0.0, until - time.monotonic())):
                self._wanted = 0
                return int(self._ends) >= ends
