"""Operations that wait for their outcome, and who may end them.

An operation (a call, a cast, a notification) is registered before anything is sent and ended exactly once: whoever
takes it out of the table ends it, and taking it out is one step of the interpreter. So a reply, the deadline, a lost
connection, a cancellation and a close may come together from different threads, and one of them wins. Nothing here does
I/O, waits, or reads a clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from messaging.errors import DeadlineExceeded, Delivered, MessagingError, NoRoute, Overloaded, Rejected
from messaging.message import Outgoing, Stage, Token

__all__ = ["Operation", "Pending", "deadline_error", "outcome_of"]

# What was being waited for at the deadline, by the last proven stage.
_PHASES = {None: "send", Stage.WRITTEN: "accept", Stage.TAKEN: "reply"}
_REFUSALS = (NoRoute, Overloaded, Rejected)
"""What is said of a message, over a connection that there was."""


def deadline_error(
    what: str, timeout: float, stage: Stage | None, cause: BaseException | None = None
) -> DeadlineExceeded:
    """Build the error of an operation whose deadline passed, from the last stage that was proven."""
    refused = isinstance(cause, _REFUSALS)
    phase = "connect" if stage is None and cause is not None and not refused else _PHASES[stage]
    told = {
        "connect": f"no connection could be made: {cause}",
        "send": "it was not written, so no handler ran or will run" + (f"; refused before: {cause}" if refused else ""),
        "accept": "it was written, but nobody has said that it arrived",
        "reply": "a server has taken it, but has not answered",
    }[phase]
    error = DeadlineExceeded(
        f"{what} ended at its deadline of {timeout:g} s; {told}",
        phase=phase,
        delivered=Delivered.NO if stage is None else Delivered.MAYBE,
    )
    error.__cause__ = cause
    return error


_NO_MESSAGE: Any = None

_OUTCOMES: dict[str, str] = {
    "DeadlineExceeded": "expired",
    "NoRoute": "unroutable",
    "Cancelled": "cancelled",
    "Closed": "closed",
    "Forked": "closed",
}


def outcome_of(error: BaseException) -> str:
    """Name the counter (see counters.OUTCOMES) in which an operation that ended with this error belongs."""
    known = _OUTCOMES.get(type(error).__name__)
    if known is not None:
        return known
    if isinstance(error, MessagingError) and error.delivered is not Delivered.NO:
        return "replied" if error.delivered is Delivered.YES else "in_doubt"
    return "refused"


class Operation(Token, msgspec.Struct, eq=False, kw_only=True):
    """One operation under way. Subclasses say what its news mean.

    A msgspec struct, because one is made per operation and a struct with these fields is made in a third of the time.
    """

    id: str
    kind: str
    """The first part of the names of its counters."""
    timeout: float
    """Seconds, as the caller gave it."""
    deadline: float
    """On the connection's clock."""
    wake: Callable[[], object]
    """Called once, by whoever ended it, after the result is set."""
    outgoing: Outgoing = _NO_MESSAGE
    value: Any = None
    error: BaseException | None = None

    def expired(self) -> BaseException:
        """Take the message back, if it is not written yet, and build the error with which the deadline ends this
        operation.
        """
        # In this order: a driver marks a message as written first, and looks whether it was withdrawn after that.
        self.outgoing.withdrawn = True
        return deadline_error(f"{self.kind} {self.id}", self.timeout, self.outgoing.stage)

    def abandoned(self) -> None:
        """Nobody waits for it any more: tell whoever may be working on it, where that is possible."""

    def due(self, now: float) -> Sequence[Operation]:
        """What of it is to be ended now that its deadline has passed: itself, or of one that stands for many some, each
        an operation of its own from then on. That one's `deadline` is the next one's after this.
        """
        return (self,)

    def parts(self) -> Sequence[Operation]:
        """What ends where everything ends: itself, or of one that stands for many each, as an operation of its own."""
        return (self,)


class Pending:
    """The table of operations under way. `add`, `take` and `get` may be called from any thread, the rest by the
    connection's owner.
    """

    __slots__ = ("_new_deadlines", "_next_expiry", "_operations", "_soonest_new", "count", "get", "take")

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}
        self._next_expiry = math.inf
        self._new_deadlines: deque[float] = deque()
        self._soonest_new = math.inf
        self.take = self._operations.pop
        """`take(id, None)` removes and returns an operation; None: somebody else ends, or has ended, it."""
        self.get = self._operations.get
        self.count = self._operations.__len__
        """`len()` without a Python call."""

    def __len__(self) -> int:
        return len(self._operations)

    def add(self, operation: Operation) -> None:
        """Register an operation; do it before it can be answered. `overdue` reports it at its deadline.

        First into the table, then the look at what is noted; `overdue` does the reverse, so one of the two notices.
        Only a deadline before all that are noted is noted, or the list would grow until somebody asks for it; two
        threads at a time may note one more than they need, never one less.
        """
        self._operations[operation.id] = operation
        deadline = operation.deadline
        if deadline < self._soonest_new:
            self._soonest_new = deadline
            self._new_deadlines.append(deadline)

    def everything(self) -> list[Operation]:
        """A copy of what is under way."""
        return [part for operation in list(self._operations.values()) for part in operation.parts()]

    def next_expiry(self) -> float:
        """When `overdue` should be asked next. It may be early, never late: an operation that ends does not move it."""
        fresh = self._new_deadlines
        while fresh:
            deadline = fresh.popleft()
            if deadline < self._next_expiry:
                self._next_expiry = deadline
        return self._next_expiry

    def overdue(self, now: float) -> list[Operation]:
        """Return what has passed its deadline; the caller takes and ends each.

        A scan of everything, but a rare one: after it, the next is due when the oldest operation of now would expire,
        and by then nearly all have been answered. That costs nothing per operation, where a timer for each costs more
        than the rest of a call.
        """
        if now < self.next_expiry():
            return []
        self._next_expiry = self._soonest_new = math.inf
        due: list[Operation] = []
        soonest = math.inf
        for operation in list(self._operations.values()):
            if operation.deadline <= now:
                due += operation.due(now)
            if now < operation.deadline < soonest:
                soonest = operation.deadline
        self._next_expiry = soonest
        return due
