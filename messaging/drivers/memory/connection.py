"""A connection to a hub: states, events and the outbox, as a driver of a real broker has them.

What a broker's client does with sockets, this does by calling the hub under its lock, in the order of the contract:
what has happened is collected first, the events are fired after the lock is left. It knows nothing of queues; those
are the hub's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from messaging.backoff import Backoff
from messaging.clock import VirtualClock
from messaging.drivers.base import ConnectionEvents, Services, State
from messaging.drivers.memory.hub import Hub
from messaging.drivers.memory.link import Link
from messaging.drivers.memory.queue import Message
from messaging.drivers.outbox import Outbox, expired, unwritten
from messaging.errors import AuthFailed, Cancelled, Closed, ConnectionLost, EncodeError, MessagingError, TooLarge
from messaging.message import Delivery, Outcome, Outgoing, SentResult, Source, Stage

__all__ = ["MemoryConnection"]

_MOST_AT_ONCE = 512
"""Deliveries of one source in one pump: what bounds a pump."""
_ROUNDS = 4
"""How often one pump fires events that its own events have caused: a settlement made in on_deliveries is told in the
same pump.
"""
_NEVER = math.inf
# A member of an enumeration costs 70 ns to look up, as much as a call.
_WRITTEN = Stage.WRITTEN
_TAKEN = Stage.TAKEN
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


class MemoryConnection:
    """See messaging.drivers.base.Connection. `hub` is the hub that it talks to, for tests."""

    def __init__(
        self,
        hub: Hub,
        *,
        events: ConnectionEvents,
        services: Services,
        leave: Callable[[], None],
        max_queue: int,
        max_body: int,
        heartbeat: float,
    ) -> None:
        self.hub = hub
        self._events = events
        self._leave = leave
        self._clock = services.clock
        self._virtual = isinstance(services.clock, VirtualClock)
        if isinstance(services.clock, VirtualClock):
            services.clock.register(self.wake)
        self._max_body = max_body
        self._silence = 2 * heartbeat
        self._link = Link(hub.name, max_queue, hub.clock)
        self._state: State | None = None
        self._backoff = Backoff(source=services.random)
        self._wanted: dict[Source, int] = {}
        self._generation = 0
        self._outbox = Outbox()
        self._due = 0.0
        """When the state has to be looked at next."""
        self._retry_at = math.inf
        self._silent_since: float | None = None
        self._close_by: float | None = None
        self._closed = False
        self._notices: list[Callable[[], None]] = []
        self._settled: list[tuple[list[Delivery], Exception | None]] = []
        self._settlements: list[tuple[Sequence[Delivery], Outcome, float, str]] = []
        """Made while the hub was silent."""
        self._stale = 0
        self._reconnects = 0

    @property
    def address(self) -> str:
        """The connection's own address; it stays over reconnects."""
        return self._link.address

    # Publishing: any thread

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection; any thread."""
        link = self._link
        with self.hub.lock:
            if link.open:
                self._write(outgoing)
            elif link.stalled:
                self._write_into_silence(outgoing)
            elif link.attached:
                expiry = self._outbox.next_expiry
                self._outbox.push(outgoing)
                if self._outbox.next_expiry < expiry:
                    link.call()
            else:
                self._tell(unwritten(outgoing, link.cut_by))

    def _write(self, outgoing: Outgoing) -> None:
        # The stage first, then the look at `withdrawn`: its sender does it the other way round.
        outgoing.stage = _WRITTEN
        if outgoing.withdrawn:
            return
        link = self._link
        hub = self.hub
        expires = math.inf
        remaining = None
        if outgoing.deadline:
            remaining = outgoing.deadline - self._clock()
            if remaining <= 0.0:
                outgoing.stage = None
                self._tell(expired(outgoing))
                return
            if outgoing.budget:
                expires = outgoing.deadline
        reply_to = link.address if outgoing.reply_to else ""
        try:
            body = outgoing.body
            if outgoing.encode is not None:
                body = outgoing.encode(reply_to, remaining if outgoing.budget else None)
            if len(body) > self._max_body:
                outgoing.stage = None
                raise TooLarge(
                    f"the message has {len(body)} bytes, {hub.title} carries {self._max_body} (option max_body)"
                )
            message = Message(
                body if type(body) is bytes else bytes(body),
                _copied(outgoing.headers),
                reply_to,
                link.address,
                expires,
                outgoing.budget,
            )
            taker = hub.accept(outgoing.route, message, outgoing.store, link.max_queue)
        except MessagingError as error:
            self._tell(SentResult(outgoing, outgoing.stage, error))
        except Exception as error:
            # The sender's own `encode`, or a header that cannot be written.
            outgoing.stage = None
            refusal = EncodeError(f"the message cannot be encoded: {error}")
            refusal.__cause__ = error
            self._tell(SentResult(outgoing, None, refusal))
        else:
            if outgoing.confirm:
                self._confirm(outgoing, taker)

    def _write_into_silence(self, outgoing: Outgoing) -> None:
        outgoing.stage = _WRITTEN
        if not outgoing.withdrawn:
            self._link.unprocessed.append(outgoing)

    def _tell(self, result: SentResult) -> None:
        self._link.call()
        self._link.answers.append(result)

    def _confirm(self, outgoing: Outgoing, taker: Any) -> None:
        link = self._link
        result = SentResult(outgoing, _TAKEN, None, taker)
        if self.hub.faults.withholding:
            link.unconfirmed.append(result)
        else:
            outgoing.stage = _TAKEN
            link.call()
            link.answers.append(result)

    # Everything else: the owner

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._closed:
            return math.inf
        link = self._link
        wakeup = link.wakeup
        lock = self.hub.lock
        if timeout > 0.0:
            with lock:
                due = self._next_due()
                wait = timeout if due == _NEVER else min(timeout, due - self._clock())
                asleep = wait > 0.0 and not link.urgent and (not link.hot or link.stalled) and wakeup.lie_down()
            if asleep:
                # Virtual time passes when somebody says so, and wakes us.
                wakeup.sleep(math.inf if self._virtual else wait)
        for _ in range(_ROUNDS):
            with lock:
                batches = self._collect()
                notices, self._notices = self._notices, []
                answers, link.answers = link.answers, []
            settled, self._settled = self._settled, []
            for notice in notices:
                notice()
            if answers:
                self._events.on_sent(answers)
            for deliveries, error in settled:
                self._events.on_settled(deliveries, error)
            for source, batch in batches:
                self._events.on_deliveries(source, batch)
            if not (link.urgent or self._notices or self._settled):
                break
        return self._rest()

    def _rest(self) -> float:
        """How long the connection may be left alone."""
        link = self._link
        if self._closed:
            link.wakeup.close()
            return math.inf
        if not link.wakeup.watched:
            # Without the lock: whoever sleeps in pump looks again with it.
            return self._idle_for()
        with self.hub.lock:
            rest = self._idle_for()
            if rest > 0.0:
                link.wakeup.stand_by()
            return rest

    def _idle_for(self) -> float:
        link = self._link
        if link.urgent or (link.hot and not link.stalled) or self._settled:
            return 0.0
        due = self._next_due()
        return due if due == _NEVER else max(0.0, due - self._clock())

    def _next_due(self) -> float:
        return min(self._due, self._outbox.next_expiry, self.hub.due)

    def _collect(self) -> list[tuple[Source, list[Delivery]]]:
        link = self._link
        hub = self.hub
        urgent = link.urgent
        link.wakeup.get_up(idle=not (urgent or link.hot))
        link.urgent = False
        due = self._next_due()
        if urgent or due < _NEVER:
            now = self._clock()
            if hub.due <= now:
                hub.run_timers(now)
            if urgent or due <= now:
                self._step(now)
        if link.hot and not link.stalled:
            return hub.pick_up(link, _MOST_AT_ONCE)
        return []

    def wake(self) -> None:
        """See Connection; any thread, and signal handlers."""
        self._link.wakeup.wake()

    def fileno(self) -> int | None:
        """See Connection. Ask for it only if it will be watched: with it, what comes between two pumps costs a write
        to it.
        """
        return self._link.wakeup.fileno()

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self._wanted[source] = window
        with self.hub.lock:
            if self._link.attached:
                self._subscribe(source, window)

    def _subscribe(self, source: Source, window: int) -> None:
        link = self._link
        if source not in link.subscriptions:
            self._generation += 1
            self._notices.append(partial(self._events.on_subscribed, source, link.address, None))
            link.urgent = True
        self.hub.subscribe(link, source, window, self._generation)

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._wanted.pop(source, None)
        with self.hub.lock:
            self.hub.cancel(self._link, source)
            error = Cancelled(f"unsubscribed from {source}")
            self._notices.append(partial(self._events.on_subscribed, source, "", error))
            self._link.urgent = True

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        with self.hub.lock:
            if self._link.stalled:
                self._settlements.append((deliveries, outcome, delay, reason))
            else:
                self._settle(deliveries, outcome, delay, reason)

    def _settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        if self.hub.faults.settlement_lost():
            self._settled.append((list(deliveries), None))
            self._link.urgent = True
            return
        settled = self.hub.settle(self._link, deliveries, outcome, delay, reason)
        self._stale += len(deliveries) - len(settled)
        if settled:
            self._settled.append((settled, None))
            self._link.urgent = True

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace
            with self.hub.lock:
                self._link.call()

    def counts(self) -> dict[str, int]:
        """See Connection; `hub_` counts are those of all connections to this hub."""
        with self.hub.lock:
            hub = {f"hub_{name}": count for name, count in self.hub.counts().items()}
        return {"reconnects": self._reconnects, "stale_settlements": self._stale, **hub}

    # States; the lock is held, and events are only noted down

    def _note(self, state: State, cause: Exception | None = None, retry_in: float | None = None) -> None:
        self._state = state
        self._notices.append(partial(self._events.on_state, state, cause, retry_in, None))

    def _note_answers(self) -> None:
        """Tell the news so far before what is noted next: a message that came back must not look refused by the next
        connection.
        """
        answers, self._link.answers = self._link.answers, []
        if answers:
            self._notices.append(partial(self._events.on_sent, answers))

    def _step(self, now: float) -> None:
        link = self._link
        self._due = math.inf
        if link.cut_by is not None:
            self._lose(link.cut_by, now)
        elif link.attached:
            self._follow(now)
        elif self._state is None or (self._state is State.LOST and now >= self._retry_at):
            self._connect(now)
        elif self._state is State.LOST:
            self._due = self._retry_at
        self._outbox.expire(now)
        link.answers += self._outbox.news()
        if self._close_by is not None:
            self._try_to_close(now, self._close_by)

    def _connect(self, now: float) -> None:
        link = self._link
        self._note_answers()
        self._note(State.CONNECTING)
        refusal = self.hub.faults.refusal()
        if refusal is not None:
            self._wait_for_retry(refusal, now)
            return
        if self._retry_at < math.inf:
            self._reconnects += 1
        self.hub.attach(link)
        self._note(State.READY)
        for source, window in self._wanted.items():
            self._subscribe(source, window)
        self._backoff.reset()

    def _wait_for_retry(self, cause: Exception, now: float) -> None:
        # The same credentials would be refused again.
        retry_in = None if isinstance(cause, AuthFailed) else self._backoff.next()
        self._due = self._retry_at = math.inf if retry_in is None else now + retry_in
        self._note(State.LOST, cause, retry_in)

    def _lose(self, cause: Exception, now: float) -> None:
        link = self._link
        link.cut_by = None
        self._silent_since = None
        self._wait_for_retry(cause, now)
        link.answers += self._outbox.lose(cause)
        for deliveries, *_ in self._settlements:
            error = ConnectionLost(f"the connection went before the settlement was written: {cause}")
            self._notices.append(partial(self._events.on_settled, deliveries, error))
        self._settlements = []
        self._note_answers()

    def _follow(self, now: float) -> None:
        link = self._link
        if link.stalled:
            if self._silent_since is None:
                self._silent_since = now
            self._due = self._silent_since + self._silence
            if now >= self._due:
                self.hub.cut(link, ConnectionLost(f"{self.hub.title} has been silent for {self._silence:g} seconds"))
            return
        self._silent_since = None
        if link.held:
            if self._state is State.READY:
                self._note(State.BLOCKED)
            return
        if not link.open:
            self._catch_up(now)
        if self._state is State.BLOCKED:
            self._note(State.READY)

    def _catch_up(self, now: float) -> None:
        """Do what waited while the hub was silent or blocked."""
        link = self._link
        written, link.unprocessed = link.unprocessed, []
        for outgoing in written:
            self._write(outgoing)
        while (waiting := self._outbox.pop(now)) is not None:
            self._write(waiting)
        settlements, self._settlements = self._settlements, []
        for settlement in settlements:
            self._settle(*settlement)
        link.open = True

    def _try_to_close(self, now: float, close_by: float) -> None:
        link = self._link
        if link.attached and now < close_by and (self._outbox or link.unprocessed or link.unconfirmed):
            self._due = min(self._due, close_by)
            return
        cause = Closed("the connection was closed")
        self.hub.detach(link, cause)
        link.answers += self._outbox.lose(cause)
        self._note_answers()
        self._note(State.CLOSED)
        self._closed = True
        self._leave()
        self._due = math.inf
        link.urgent = False


def _copied(headers: dict[str, Any]) -> dict[str, Any]:
    for value in headers.values():
        if type(value) not in _PLAIN:
            # What is not a plain value would be shared by sender and receiver; it travels as bytes, as it would
            # elsewhere.
            copied: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(headers))
            return copied
    return headers.copy()
