"""One notification under way to one topic: when it is done, and when it is sent again.

Where the transport has storage, a notification whose confirmation was lost is sent again, within the deadline and with
the same message id: at least once. Where it has none, nobody keeps what a listener has taken, so only what is proven
not delivered goes again. It knows nothing of payloads; the bodies come encoded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

from messaging.backoff import Backoff
from messaging.errors import Delivered, MessagingError, NoRoute
from messaging.message import Outgoing, Stage
from messaging.operations import Operations
from messaging.pending import Operation, deadline_error

__all__ = ["KIND", "NotifySession", "Sending"]

_WRITTEN = Stage.WRITTEN
KIND = "notify"
"""The name of this kind of operation in the counters."""


class Sending(Operation, kw_only=True):
    """A notification on its way to one topic."""

    session: NotifySession
    topic: str
    retry: int | None
    attempts: int = 0
    backoff: Backoff | None = None
    doubt: Exception | None = None
    """Why an earlier attempt may have been stored, though nobody has said so."""
    errors: ClassVar[Sequence[Exception]] = ()
    """A notification to one topic is its only Sending, and has no other sinks; see base_notifier.Sent."""

    @property
    def sendings(self) -> Sequence[Sending]:
        """See base_notifier.Sent."""
        return (self,)

    @property
    def ended(self) -> bool:
        """Whether the outcome is there."""
        return self.value is not None or self.error is not None

    @property
    def taken(self) -> bool:
        """Whether it is known to have gone everywhere."""
        return self.value is not None

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: object) -> None:
        """Take the news of the message; on the owner."""
        if outgoing is not self.outgoing:
            return
        if error is None:
            if stage is _WRITTEN and self.session.reactor.capabilities.confirms:
                return
            session = self.session
            if session.take(self.id, None) is self:
                self.value = True
                outgoing.token = None
                session.taken()
                self.wake()
        elif not self._again(error):
            self.session.operations.end(self, self._judged(error))

    def expired(self) -> BaseException:
        """See Operation; where an attempt was in doubt, the whole is."""
        self.outgoing.withdrawn = True
        cause = self.doubt
        if cause is None and self.outgoing.stage is None:
            cause = self.session.operations.reactor.holding.cause
        stage = Stage.WRITTEN if self.doubt is not None else self.outgoing.stage
        return deadline_error(f"notification {self.id} to {self.topic}", self.timeout, stage, cause)

    def _judged(self, error: Exception) -> Exception:
        if self.doubt is not None and isinstance(error, MessagingError) and error.delivered is Delivered.NO:
            # One error object may end many operations, and the others' may be certain.
            error = copy.copy(error)
            error.delivered = Delivered.MAYBE
            error.__cause__ = self.doubt
        return error

    def _again(self, error: Exception) -> bool:
        """Whether, and when, the message may be sent once more."""
        if not isinstance(error, MessagingError) or not error.retryable:
            return False
        reactor = self.session.operations.reactor
        if self.retry is not None and self.attempts >= self.retry:
            return False
        if error.delivered is Delivered.NO:
            if self.retry is None and isinstance(error, NoRoute):
                return False
        elif error.delivered is not Delivered.MAYBE or not reactor.capabilities.storage:
            return False
        if self.backoff is None:
            self.backoff = Backoff(initial=0.02, maximum=0.5)
        delay = self.backoff.next()
        if reactor.finished or reactor.clock() + delay >= self.deadline:
            return False
        if error.delivered is Delivered.MAYBE:
            self.doubt = error
        self.attempts += 1
        reactor.call_later(delay, self._send_again)
        return True

    def _send_again(self) -> None:
        operations = self.session.operations
        if operations.pending.get(self.id) is not self:
            return
        before = self.outgoing
        self.outgoing = Outgoing(
            before.route,
            before.body,
            before.headers,
            self,
            key=before.key,
            deadline=before.deadline,
            encode=before.encode,
        )
        before.token = None
        operations.reactor.publish(self.outgoing)


class NotifySession:
    """The notifications of one connection. Attach it with `Operations.attach`."""

    __slots__ = ("clock", "encode", "next_id", "operations", "reactor", "sent", "take", "taken", "taken_many")

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.reactor = operations.reactor
        self.clock = operations.reactor.clock
        self.encode = operations.wire.encode_notification
        self.next_id = operations.next_id
        self.take = operations.pending.take
        self.sent = operations.counters.tally(f"{KIND}.sent").add
        taken = operations.counters.tally(f"{KIND}.taken")
        self.taken, self.taken_many = taken.add, taken.add_many

    def start(self, sending: Sending, outgoing: Outgoing) -> None:
        """Register and send; any thread. The owner looks at its deadline."""
        sending.outgoing = outgoing
        self.sent()
        self.operations.pending.add(sending)
        try:
            self.reactor.publish(outgoing)
        except MessagingError as error:
            self.operations.end(sending, error)

    def abandon(self, sending: Sending, error: BaseException) -> bool:
        """End a notification that its caller gives up, from any thread. False: it had ended already, and has its
        result.
        """
        sending.outgoing.withdrawn = True
        return self.operations.end(sending, error)
