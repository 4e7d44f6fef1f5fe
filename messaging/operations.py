"""The operations under way on one connection: their ids, their deadlines, their counts, and their end when the
connection ends.

It stands between a reactor, which knows no operations, and the patterns, which know no threads. A pattern registers an
operation, publishes its message, and gets it back ended; what a reply means is the pattern's business.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from messaging.counters import Counters
from messaging.errors import Closed, Delivered, Forked
from messaging.pending import Operation, Pending, outcome_of
from messaging.reactor import Reactor
from messaging.wire.base import Wire
from messaging.wire.native import NativeWire

__all__ = ["Operations"]

T = TypeVar("T")


class Operations:
    """What is under way on one reactor. Thread-safe, but for the methods that say otherwise."""

    def __init__(self, reactor: Reactor, counters: Counters, wire: Wire | None = None) -> None:
        self.reactor = reactor
        self.counters = counters
        self.wire: Wire = NativeWire() if wire is None else wire
        """How messages become bytes here."""
        self.pending = Pending()
        self._prefix = os.urandom(8).hex()
        self._ids = itertools.count(1).__next__
        self._attached: dict[type[Any], Any] = {}
        reactor.outstanding = self.pending.count
        reactor.timers.hooks.append(self._turn)
        reactor.on_change.append(self._reactor_changed)

    def next_id(self) -> str:
        """Return a message id that no other connection uses: a random prefix and a number (a uuid for each costs
        twenty times as much, and hexadecimal digits twice).
        """
        return f"{self._prefix}{self._ids()}"

    def attach(self, kind: type[T], make: Callable[[Operations], T]) -> T:
        """Return the one object of a kind that goes with this connection, made at the first request."""
        found: T | None = self._attached.get(kind)
        # setdefault decides between two threads that both made one; making one has no effect that shows before it is
        # used.
        return found if found is not None else cast("T", self._attached.setdefault(kind, make(self)))

    def end(self, operation: Operation, error: BaseException) -> bool:
        """End an operation with an error, unless it has ended; True when this call ended it."""
        if self.pending.take(operation.id, None) is None:
            return False
        operation.error = error
        operation.outgoing.token = None
        self.counters.add(f"{operation.kind}.{outcome_of(error)}")
        operation.wake()
        return True

    def forked(self) -> None:
        """In a child process: what the parent's threads would have ended, ends here and now."""
        for operation in self.pending.everything():
            self.end(operation, Forked("this operation belongs to the parent process; only the parent gets its answer"))

    def _turn(self, now: float) -> float:
        overdue = self.pending.overdue(now)
        for operation in overdue:
            operation.outgoing.withdrawn = True
            if self.end(operation, operation.expired()):
                operation.abandoned()
        # At once again after some have ended: what their servers are told of it has still to be written.
        return now if overdue else self.pending.next_expiry()

    def _reactor_changed(self) -> None:
        if self.reactor.finished:
            for operation in self.pending.everything():
                operation.outgoing.withdrawn = True
                # What was written may run, and may have run.
                known = Delivered.NO if operation.outgoing.stage is None else Delivered.MAYBE
                self.end(operation, Closed("the transport was closed", delivered=known))
            self.reactor.timers.hooks.clear()
