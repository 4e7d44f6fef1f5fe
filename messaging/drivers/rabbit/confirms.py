"""Which messages a broker has confirmed, refused or returned: tags and ids in, their messages out.

Pure. RabbitMQ confirms out of order (13 % of the frames in a measurement were smaller than one before) and often many
at a time, so the tags are keys of a dict; and it returns what no queue took *before* it confirms it (5,000 of 5,000),
with nothing to find it by but its properties, so returns are matched by message id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from messaging.drivers.sweep import Sweep

__all__ = ["Confirmed", "Confirms", "Unconfirmed"]

T = TypeVar("T")


class Confirmed(NamedTuple, Generic[T]):
    """The last word on one message. `returned`: the broker's text when no queue took it, else None."""

    item: T
    positive: bool
    returned: str | None


class Confirms(Generic[T]):
    """The messages of one channel in confirm mode that are under way."""

    __slots__ = ("_by_id", "_count", "_returned", "_waiting")

    def __init__(self) -> None:
        self._count = 0
        self._waiting: dict[int, tuple[T, str]] = {}
        self._by_id: dict[str, int] = {}
        self._returned: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def written(self, item: T, message_id: str) -> None:
        """Note a message that is written now; the broker counts them from 1."""
        self._count = tag = self._count + 1
        self._waiting[tag] = (item, message_id)
        self._by_id[message_id] = tag

    def returned(self, message_id: str, text: str) -> bool:
        """Note that a message came back; returns whether it was under way. Its confirmation is still to come."""
        tag = self._by_id.get(message_id)
        if tag is None:
            return False
        self._returned[tag] = text
        return True

    def confirmed(self, tag: int, multiple: bool, positive: bool) -> list[Confirmed[T]]:
        """Take out what a confirmation is about, oldest first."""
        waiting = self._waiting
        if not multiple:
            found = waiting.pop(tag, None)
            return [self._told(tag, found, positive)] if found is not None else []
        tags = []
        # Tags were put in ascending, so what is meant stands in front; 0 means all.
        for other in waiting:
            if tag and other > tag:
                break
            tags.append(other)
        return [self._told(other, waiting.pop(other), positive) for other in tags]

    def _told(self, tag: int, found: tuple[T, str], positive: bool) -> Confirmed[T]:
        item, message_id = found
        if self._by_id.get(message_id) == tag:
            del self._by_id[message_id]
        return Confirmed(item, positive, self._returned.pop(tag, None) if self._returned else None)

    def lose(self) -> list[T]:
        """Forget everything, because the channel is gone; returns what was under way."""
        lost = [item for item, _ in self._waiting.values()]
        self.__init__()  # type: ignore[misc]
        return lost


class Unconfirmed(Generic[T]):
    """Messages that nobody confirms and that may still come back, or close their channel: found by their ids.

    Nothing says when one of them is over, so whoever is `finished` is forgotten from time to time. Not the newest: the
    broker has not seen them yet.
    """

    __slots__ = ("_by_id", "_finished", "_sweep")

    def __init__(self, finished: Callable[[T], bool]) -> None:
        self._by_id: dict[str, T] = {}
        self._finished = finished
        self._sweep = Sweep(_SWEEP)

    def __len__(self) -> int:
        return len(self._by_id)

    def written(self, item: T, message_id: str) -> None:
        """Note a message that is written now."""
        self._by_id[message_id] = item
        if self._sweep.is_due(len(self._by_id)):
            older = len(self._by_id) - _NEWEST
            self._by_id = {
                key: kept
                for place, (key, kept) in enumerate(self._by_id.items())
                if place >= older or not self._finished(kept)
            }
            self._sweep.done(len(self._by_id))

    def returned(self, message_id: str) -> T | None:
        """Take out a message that came back."""
        return self._by_id.pop(message_id, None)

    def lose(self) -> list[T]:
        """Forget everything; returns it in the order in which it was written, with some that is finished."""
        lost, self._by_id = self._by_id, {}
        self._sweep = Sweep(_SWEEP)
        return list(lost.values())


_SWEEP = 1024
_NEWEST = 256
