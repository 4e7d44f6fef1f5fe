"""How an AsyncioConnection sends: one coroutine of the session per message, a bounded number at a time, and news of
each exactly once.

It keeps what is not written, what is being sent, and what waits for an answer; it knows neither states nor
subscriptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

from messaging.deadline import Clock
from messaging.drivers.asyncio_session import AsyncioSession
from messaging.drivers.outbox import Outbox, expired, in_doubt, unwritten
from messaging.drivers.unended import Unended
from messaging.errors import (
    ConnectFailed,
    ConnectionLost,
    Delivered,
    EncodeError,
    MessagingError,
    ServerLost,
    TransportError,
)
from messaging.message import Outgoing, SentResult, Stage

__all__ = ["Sender", "as_ours", "is_loss"]


class Sender:
    """The messages of one connection. `tell` takes news, `start` runs a coroutine for as long as the session lives,
    `broke` ends it.
    """

    def __init__(
        self,
        tell: Callable[[SentResult], None],
        start: Callable[[Coroutine[Any, Any, None]], object],
        broke: Callable[[BaseException], None],
        clock: Clock,
        in_flight: int,
    ) -> None:
        self.reply_address = ""
        self._tell = tell
        self._start = start
        self._broke = broke
        self._clock = clock
        self._in_flight = in_flight
        self._outbox = Outbox()
        self._session: AsyncioSession | None = None
        self._sending: set[Outgoing] = set()
        self._unanswered = Unended()
        """Written, with an answer to come."""

    @property
    def blocked(self) -> bool:
        """Whether too much waits."""
        return self._outbox.blocked

    @property
    def next_expiry(self) -> float:
        """When `expire` is to be called next."""
        return self._outbox.next_expiry

    def publish(self, outgoing: Outgoing) -> None:
        """Send a message when it is its turn."""
        self._outbox.push(outgoing)
        self._send_more()

    def begin(self, session: AsyncioSession) -> None:
        """Send by this session from now on."""
        self._session = session

    def end(self) -> None:
        """Send nothing more until the next `begin`."""
        self._session = None
        self.reply_address = ""

    def expire(self) -> None:
        """Tell what has waited past its deadline."""
        if self._outbox.next_expiry < math.inf:
            self._outbox.expire(self._clock())
        for result in self._outbox.news():
            self._tell(result)

    def lose(self, cause: Exception, answers_may_come: bool) -> None:
        """Tell the news of everything that the end of a session has left open."""
        for result in self._outbox.lose(cause):
            self._tell(result)
        for outgoing in self._sending:
            # A coroutine that has not begun has written nothing.
            self._tell(unwritten(outgoing, cause) if outgoing.stage is None else in_doubt(outgoing, cause))
        if not answers_may_come:
            for outgoing in self._unanswered:
                if outgoing not in self._sending:
                    self._tell(in_doubt(outgoing, cause))
            self._unanswered.clear()
        self._sending.clear()

    def _send_more(self) -> None:
        while self._session is not None and len(self._sending) < self._in_flight:
            outgoing = self._outbox.pop(self._clock())
            if outgoing is None:
                break
            self._sending.add(outgoing)
            self._start(self._send(self._session, outgoing))
        self.expire()

    async def _send(self, session: AsyncioSession, outgoing: Outgoing) -> None:
        try:
            result = await self._written(session, outgoing)
        except Exception as error:
            if is_loss(error):
                # Its news are told with those of all others, after LOST.
                self._broke(error)
                return
            self._unanswered.discard(outgoing)
            result = SentResult(outgoing, outgoing.stage, as_ours(error))
        if self._session is session:
            self._sending.discard(outgoing)
            if result is not None:
                self._tell(result)
            self._send_more()

    async def _written(self, session: AsyncioSession, outgoing: Outgoing) -> SentResult | None:
        """Send one message; returns its news, or None where nobody is to be told."""
        # The stage first, then the look at `withdrawn`: its sender does it the other way round.
        outgoing.stage = Stage.WRITTEN
        if outgoing.withdrawn:
            return None
        remaining = None
        if outgoing.deadline:
            remaining = outgoing.deadline - self._clock()
            if remaining <= 0.0:
                outgoing.stage = None
                return expired(outgoing)
        reply_to = self.reply_address if outgoing.reply_to else ""
        budget = remaining if outgoing.budget else None
        try:
            body = outgoing.body if outgoing.encode is None else outgoing.encode(reply_to, budget)
        except Exception as error:
            outgoing.stage = None
            raise EncodeError(f"the message cannot be encoded: {error}") from error
        if reply_to:
            self._unanswered.add(outgoing)
        taker = await session.send(outgoing, body, reply_to, budget)
        if not outgoing.confirm:
            return None
        outgoing.stage = Stage.TAKEN
        return SentResult(outgoing, Stage.TAKEN, None, taker)


def is_loss(error: BaseException) -> bool:
    """Whether an error means that the connection is gone, and not one message or one subscription."""
    if isinstance(error, MessagingError):
        return isinstance(error, ConnectionLost | ConnectFailed) and not isinstance(error, ServerLost)
    return isinstance(error, OSError | EOFError)


def as_ours(error: BaseException) -> Exception:
    """Translate what a session raised."""
    if isinstance(error, MessagingError):
        return error
    failure = TransportError(f"the driver failed: {type(error).__name__}: {error}", delivered=Delivered.MAYBE)
    failure.__cause__ = error
    return failure
