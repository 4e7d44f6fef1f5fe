"""Messages that cannot go yet, and why not: no connection, or nowhere for an answer to come.

A reactor asks `may_go` before it publishes and holds what may not. What is held expires by its own deadline, is
bounded, and is told the reason that the driver gave. No threads and no I/O here: everything is called by the
connection's owner, but for `may_go`, which only reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from messaging.deadline import Clock
from messaging.drivers.base import State
from messaging.drivers.outbox import Outbox
from messaging.errors import (
    Closed,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Delivered,
    NoRoute,
    Overloaded,
    TransportError,
)
from messaging.message import Outgoing, Token

__all__ = ["Holding", "answer", "tell_one", "tell_taken", "told_at_close"]

_log = logging.getLogger(__name__)

_MOST_MESSAGES = 100_000
"""How many messages may wait for a connection before `Overloaded`: a service that outlives its broker must not eat the
machine."""
_MOST_BYTES = 256 * 1024 * 1024
_token = attrgetter("token")


def answer(outgoing: Outgoing, error: Exception) -> None:
    """Tell the sender of a message that it ended here."""
    token = outgoing.token
    if token is not None:
        try:
            token.sent(outgoing, outgoing.stage, error, None)
        except Exception:
            _log.exception("the sender of a message failed on its news")


def tell_taken(outgoings: Sequence[Outgoing]) -> None:
    """Tell the senders of many messages that they are taken; neighbours of one sender together."""
    for token, run in groupby(outgoings, _token):
        if token is not None:
            try:
                token.all_taken(list(run))
            except Exception:
                _log.exception("the sender of a message failed on its news")


def tell_one(sender: Token, outgoings: Sequence[Outgoing]) -> list[Outgoing]:
    """Tell one sender that its messages are taken, and return those of others."""
    own = [outgoing for outgoing in outgoings if outgoing.token is sender]
    others = [outgoing for outgoing in outgoings if outgoing.token is not sender] if len(own) < len(outgoings) else []
    if own:
        sender.all_taken(own)
    return others


def told_at_close(error: Exception) -> Exception:
    """What the sender of a message hears when our own close has broken its connection, or taken its only server."""
    if not isinstance(error, ConnectionLost | NoRoute):
        return error
    closed = Closed("the transport was closed", delivered=error.delivered)
    closed.__cause__ = error
    return closed


class Holding:
    """What one connection cannot send yet."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._waiting = Outbox(_MOST_MESSAGES, _MOST_BYTES)
        self._state = State.CONNECTING
        self.ready = False
        self.reply_ready = False
        """Whether answers can reach this connection now."""
        self.cause: Exception | None = ConnectFailed(f"{name} has not answered yet")
        """Why the connection is not READY, as far as the driver has told."""
        self.fatal: Exception | None = None
        """Why it will never be again."""

    def __len__(self) -> int:
        return len(self._waiting)

    def may_go(self, outgoing: Outgoing) -> bool:
        """Whether a message may be published now; any thread."""
        return self.ready and (not outgoing.reply_to or self.reply_ready)

    def hold(self, outgoing: Outgoing) -> None:
        """Keep a message until it may go, or answer it at once where that will never be or too much waits already."""
        if self.fatal is not None:
            answer(outgoing, self.fatal)
        elif self._waiting.blocked:
            answer(outgoing, Overloaded(f"{len(self)} messages wait for a connection already; {self._why()}"))
        else:
            self._waiting.push(outgoing)

    def takes_back(self, outgoing: Outgoing, error: Exception) -> bool:
        """Whether a message came back unwritten because the connection went: then it counts as just posted."""
        return (
            not self.ready
            and self.fatal is None
            and not outgoing.withdrawn
            and isinstance(error, ConnectionLost | ConnectFailed)
            and error.delivered is Delivered.NO
        )

    def release(self) -> Iterator[Outgoing]:
        """Take out everything, for another try; what may still not go is held again."""
        waiting, self._waiting = self._waiting, Outbox(_MOST_MESSAGES, _MOST_BYTES)
        now = self._clock()
        while (outgoing := waiting.pop(now)) is not None:
            yield outgoing
        self._tell_expired(waiting)

    def state_changed(self, state: State, cause: Exception | None) -> None:
        """Follow the state of the connection."""
        self._state = state
        self.ready = state is State.READY
        if self.ready:
            self.cause = None
        elif cause is not None:
            self.cause = cause
        if state is State.LOST:
            self.reply_ready = False

    def gone(self) -> Exception:
        """A new error for whoever comes after the end: an error object belongs to one raiser."""
        if self.fatal is None or isinstance(self.fatal, Closed):
            return Closed("the transport was closed")
        error = TransportError(str(self.fatal), delivered=Delivered.NO, retryable=False)
        error.__cause__ = self.fatal
        return error

    def give_up(self, error: Exception) -> None:
        """Nothing will ever go again: answer everything with an error."""
        self.ready = self.reply_ready = False
        if self.fatal is None:
            self.fatal = error
        for outgoing, *_ in self._waiting.lose(error):
            answer(outgoing, error)

    @property
    def next_expiry(self) -> float:
        """When `expire` is to be called next."""
        return self._waiting.next_expiry

    def expire(self, now: float) -> None:
        """Answer what has waited past its deadline."""
        if now >= self._waiting.next_expiry:
            self._waiting.expire(now)
            self._tell_expired(self._waiting)

    def _tell_expired(self, held: Outbox) -> None:
        for outgoing, *_ in held.news():
            error = DeadlineExceeded(
                f"no connection within the deadline; {self._why()}", phase="connect", delivered=Delivered.NO
            )
            error.__cause__ = self.cause
            answer(outgoing, error)

    def _why(self) -> str:
        told = f": {self.cause}" if self.cause is not None else ""
        return f"the connection {self._name} is {self._state.value}{told}"
