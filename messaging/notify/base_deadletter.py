"""What the dead letters of a pool are for both faces: read them, send them again to their pool, or throw them away.
Nothing here waits.

A dead letter belongs to one pool, and a topic's route reaches all of them. So one that is sent again carries the name
of its pool, and listeners of other pools pass over it. It keeps its message id; its attempts count from 1 again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from messaging.deadline import timeout_seconds
from messaging.drivers.base import Role
from messaging.errors import (
    Cancelled,
    Closed,
    DeadlineExceeded,
    DecodeError,
    Delivered,
    InvalidTarget,
    NotStarted,
    PipelineFailed,
    StateError,
    Unsupported,
)
from messaging.lifecycle import check_count
from messaging.message import (
    DEAD_ATTEMPT,
    DEAD_HEADERS,
    DEAD_REASON,
    MESSAGE_ID,
    Delivery,
    Outcome,
    Outgoing,
    Route,
    Source,
    SourceKind,
)
from messaging.notify.base_listener import DEFAULT_POOL
from messaging.notify.base_notifier import NOTIFY_TIMEOUT
from messaging.notify.event import Event
from messaging.notify.handling import Decode, decoded
from messaging.notify.session import KIND, NotifySession, Sending
from messaging.reactor import Reactor
from messaging.target import Target, check_name
from messaging.transport import BaseTransport, check_transport
from messaging.wire.native import KEY_HEADER, POOL_HEADER

__all__ = ["BaseDeadLetters", "DeadLetter", "counted", "first_time"]


class DeadLetter:
    """One dead letter, for as long as its DeadLetters are open."""

    __slots__ = ("attempts", "delivery", "event", "reason")

    def __init__(self, delivery: Delivery, decode: Decode) -> None:
        self.delivery = delivery
        self.reason = str(delivery.headers.get(DEAD_REASON, ""))
        """Why it was rejected."""
        attempts = delivery.headers.get(DEAD_ATTEMPT, 0)
        self.attempts = attempts if type(attempts) is int else 0
        """At which attempt it was rejected; 0 where the transport does not tell."""
        self.event: Event[Any] | None
        """What it says, without a serializer; None when that cannot be decoded."""
        try:
            self.event = decoded(decode, delivery, self.attempts or 1)
        except DecodeError:
            self.event = None

    def __repr__(self) -> str:
        what = f"{self.event.event_type} {self.event.message_id}" if self.event is not None else "undecodable"
        return f"<DeadLetter {what}: {self.reason}>"


class BaseDeadLetters:
    """The dead letters of one pool of one topic, at most `limit` of them in hand at a time.

    `timeout`: seconds in which one that is sent again must be taken. Raises InvalidTarget, ConfigError, or Unsupported
    where the transport keeps no dead letters.
    """

    _face: ClassVar[type[BaseTransport]]
    """The kind of transport that this face can wait for."""

    def __init__(
        self,
        transport: BaseTransport,
        target: Target,
        pool: str | None = None,
        *,
        limit: int = 1_000,
        timeout: float | None = None,
    ) -> None:
        check_transport(transport, self._face)
        if transport.capabilities.reject != "dead_letter":
            raise Unsupported(
                f"{transport.url.kind}:// keeps no dead letters; give the listener a dead_letter= of its own"
            )
        if not target.topic:
            raise InvalidTarget(f"dead letters belong to a topic, and {target!r} has none")
        check_count("limit", limit)
        self.transport = transport
        self._limit = limit
        self._timeout = timeout_seconds(timeout, NOTIFY_TIMEOUT)
        self._exchange = target.exchange or transport.wire.exchange
        self._topic = target.topic
        self._pool = DEFAULT_POOL if pool is None else pool
        check_name("pool", self._pool)
        self._source = Source(SourceKind.DEAD, self._exchange, self._topic, pool=self._pool)
        self._in_hand: dict[DeadLetter, bool] = {}
        self._reactor: Reactor | None = None
        self._on_unsubscribed: Callable[[], None] | None = None

    def _name(self) -> str:
        return f"dead letters of {self._topic} in pool {self._pool}"

    def _arrived(self, letter: DeadLetter) -> None:
        """Take one that has come; on the owner."""
        raise TypeError(f"{type(self).__name__} does not say where letters go")

    def _open(self, on_started: Callable[[Exception | None], None]) -> None:
        if self._reactor is not None:
            raise StateError(f"the {self._name()} are open already")
        self._reactor = self.transport.operations(Role.LISTENER).reactor
        begun = [on_started]

        def subscribed(address: str, error: Exception | None) -> None:
            if begun:
                begun.pop()(error)
            elif isinstance(error, Cancelled) and self._on_unsubscribed is not None:
                self._on_unsubscribed()

        self._reactor.subscribe(self._source, self._limit, self._receive, subscribed)

    def _receive(self, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            letter = DeadLetter(delivery, self.transport.wire.decode_notification)
            self._in_hand[letter] = True
            self._arrived(letter)

    def _unsubscribe(self, done: Callable[[], None]) -> None:
        """Take no more; `done` is called on the owner when the transport has confirmed it."""
        self._on_unsubscribed = done
        self._opened().unsubscribe(self._source)

    def _give_back(self, done: Callable[[], None]) -> None:
        """Put back what was neither sent again nor thrown away; owner only."""
        back = [letter.delivery for letter in self._in_hand if not letter.delivery.stale]
        self._in_hand.clear()
        reactor = self._opened()
        if back:
            reactor.settle(back, Outcome.REQUEUE)
        reactor.after_flush(done)

    def _unreachable(self, timeout: float) -> DeadlineExceeded:
        cause = self._opened().holding.cause
        why = f": {cause}" if cause is not None else ""
        error = DeadlineExceeded(
            f"the {self._name()} could not be reached within {timeout:g} s{why}",
            phase="connect",
            delivered=Delivered.NO,
        )
        error.__cause__ = cause
        return error

    def _opened(self) -> Reactor:
        if self._reactor is None:
            raise NotStarted(f"the {self._name()} are not open; use them in a with block")
        return self._reactor

    def _discard(self, letter: DeadLetter) -> None:
        self._claim(letter)
        self._opened().accept(letter.delivery)

    def _claim(self, letter: DeadLetter) -> None:
        if not self._in_hand.pop(letter, False):
            raise StateError(f"{letter!r} is not in hand: it was dealt with before, or these dead letters were closed")

    def _begin_replay(self, letter: DeadLetter, wake: Callable[[], object]) -> Sending:
        """Start to send one again; whoever waits for it calls `_replayed` at its end."""
        self._claim(letter)
        session: NotifySession = self.transport.attached(Role.NOTIFIER, NotifySession)
        delivery = letter.delivery
        headers = {name: value for name, value in delivery.headers.items() if name not in DEAD_HEADERS}
        headers[POOL_HEADER] = self._pool
        key = headers.get(KEY_HEADER)
        deadline = session.operations.reactor.clock() + self._timeout
        sending = Sending(
            id=session.operations.next_id(),
            kind=KIND,
            timeout=self._timeout,
            deadline=deadline,
            wake=wake,
            session=session,
            topic=self._topic,
            retry=None,
        )
        route = Route.pools(self._exchange, self._topic)
        outgoing = Outgoing(
            route, delivery.body, headers, sending, key=key if type(key) is str else None, deadline=deadline
        )
        session.start(sending, outgoing)
        return sending

    def _replayed(self, letter: DeadLetter, sending: Sending) -> None:
        """Settle one that was sent again; raises what went wrong, and then it stays where it was."""
        if sending.error is not None:
            self._in_hand[letter] = True
            raise sending.error
        try:
            self._opened().accept(letter.delivery)
        except Closed:
            # It stays there as well, which is what at least once means.
            return


def first_time(letter: DeadLetter, seen: set[str]) -> bool:
    """Whether a letter has not been dealt with by this sweep: one that was sent again, and was rejected again since,
    comes back while it lasts, and would without end.
    """
    id = letter.delivery.headers.get(MESSAGE_ID)
    if type(id) is not str or id not in seen:
        seen.add(str(id))
        return True
    return False


def counted(outcomes: Sequence[Exception | None]) -> int:
    """Return how many went well, or raise the errors of all others together."""
    failures: list[Exception] = []
    for index, error in enumerate(outcomes):
        if error is not None:
            error.index = index  # type: ignore[attr-defined]
            failures.append(error)
    if failures:
        raise PipelineFailed(f"{len(failures)} of {len(outcomes)} dead letters stay", failures)
    return len(outcomes)
