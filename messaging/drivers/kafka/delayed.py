"""Notifications that were read from a retry topic and wait in memory until their next attempt is due. Pure.

Their offsets are unsettled meanwhile, so a crash loses none; a notification with a long delay does not hold up one with
a short delay behind it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator

from messaging.message import Delivery

__all__ = ["Delayed"]


class Delayed:
    """A queue by time."""

    __slots__ = ("_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Delivery]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Delivery]:
        return (delivery for _, _, delivery in self._heap)

    def add(self, delivery: Delivery, due: float) -> None:
        """Keep one until `due`, on the connection's clock."""
        heapq.heappush(self._heap, (due, next(self._order), delivery))

    @property
    def due(self) -> float:
        """When the next one is due; infinity: none waits."""
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float, most: int) -> list[Delivery]:
        """Take what is due, at most so many; what belongs to a partition that is gone is forgotten."""
        taken: list[Delivery] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < most:
            delivery = heapq.heappop(self._heap)[2]
            if not delivery.stale:
                taken.append(delivery)
        return taken

    def clear(self) -> list[Delivery]:
        """Take everything."""
        left = [delivery for _, _, delivery in self._heap if not delivery.stale]
        self._heap.clear()
        return left
