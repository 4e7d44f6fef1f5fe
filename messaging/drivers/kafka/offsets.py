"""How far a consumer has got in the partitions that it was assigned, and what of it may be committed. Pure.

A commit says "everything before this is done", so it may never pass a message that is not: whatever the order in which
handlers end, the position is that of the first unsettled message. Beside the position a commit carries a note of how
far messages were handed out, so that whoever reads the partition next can say which of them were handed out before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from messaging.message import Delivery, Source

__all__ = ["Assignment", "Partition", "Tag", "parse_note"]

_NOTE = "handed-out:"


def parse_note(text: str | None) -> int:
    """The offset before which messages were handed out already, from the note of a commit; 0: not known."""
    if text and text.startswith(_NOTE) and (digits := text[len(_NOTE) :]).isdecimal() and len(digits) < 20:
        return int(digits)
    return 0


class Partition:
    """One assignment of a partition: from when it was assigned until it is revoked or lost.

    `source`: whose messages are in it; None for those of a retry topic, which say it themselves. `owner`: who settles
    them. `outstanding`: what was read and is not settled, by offset, in order. `next`: the offset after the last one
    that was read; -1 until something was. `in_order`: all of it is handled one after the other, in its lane.
    """

    __slots__ = (
        "_committed",
        "_committing",
        "again_before",
        "generation",
        "lane",
        "next",
        "number",
        "outstanding",
        "owner",
        "returned",
        "settled",
        "source",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        number: int,
        generation: int = 0,
        source: Source | None = None,
        owner: Any = None,
        *,
        in_order: bool = False,
    ) -> None:
        self.topic = topic
        self.number = number
        self.generation = generation
        self.source = source
        self.owner = owner
        self.lane = f"{topic}/{number}" if in_order and source is not None else ""
        self.next = -1
        self.outstanding: dict[int, Delivery] = {}
        self.again_before = 0
        """Messages before this offset were handed out to somebody before."""
        self.settled: list[Delivery] = []
        """Settled while somebody waited to hear of it, and covered by no commit yet."""
        self.returned: set[int] = set()
        """Offsets that were handed back and are still outstanding: whoever reads the partition next gets them."""
        self._committing: list[Delivery] = []
        self._committed = (-1, -1)

    def position(self) -> int:
        """What a commit would say: the first offset that is not done; -1: nothing was read."""
        # One look per commit: the walk over what was deleted in front of the first entry is short then.
        return next(iter(self.outstanding), self.next)

    def pending_commit(self) -> tuple[int, str] | None:
        """Position and note to commit now, or None when the last one says it all; call `written` when it was sent."""
        if self.next < 0 or (self.position(), self.next) == self._committed:
            return None
        return self.position(), f"{_NOTE}{self.next}"

    def written(self) -> None:
        """A commit with what `pending_commit` said is under way."""
        position = self.position()
        self._committed = (position, self.next)
        if not self.outstanding:
            self._committing += self.settled
            self.settled = []
            return
        self._committing += [delivery for delivery in self.settled if delivery.tag.offset < position]
        self.settled = [delivery for delivery in self.settled if delivery.tag.offset >= position]

    def acknowledged(self) -> list[Delivery]:
        """The commit has arrived: return what it covers."""
        covered, self._committing = self._committing, []
        return covered

    def refused(self) -> None:
        """The commit has failed: what it covered waits for the next one."""
        self.settled = self._committing + self.settled
        self._committing = []
        self._committed = (-1, -1)

    def holes(self) -> list[Delivery]:
        """What was handed back though something after it is done: without a copy, all of that would come again."""
        tail = self.next
        for offset in reversed(self.outstanding):
            if offset != tail - 1:
                break
            tail = offset
        return [self.outstanding[offset] for offset in sorted(self.returned) if offset < tail]

    def end(self) -> list[Delivery]:
        """The assignment is over: mark everything unsettled as stale; return what was settled and not committed."""
        for delivery in self.outstanding.values():
            delivery.stale = True
        self.outstanding.clear()
        self.returned.clear()
        uncommitted = self._committing + self.settled
        self._committing, self.settled = [], []
        return uncommitted


class Tag(msgspec.Struct, frozen=True, gc=False):
    """What a delivery is to this driver: message number `offset` of its partition, with the key that it came with.

    `origin`: where it was first read; empty: here. Not for the garbage collector: a partition that ends forgets what
    is outstanding, and so breaks the circle.
    """

    partition: Partition
    offset: int
    key: Any
    origin: str


class Assignment:
    """The partitions that one consumer has now. `unsettled`: how many of their messages are with handlers; `size`: the
    bytes of those.
    """

    __slots__ = ("_partitions", "get", "size", "unsettled")

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], Partition] = {}
        self.get = self._partitions.get
        self.unsettled = self.size = 0

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._partitions.values())

    def __len__(self) -> int:
        return len(self._partitions)

    def add(self, partition: Partition) -> None:
        """One more."""
        self._partitions[partition.topic, partition.number] = partition

    def take(self, places: Iterable[tuple[str, int]]) -> list[Partition]:
        """Take out those that are there; `end` them when that is told."""
        return [found for place in places if (found := self._partitions.pop(place, None)) is not None]

    def take_all(self) -> list[Partition]:
        """Take out every one."""
        return self.take(list(self._partitions))

    def recount(self, waiting: Iterable[Delivery]) -> None:
        """Count what is with handlers anew, after partitions have gone; `waiting` is not."""
        waits = [len(delivery.body) for delivery in waiting]
        sizes = [len(delivery.body) for partition in self for delivery in partition.outstanding.values()]
        self.unsettled = len(sizes) - len(waits)
        self.size = sum(sizes) - sum(waits)
