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

    __slots__ = ("_heap", "_order", "size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Delivery]] = []
        self._order = itertools.count()
        self.size = 0
        """Bytes of all that waits."""

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Delivery]:
        return (delivery for _, _, delivery in self._heap)

    def add(self, delivery: Delivery, due: float) -> None:
        """Keep one until `due`, on the connection's clock."""
        heapq.heappush(self._heap, (due, next(self._order), delivery))
        self.size += len(delivery.body)

    @property
    def due(self) -> float:
        """When the next one is due; infinity: none waits."""
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float, most: int) -> list[Delivery]:
        """Take what is due, at most so many."""
        taken: list[Delivery] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < most:
            delivery = heapq.heappop(self._heap)[2]
            self.size -= len(delivery.body)
            taken.append(delivery)
        return taken

    def forget_stale(self) -> None:
        """Forget what belongs to partitions that are gone."""
        self._heap = [each for each in self._heap if not each[2].stale]
        heapq.heapify(self._heap)
        self.size = sum(len(delivery.body) for delivery in self)

    def clear(self) -> list[Delivery]:
        """Take everything."""
        left = list(self)
        self._heap.clear()
        self.size = 0
        return left
