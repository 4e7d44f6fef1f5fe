"""One connection's calls: which reply belongs to which call, and what the news of a message mean for it.

Registered before sent, ended once, by whoever takes the call out of the table. Everything here runs on the connection's
owner, but for `start` and `abandon`. It knows nothing of endpoints and arguments; bodies stay encoded until the
caller's own thread decodes them.
"""

from __future__ import annotations

import copy
import functools
import logging
from _thread import LockType
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from messaging.backoff import Backoff
from messaging.errors import DecodeError, Delivered, MessagingError, NoRoute, ServerLost
from messaging.message import CORRELATION_ID, MESSAGE_ID, Delivery, Outgoing, Route, Source, Stage
from messaging.operations import Operations
from messaging.pending import Operation, deadline_error
from messaging.target import Target
from messaging.wire.base import Opener
from messaging.wire.native import Kind

__all__ = ["Call", "CallPolicy", "Cast", "Fanout", "RpcSession"]

_log = logging.getLogger(__name__)
_ANSWERS = (int(Kind.RESULT), int(Kind.FAILURE))

REPLY_WINDOW = 100_000
"""Replies are never held back: each belongs to a call that this process made, so their number is bounded by its own
doing."""
_WATCH_EVERY = 0.5
_LATE = 0.5
"""Seconds by which a look at the signs of life may be late before this side's own pause is taken for the reason."""
CANCEL_LIFE = 5.0
"""Seconds for which telling a server of a cancel is worth trying."""


class Fanout(NamedTuple):
    """To how many servers a fanout went; None where the transport cannot know."""

    sent: int | None
    failed: int | None


class CallPolicy(NamedTuple):
    """What may be repeated: worked out once per prepared client."""

    retry: int | None = None
    """How often; None: as often as the deadline allows (but NoRoute only with wait_for_ready)."""
    idempotent: bool = False
    wait_for_ready: bool = False
    silence: float = 3.0
    """Seconds without a sign of life after which a server that has the call counts as lost; 0: never."""


class ControlHandler(Protocol):
    """What a server on the same connection wants to hear of."""

    def cancelled(self, ids: Sequence[str]) -> None:
        """Nobody waits for these calls any more."""


class Request(Operation, kw_only=True):
    """What a call, a cast and a fanout have in common: being sent, and sent again where that is safe."""

    session: RpcSession
    method: str
    target: Target
    policy: CallPolicy
    attempts: int = 0
    backoff: Backoff | None = None
    trouble: MessagingError | None = None
    """Why it was sent again the last time."""
    doubt: MessagingError | None = None
    """Why an earlier attempt may have run, though this one has not."""

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        """Take the news of the message; on the owner."""
        if outgoing is not self.outgoing:
            return
        if error is None:
            self.progressed(stage, taker)
        elif not self._again(error):
            self.session.operations.end(self, self._judged(error))

    def expired(self) -> BaseException:
        """See Operation; from the last proven stage of any attempt."""
        self.outgoing.withdrawn = True
        stage = self.outgoing.stage
        cause: Exception | None = None
        if stage is None:
            if self.doubt is not None:
                stage, cause = Stage.WRITTEN, self.doubt
            else:
                cause = self.session.operations.reactor.holding.cause or self.trouble
        return deadline_error(f"{self.kind} {self.method} to {self.target!r}", self.timeout, stage, cause)

    def _judged(self, error: Exception) -> Exception:
        """What an error says of the whole: where an earlier attempt is in doubt, the last one's NO is not the truth."""
        if self.doubt is not None and isinstance(error, MessagingError) and error.delivered is Delivered.NO:
            # One object may be the error of many operations, and the others may be certain.
            error = copy.copy(error)
            error.delivered = Delivered.MAYBE
            error.__cause__ = self.doubt
        return error

    def progressed(self, stage: Stage | None, taker: Any) -> None:
        """The message is on its way, or taken."""

    def _again(self, error: Exception) -> bool:
        """Whether, and when, the message may be sent once more."""
        policy = self.policy
        if not isinstance(error, MessagingError) or not error.retryable:
            return False
        if error.delivered is Delivered.NO:
            if policy.retry is not None:
                allowed = self.attempts < policy.retry or (policy.wait_for_ready and isinstance(error, NoRoute))
            else:
                allowed = policy.wait_for_ready or not isinstance(error, NoRoute)
        else:
            allowed = policy.idempotent and error.delivered is Delivered.MAYBE
            if policy.retry is not None:
                allowed = allowed and self.attempts < policy.retry
        if not allowed:
            return False
        if self.backoff is None:
            self.backoff = Backoff(initial=0.02, maximum=0.5)
        delay = self.backoff.next()
        reactor = self.session.operations.reactor
        if reactor.finished or reactor.clock() + delay >= self.deadline:
            return False
        self.attempts += 1
        self.trouble = error
        if error.delivered is Delivered.MAYBE:
            self.doubt = error
        reactor.call_later(delay, self._send_again)
        return True

    def _send_again(self) -> None:
        if self.session.operations.pending.get(self.id) is not self:
            return
        previous = self.outgoing
        self.outgoing = Outgoing(
            previous.route,
            previous.body,
            previous.headers,
            self,
            reply_to=previous.reply_to,
            budget=previous.budget,
            deadline=previous.deadline,
            store=previous.store,
            confirm=previous.confirm,
            encode=previous.encode,
        )
        previous.token = None
        self.session.operations.reactor.publish(self.outgoing)


class Cast(Request, kw_only=True):
    """A cast or a fanout: done when somebody has taken it."""

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        """Take the news of the message; on the owner."""
        if self.kind == "fanout" and isinstance(error, NoRoute) and outgoing is self.outgoing:
            # Everybody that there is has it: nobody.
            self.progressed(Stage.TAKEN, taker)
        else:
            super().sent(outgoing, stage, error, taker)

    def progressed(self, stage: Stage | None, taker: Any) -> None:
        """Taken is done; written is done where nobody tells more."""
        operations = self.session.operations
        if stage is Stage.WRITTEN and operations.reactor.capabilities.confirms:
            return
        if operations.pending.take(self.id, None) is self:
            self.value = Fanout(*taker) if type(taker) is tuple else Fanout(None, None)
            self.outgoing.token = None
            operations.counters.add(f"{self.kind}.taken")
            self.wake()


class Call(Request, kw_only=True):
    """A call: done when its reply is there."""

    address: str = ""
    """Where a cancel reaches its server, once that has said so."""
    heard: float = 0.0
    """When the server was last known to have it; 0 until it is accepted."""

    def progressed(self, stage: Stage | None, taker: Any) -> None:
        """A server has it: from now on it is expected to give signs of life."""
        if stage is Stage.TAKEN and self.session.taken_is_accepted():
            self.session.accepted(self)

    def abandoned(self) -> None:
        """Tell the server that nobody waits."""
        self.session.send_cancel(self)


class RpcSession:
    """The calls of one connection. Attach it with `Operations.attach`."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.clock = operations.reactor.clock
        self.next_id = operations.next_id
        self.late = operations.counters.tally("call.late_replies")
        self.replied = operations.counters.tally("call.replied")
        self.sent = {kind: operations.counters.tally(f"{kind}.sent") for kind in ("call", "cast", "fanout")}
        self._monitored: dict[str, Call] = {}
        self._watching = False
        self._controls: list[ControlHandler] = []
        self._subscribed_at = 0.0
        """Since when answers have been able to reach this side, without a gap."""
        self._watch_due = 0.0
        wire = operations.wire
        self._kind_of = wire.kind_of
        self.decode_reply = wire.decode_reply
        opener = wire.opener("answers")
        take_in = self._on_replies if opener is None else functools.partial(self._on_closed_replies, opener)
        operations.reactor.on_peer = self._peer_lost
        operations.reactor.subscribe(Source.reply(), REPLY_WINDOW, take_in, self._on_reply_source)

    def start(self, request: Request) -> None:
        """Register and send; any thread, never waits."""
        self.sent[request.kind].add()
        self.operations.pending.add(request)
        try:
            self.operations.reactor.publish(request.outgoing)
        except MessagingError as error:
            self.operations.end(request, error)

    def exchange(self, request: Request, bell: LockType) -> bool:
        """Register, send, and wait for the end of it, which rings the bell; False: the deadline came first."""
        self.sent[request.kind].add()
        self.operations.pending.add(request)
        try:
            return self.operations.reactor.exchange(request.outgoing, bell, request.deadline)
        except MessagingError as error:
            self.operations.end(request, error)
            return True

    def abandon(self, request: Request, error: BaseException) -> bool:
        """End an operation that its caller gives up, from the caller's own thread. False: it had ended already, and has
        its result.
        """
        request.outgoing.withdrawn = True
        if not self.operations.end(request, error):
            return False
        request.abandoned()
        return True

    def send_cancel(self, call: Call) -> None:
        """Tell whoever has the call, as best it can be told; any thread."""
        self._monitored.pop(call.id, None)
        address = call.address or call.outgoing.taker
        if not address or self.operations.reactor.finished:
            return
        body = self.operations.wire.encode_cancel([call.id])
        if body is None:
            return
        deadline = self.operations.reactor.clock() + CANCEL_LIFE
        try:
            self.operations.reactor.publish(Outgoing(Route.reply(address), body, {}, deadline=deadline, confirm=False))
        except MessagingError as error:
            _log.debug("a cancel was not sent: %s", error)

    def add_control(self, handler: ControlHandler) -> None:
        """Let a server hear of cancels."""
        self._controls.append(handler)

    def remove_control(self, handler: ControlHandler) -> None:
        """The reverse of add_control."""
        if handler in self._controls:
            self._controls.remove(handler)

    @property
    def address(self) -> str:
        """Under which address this connection hears of cancels; empty while it does not."""
        return self.operations.reactor.address_of(Source.reply())

    def _on_reply_source(self, address: str, error: Exception | None) -> None:
        self._subscribed_at = self.operations.reactor.clock()
        if error is not None and not self.operations.reactor.finished:
            _log.warning("answers cannot be received: %s", error)

    def taken_is_accepted(self) -> bool:
        """Whether a call that was taken is in the hands of a server, or will never be told to be."""
        operations = self.operations
        return operations.reactor.capabilities.acceptance == "peer" or not operations.wire.tells_acceptance

    def _on_closed_replies(self, opener: Opener, batch: Sequence[Delivery]) -> None:
        readable, unreadable = opener(batch)
        if unreadable:
            for _ in unreadable:
                self.operations.counters.add("undecodable")
            _log.debug("%d messages to the reply address were dropped: they cannot be read", len(unreadable))
        self._on_replies(readable)

    def _on_replies(self, batch: Sequence[Delivery]) -> None:
        take = self.operations.pending.take
        kind_of = self._kind_of
        for delivery in batch:
            kind = kind_of(delivery.body)
            if kind in _ANSWERS:
                try:
                    call = take(delivery.headers.get(CORRELATION_ID, ""), None)
                except TypeError:
                    # Not hashable, so the id of no call; the other answers of the batch are as good as any.
                    call = None
                if call is None:
                    self.late.add()
                    continue
                if self._monitored:
                    self._monitored.pop(call.id, None)
                call.value = delivery
                call.outgoing.token = None
                self.replied.add()
                call.wake()
            else:
                self._on_control(kind, delivery)

    def _on_control(self, kind: int, delivery: Delivery) -> None:
        try:
            message = self.operations.wire.decode_control(delivery.body)
        except DecodeError as error:
            self.operations.counters.add("undecodable")
            _log.debug("a message to the reply address was dropped: %s", error)
            return
        if kind == Kind.ACCEPTED:
            call = self.operations.pending.get(str(delivery.headers.get(CORRELATION_ID, "")))
            if isinstance(call, Call):
                call.address = message.address
                call.outgoing.stage = Stage.TAKEN
                self.accepted(call)
        elif kind == Kind.ALIVE:
            for id in message.ids:
                call = self.operations.pending.get(id)
                if isinstance(call, Call):
                    self.accepted(call)
        elif kind == Kind.CANCEL:
            for handler in self._controls:
                handler.cancelled(message.ids)

    # Signs of life

    def accepted(self, call: Call) -> None:
        """A server has the call; owner only."""
        call.heard = self.operations.reactor.clock()
        if call.policy.silence and call.id not in self._monitored:
            self._monitored[call.id] = call
            if not self._watching:
                self._watching = True
                self._watch_later()

    def _watch(self) -> None:
        reactor = self.operations.reactor
        now = reactor.clock()
        if now > self._watch_due + _LATE:
            # This side was not running, so what was said meanwhile waits to be read: silence proves nothing yet.
            self._subscribed_at = now
        for call in list(self._monitored.values()):
            # While answers could not reach this side, silence proves nothing.
            heard = max(call.heard, self._subscribed_at)
            if self.operations.pending.get(call.id) is not call:
                self._monitored.pop(call.id, None)
            elif reactor.holding.reply_ready and now - heard > call.policy.silence:
                self._monitored.pop(call.id, None)
                error = ServerLost(
                    f"the server that had taken call {call.id} has been silent for {call.policy.silence:g} s",
                    delivered=Delivered.MAYBE,
                )
                call.sent(call.outgoing, call.outgoing.stage, error, None)
        self._watching = bool(self._monitored)
        if self._watching:
            self._watch_later()

    def _watch_later(self) -> None:
        reactor = self.operations.reactor
        self._watch_due = reactor.clock() + _WATCH_EVERY
        reactor.call_later(_WATCH_EVERY, self._watch)

    def _peer_lost(self, taker: str, error: Exception) -> None:
        for call in list(self._monitored.values()):
            if call.outgoing.taker == taker:
                self._monitored.pop(call.id, None)
                call.sent(call.outgoing, call.outgoing.stage, error, None)


def message_headers(id: str, more: dict[str, Any] | None) -> dict[str, Any]:
    """Headers of a request: its id, and what the caller adds."""
    return {MESSAGE_ID: id, **more} if more else {MESSAGE_ID: id}
