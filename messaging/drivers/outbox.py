"""Messages that a driver has taken but cannot write yet: their order, their deadlines, and what becomes of them when
the connection goes.

Every driver needs the same answers here, so they are given once. Pure: no I/O, no clock of its own (the time is passed
in), no thread. Everything costs O(1) per message, taken over many: deadlines are looked at one by one only when the
earliest of them has passed.
"""

from __future__ import annotations

import math
from collections import deque

from messaging.errors import ConnectionLost, DeadlineExceeded, Delivered
from messaging.message import Outgoing, SentResult, Stage

__all__ = ["Outbox", "expired", "in_doubt", "unwritten"]

_EXPIRY_STEP = 0.01
"""Seconds between two looks at all deadlines: with 10,000 messages that expire one by one, a look at each expiry would
be quadratic.
"""


def expired(outgoing: Outgoing) -> SentResult:
    """The news of a message whose deadline passed before it was written: it is not delivered."""
    return SentResult(
        outgoing,
        None,
        DeadlineExceeded("the deadline passed before the message was written", phase="send", delivered=Delivered.NO),
    )


def unwritten(outgoing: Outgoing, cause: BaseException | None) -> SentResult:
    """The news of a message that was not written when its connection went: it is not delivered, so it may be sent
    again.
    """
    error = ConnectionLost(f"the connection went before the message was written: {cause}", delivered=Delivered.NO)
    error.__cause__ = cause
    return SentResult(outgoing, None, error)


def in_doubt(outgoing: Outgoing, cause: BaseException | None) -> SentResult:
    """The news of a message that was written, but not taken as far as anybody knows, when its connection went."""
    error = ConnectionLost(f"the connection went before the message was confirmed: {cause}", delivered=Delivered.MAYBE)
    error.__cause__ = cause
    return SentResult(outgoing, outgoing.stage or Stage.WRITTEN, error)


class Outbox:
    """A queue of unwritten messages. Not thread-safe: it belongs to the connection's owner, or to whoever holds the
    lock.

    Where deadlines lie close together an expiry is told up to 10 ms late.

    `blocked` is raised when more than `high_count` messages or `high_bytes` bytes of bodies wait, and lowered when
    both are below half of that; the driver compares it before and after and tells BLOCKED and READY.
    """

    __slots__ = ("_bytes", "_high_bytes", "_high_count", "_news", "_waiting", "blocked", "next_expiry")

    def __init__(self, high_count: int = 10_000, high_bytes: int = 64 * 1024 * 1024) -> None:
        self._waiting: deque[Outgoing] = deque()
        self._bytes = 0
        self.next_expiry = math.inf
        """When `expire` is to be called next, on the clock of the deadlines; infinity: never. An attribute, because it
        is looked at several times per message.
        """
        self._high_count = high_count
        self._high_bytes = high_bytes
        self._news: list[SentResult] = []
        self.blocked = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes of bodies that wait; what was withdrawn counts until it is passed over."""
        return self._bytes

    def push(self, outgoing: Outgoing) -> None:
        """Append a message."""
        self._waiting.append(outgoing)
        self._bytes += len(outgoing.body)
        if outgoing.deadline and outgoing.deadline < self.next_expiry:
            self.next_expiry = outgoing.deadline
        if len(self._waiting) > self._high_count or self._bytes > self._high_bytes:
            self.blocked = True

    def unpop(self, outgoing: Outgoing) -> None:
        """Put back in front what `pop` returned and could not be written after all."""
        self._waiting.appendleft(outgoing)
        self._bytes += len(outgoing.body)
        if outgoing.deadline and outgoing.deadline < self.next_expiry:
            self.next_expiry = outgoing.deadline

    def pop(self, now: float) -> Outgoing | None:
        """Take the next message that is to be written at the time `now`; None: there is none.

        Withdrawn ones are passed over in silence, since their sender has already ended them; expired ones leave their
        news in `news`.
        """
        while self._waiting:
            outgoing = self._waiting.popleft()
            self._bytes -= len(outgoing.body)
            self._settle_down()
            if outgoing.withdrawn:
                continue
            if outgoing.deadline and outgoing.deadline <= now:
                self._news.append(expired(outgoing))
                continue
            return outgoing
        return None

    def expire(self, now: float) -> None:
        """Take out what has expired or was withdrawn by the time `now`; the news are in `news`."""
        if now < self.next_expiry:
            return
        waiting: deque[Outgoing] = deque()
        size = 0
        earliest = math.inf
        for outgoing in self._waiting:
            if outgoing.withdrawn:
                continue
            if outgoing.deadline and outgoing.deadline <= now:
                self._news.append(expired(outgoing))
                continue
            waiting.append(outgoing)
            size += len(outgoing.body)
            if outgoing.deadline and outgoing.deadline < earliest:
                earliest = outgoing.deadline
        self._waiting = waiting
        self._bytes = size
        self.next_expiry = max(earliest, now + _EXPIRY_STEP)
        self._settle_down()

    def news(self) -> list[SentResult]:
        """Take the news of messages that expired since the last call."""
        news, self._news = self._news, []
        return news

    def lose(self, cause: BaseException | None) -> list[SentResult]:
        """Empty the queue because the connection went, and return the news of everything in it: not delivered."""
        news = self.news()
        news += [unwritten(outgoing, cause) for outgoing in self._waiting if not outgoing.withdrawn]
        self._waiting.clear()
        self._bytes = 0
        self.next_expiry = math.inf
        self.blocked = False
        return news

    def _settle_down(self) -> None:
        if self.blocked and 2 * len(self._waiting) <= self._high_count and 2 * self._bytes <= self._high_bytes:
            self.blocked = False
        if not self._waiting:
            self.next_expiry = math.inf
