"""The last ids of messages that were dealt with, for formats whose senders repeat a message when a confirmation is
lost.

Bounded by number, because a sender repeats at once or not at all. It knows nothing of messages.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["RecentIds"]


class RecentIds:
    """A set that forgets its oldest member when it is full. Thread-safe."""

    __slots__ = ("_ids", "_lock", "_order")

    def __init__(self, size: int) -> None:
        self._ids: set[str] = set()
        self._order: deque[str] = deque(maxlen=size)
        self._lock = threading.Lock()

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def add(self, id: str) -> None:
        """Remember an id; the empty one, which stands for none, is not."""
        with self._lock:
            if not id or id in self._ids:
                return
            if len(self._order) == self._order.maxlen:
                self._ids.discard(self._order[0])
            self._order.append(id)
            self._ids.add(id)
