"""What a connection has to send: from the outbox into round trips, and what became of it."""

from __future__ import annotations

from collections.abc import Callable

from messaging.drivers.kombu.messages import written
from messaging.drivers.kombu.session import Parcel, Session
from messaging.drivers.outbox import Outbox, expired, in_doubt
from messaging.errors import EncodeError, MessagingError, TooLarge
from messaging.message import Outgoing, SentResult, Stage

__all__ = ["Sender"]

_BATCH = 200
_BATCH_BYTES = 1024 * 1024
"""Messages, and bytes of bodies, that are written in one round trip."""


class Sender:
    """The messages of one connection that are on their way out. `address`: where its answers go."""

    def __init__(self, address: str, max_body: int, clock: Callable[[], float]) -> None:
        self.outbox = Outbox()
        self._in_flight: list[Outgoing] = []
        """Written in the round trip that is under way."""
        self._news: list[SentResult] = []
        self._address = address
        self._max_body = max_body
        self._clock = clock

    def news(self) -> list[SentResult]:
        """Take what became of messages since the last call."""
        news, self._news = self._news, []
        return news

    def flush(self, session: Session) -> None:
        """Write what waits, at most one batch. Raises what the session raises."""
        now = self._clock()
        results = self._news
        flying: list[Outgoing] = []
        self._in_flight = flying
        parcels: list[Parcel] = []
        size = 0
        while len(parcels) < _BATCH and size < _BATCH_BYTES and (outgoing := self.outbox.pop(now)) is not None:
            # The stage first, then the look at `withdrawn`: its sender does it the other way round.
            outgoing.stage = Stage.WRITTEN
            if outgoing.withdrawn:
                continue
            parcel = self._parcel(outgoing, now)
            if isinstance(parcel, SentResult):
                outgoing.stage = None
                results.append(parcel)
                continue
            size += len(parcel.message.body)
            parcels.append(parcel)
            flying.append(outgoing)
        results += self.outbox.news()
        if parcels:
            answers = session.publish(parcels, now)
            for outgoing, error in zip(flying, answers, strict=True):
                if error is not None:
                    results.append(SentResult(outgoing, outgoing.stage, error))
                elif outgoing.confirm:
                    outgoing.stage = Stage.TAKEN
                    results.append(SentResult(outgoing, Stage.TAKEN))
            self._in_flight = []

    def _parcel(self, outgoing: Outgoing, now: float) -> Parcel | SentResult:
        remaining = outgoing.deadline - now if outgoing.deadline else None
        if remaining is not None and remaining <= 0.0:
            return expired(outgoing)
        budget = remaining if outgoing.budget else None
        reply_to = self._address if outgoing.reply_to else ""
        try:
            body = outgoing.body if outgoing.encode is None else outgoing.encode(reply_to, budget)
            if len(body) > self._max_body:
                raise TooLarge(f"the message has {len(body)} bytes, {self._max_body} are allowed (option max_body)")
            message = written(outgoing, bytes(body), reply_to, budget, self._address)
        except MessagingError as error:
            return SentResult(outgoing, None, error)
        except Exception as error:
            # The sender's own `encode`, or a header that cannot be written.
            refusal = EncodeError(f"the message cannot be encoded: {error}")
            refusal.__cause__ = error
            return SentResult(outgoing, None, refusal)
        return Parcel(outgoing.route, message, outgoing.store)

    def lose(self, cause: Exception) -> None:
        """The connection went: what waits is not delivered, what was being written is in doubt.

        A call that was being written may still be answered, at an address that is the same afterwards.
        """
        self._news += [in_doubt(outgoing, cause) for outgoing in self._in_flight if outgoing.confirm]
        self._news += self.outbox.lose(cause)
        self._in_flight = []
