"""Assembling batches by size and by age; pure, the clock is passed in.

A batch is complete when it has `size` items, or when its first item has waited `age` seconds. It knows nothing of what
it assembles.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Assembler"]

T = TypeVar("T")


class Assembler(Generic[T]):
    """Items on their way into batches, in their order. Not thread-safe."""

    __slots__ = ("_age", "_size", "_waiting")

    def __init__(self, size: int, age: float) -> None:
        self._size = size
        self._age = age
        self._waiting: deque[tuple[float, T]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, now: float) -> None:
        """Let an item wait; `now` in seconds, never less than before."""
        self._waiting.append((now, item))

    def due(self, now: float) -> list[list[T]]:
        """Remove and return the batches that are complete."""
        batches = []
        while len(self._waiting) >= self._size:
            batches.append(self._cut())
        if self._waiting and self.next_due() <= now:
            batches.append(self._cut())
        return batches

    def rest(self) -> list[T]:
        """Remove and return what waits."""
        items = [item for _, item in self._waiting]
        self._waiting.clear()
        return items

    def next_due(self) -> float:
        """When the oldest item has waited long enough; infinity when none waits."""
        return self._waiting[0][0] + self._age if self._waiting else math.inf

    def _cut(self) -> list[T]:
        return [self._waiting.popleft()[1] for _ in range(min(self._size, len(self._waiting)))]
