"""How far a consumer has got in one assignment of one partition, and what of it may be committed. Pure.

A commit says "everything before this is done", so it may never pass a message that is not: whatever the order in which
handlers end, the position is that of the first unsettled message. Beside the position a commit carries a note of how
far messages were handed out, so that whoever reads the partition next can say which of them were handed out before.
"""

from __future__ import annotations

from messaging.message import Delivery

__all__ = ["Partition", "parse_note"]

_NOTE = "handed-out:"


def parse_note(text: str | None) -> int:
    """The offset before which messages were handed out already, from the note of a commit; 0: not known."""
    if text and text.startswith(_NOTE) and (digits := text[len(_NOTE) :]).isdecimal() and len(digits) < 20:
        return int(digits)
    return 0


class Partition:
    """One assignment of a partition: from when it was assigned until it is revoked or lost.

    `outstanding`: what was read and is not settled, by offset, in order. `next`: the offset after the last one that was
    read; -1 until something was.
    """

    __slots__ = (
        "again_before",
        "committed",
        "committing",
        "generation",
        "is_retry",
        "level",
        "next",
        "number",
        "outstanding",
        "returned",
        "settled",
        "topic",
    )

    def __init__(
        self, topic: str, number: int, generation: int, *, is_retry: bool = False, level: str | None = None
    ) -> None:
        self.topic = topic
        self.number = number
        self.generation = generation
        self.is_retry = is_retry
        self.level = level
        self.next = -1
        self.outstanding: dict[int, Delivery] = {}
        self.again_before: int | None = None
        """Messages before this offset were handed out to somebody before; None until that was asked."""
        self.settled: list[Delivery] = []
        """Settled since the last commit was written."""
        self.committing: list[Delivery] = []
        """Covered by the commit that is under way."""
        self.committed: tuple[int, int] = (-1, -1)
        """Position and note of the last commit that was written."""
        self.returned: list[int] = []
        """Offsets that were handed back when the subscription ended; they are still outstanding."""

    def position(self) -> int:
        """What a commit would say: the first offset that is not done; -1: nothing was read."""
        # One look per commit: the walk over what was deleted in front of the first entry is short then.
        return next(iter(self.outstanding), self.next)

    def pending_commit(self) -> tuple[int, str] | None:
        """Position and note to commit now, or None when the last one says it all; call `written` when it was sent."""
        if self.next < 0 or (self.position(), self.next) == self.committed:
            return None
        return self.position(), f"{_NOTE}{self.next}"

    def written(self) -> None:
        """A commit with what `pending_commit` said is under way."""
        position = self.position()
        self.committed = (position, self.next)
        if not self.outstanding:
            self.committing += self.settled
            self.settled = []
            return
        self.committing += [delivery for delivery in self.settled if delivery.tag[1] < position]
        self.settled = [delivery for delivery in self.settled if delivery.tag[1] >= position]

    def acknowledged(self) -> list[Delivery]:
        """The commit has arrived: return what it covers."""
        covered, self.committing = self.committing, []
        return covered

    def refused(self) -> None:
        """The commit has failed: what it covered waits for the next one."""
        self.settled = self.committing + self.settled
        self.committing = []
        self.committed = (-1, -1)

    def holes(self) -> list[Delivery]:
        """What was handed back though something after it is done: without a copy, all of that would come again."""
        back = set(self.returned)
        done_up_to = self.next
        for offset in reversed(self.outstanding):
            if offset != done_up_to - 1:
                break
            done_up_to = offset
        return [self.outstanding[offset] for offset in self.outstanding if offset in back and offset < done_up_to]

    def end(self) -> list[Delivery]:
        """The assignment is over: mark everything unsettled as stale, and return it."""
        left = list(self.outstanding.values())
        for delivery in left:
            delivery.stale = True
        self.outstanding.clear()
        return left
