"""A connection by one of kombu's virtual transports: its states, and what one pump does.

kombu's channels block for each round trip. So a pump waits once, on the descriptors of everything that is read and on
one for being woken, and then makes a few round trips, each bounded by `socket_timeout`: that is what `pump_stall`
declares. Connecting is left to the pool for what blocks. What is sent and received has files of its own, and every
round trip is the session's.
"""

from __future__ import annotations

import math
import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from messaging.backoff import Backoff
from messaging.drivers.base import ConnectionEvents, Services, State
from messaging.drivers.kombu.receiving import Receiver
from messaging.drivers.kombu.sending import Sender
from messaging.drivers.kombu.session import Connect, Session
from messaging.drivers.kombu.settings import VirtualSettings
from messaging.drivers.outbox import unwritten
from messaging.drivers.wakeup import WakeUp
from messaging.errors import Cancelled, Closed, ConnectFailed, ConnectionLost, MessagingError
from messaging.message import Delivery, Outcome, Outgoing, Source
from messaging.url import Host

__all__ = ["KombuConnection"]

_ROUNDS = 4
"""How often one pump does what its own events have caused."""


class KombuConnection:
    """See messaging.drivers.base.Connection."""

    def __init__(
        self, settings: VirtualSettings, connect: Connect, events: ConnectionEvents, services: Services
    ) -> None:
        self._settings = settings
        self._connect = connect
        self._events = events
        self._services = services
        self._clock = services.clock
        # Random, because a child process or a later connection must not get what was meant for this one.
        identity = os.urandom(8).hex()
        self._receiver = Receiver(identity, services.clock)
        self._sender = Sender(self._receiver.address, settings.max_body, services.clock)
        self._hosts = deque(settings.url.hosts or (Host(""),))
        self._hosts.rotate(int(services.random() * len(self._hosts)))
        self._backoff = Backoff(source=services.random)
        self._wakeup = WakeUp()
        self._woken = False
        self._session: Session | None = None
        self._arrived: deque[tuple[Session | None, BaseException | None]] = deque()
        """What became of attempts to connect; put here by the threads that made them."""
        self._state: State | None = None
        self._retry_at = math.inf
        self._care_at = math.inf
        self._care_every = min(settings.heartbeat, settings.visibility_timeout / 4, settings.expires / 4)
        self._close_by: float | None = None
        self._notices: deque[Callable[[], None]] = deque()
        self._reconnects = 0

    # The owner's requests

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection."""
        if self._session is not None:
            self._sender.outbox.push(outgoing)
        else:
            self._notices.append(partial(self._events.on_sent, [unwritten(outgoing, ConnectFailed("not connected"))]))

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self._receiver.subscribe(source, window)

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._receiver.unsubscribe(source)
        error = Cancelled(f"unsubscribed from {source}")
        self._notices.append(partial(self._events.on_subscribed, source, "", error))

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection. kombu's queues know no delay: what has to wait, its receiver keeps (requeue=now)."""
        self._receiver.settle(deliveries, outcome, reason)

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace

    def wake(self) -> None:
        """See Connection."""
        self._woken = True
        self._wakeup.ring()

    def fileno(self) -> int | None:
        """See Connection: pump may stall, so a thread has to wait in it."""
        return None

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return {"reconnects": self._reconnects, **self._receiver.counts}

    # The pump

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._state is State.CLOSED:
            return math.inf
        readable = self._wait(timeout)
        for turn in range(_ROUNDS):
            session = self._session
            if session is not None:
                try:
                    self._work(session, readable if turn == 0 else frozenset())
                except session.broken as error:
                    self._lose(error)
            self._follow()
            if not self._tell():
                break
        return self._rest()

    def _wait(self, timeout: float) -> frozenset[int]:
        """Wait until the server has something to say, or somebody else; returns the descriptors that do."""
        poller = select.poll()
        poller.register(self._wakeup.descriptor, select.POLLIN)
        if self._session is not None:
            # A connection of the library's without a socket is one that broke.
            broken: tuple[type[Exception], ...] = (*self._session.broken, AttributeError)
            try:
                for descriptor in self._receiver.arm():
                    poller.register(descriptor, select.POLLIN)
            except broken as error:
                self._lose(error)
        wait = 0.0 if self._woken else max(0.0, min(timeout, self._rest()))
        ready = frozenset(number for number, _ in poller.poll(math.ceil(wait * 1000)))
        if self._wakeup.descriptor in ready:
            # First the descriptor, then the mark: `wake` does it the other way round.
            self._wakeup.silence()
            self._woken = False
        return ready

    def _work(self, session: Session, readable: frozenset[int]) -> None:
        receiver = self._receiver
        for source in receiver.read_from_now_on(session):
            self._notices.append(partial(self._events.on_subscribed, source, receiver.address_of(source), None))
            self._backoff.reset()
        receiver.write_settlements(session)
        self._note_settled()
        self._sender.flush(session)
        self._note_sent()
        for source, batch in receiver.read(session, readable):
            self._notices.append(partial(self._events.on_deliveries, source, batch))
        now = self._clock()
        if now >= self._care_at:
            receiver.look_after(session)
            self._care_at = self._clock() + self._care_every
        if now > receiver.overdue() + self._settings.heartbeat:
            raise ConnectionError(f"the server has been silent for {2 * self._settings.heartbeat:g} s")

    def _note_settled(self) -> None:
        settled, self._receiver.settled = self._receiver.settled, []
        for deliveries, error in settled:
            self._notices.append(partial(self._events.on_settled, deliveries, error))

    def _note_sent(self) -> None:
        if results := self._sender.news():
            self._notices.append(partial(self._events.on_sent, results))

    def _tell(self) -> bool:
        """Fire the events that are due; returns whether they have caused more to do."""
        if not self._notices:
            return False
        notices, self._notices = self._notices, deque()
        for notice in notices:
            notice()
        return self._busy()

    def _busy(self) -> bool:
        if self._notices or self._arrived:
            return True
        return self._session is not None and (bool(self._sender.outbox) or self._receiver.due <= self._clock())

    def _rest(self) -> float:
        """How long the connection may be left alone."""
        if self._state is State.CLOSED:
            return math.inf
        if self._state is None or self._close_by is not None or self._busy():
            return 0.0
        due = min(self._retry_at, self._care_at, self._sender.outbox.next_expiry)
        if self._session is not None:
            due = min(due, self._receiver.due)
        return max(0.0, due - self._clock())

    # States

    def _note(self, state: State, cause: Exception | None = None, retry_in: float | None = None) -> None:
        self._state = state
        self._notices.append(partial(self._events.on_state, state, cause, retry_in, None))

    def _follow(self) -> None:
        """Go to the next state where it is time to."""
        if self._close_by is not None and (
            self._session is None or not self._busy() or self._clock() >= self._close_by
        ):
            self._finish()
        while self._arrived:
            session, error = self._arrived.popleft()
            if self._state is State.CLOSED:
                if session is not None:
                    session.drop()
            elif session is not None:
                self._begin(session)
            else:
                self._fail(error)
        if self._state is None or (self._state is State.LOST and self._clock() >= self._retry_at):
            self._start_connecting()
        blocked = self._sender.outbox.blocked
        if self._state is State.READY and blocked:
            self._note(State.BLOCKED)
        elif self._state is State.BLOCKED and not blocked:
            self._note(State.READY)

    def _start_connecting(self) -> None:
        self._note(State.CONNECTING)
        self._retry_at = math.inf
        self._hosts.rotate(-1)
        host, settings = self._hosts[0], self._settings

        def attempt() -> Session:
            login = settings.credentials() if settings.credentials is not None else None
            return self._connect(settings, host, login)

        def done(session: Session | None, error: BaseException | None) -> None:
            self._arrived.append((session, error))
            self.wake()
            # First into the queue, then the look; _finish does it the other way round.
            if self._state is State.CLOSED:
                self._drop_arrivals()

        self._services.offload(attempt, done)

    def _drop_arrivals(self) -> None:
        while self._arrived:
            try:
                session, _ = self._arrived.popleft()
            except IndexError:
                return
            if session is not None:
                session.drop()

    def _begin(self, session: Session) -> None:
        self._session = session
        self._care_at = self._clock()
        self._note(State.READY)

    def _fail(self, error: BaseException | None) -> None:
        if isinstance(error, ConnectFailed):
            cause: MessagingError = error
        else:
            cause = ConnectFailed(f"kombu cannot connect: {error}")
            cause.__cause__ = error
        self._retry_after(cause)

    def _retry_after(self, cause: MessagingError) -> None:
        # A login that was refused would be refused again.
        retry_in = self._backoff.next() if cause.retryable else None
        self._retry_at = math.inf if retry_in is None else self._clock() + retry_in
        self._note(State.LOST, cause, retry_in)

    def _lose(self, error: Exception) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.drop()
        cause = ConnectionLost(f"the connection broke: {error}")
        cause.__cause__ = error
        self._care_at = math.inf
        self._reconnects += 1
        self._retry_after(cause)
        self._receiver.lose(cause)
        self._note_settled()
        self._sender.lose(cause)
        self._note_sent()

    def _finish(self) -> None:
        """Hand back what is in hand, and go."""
        if self._state is State.CLOSED:
            return
        session, self._session = self._session, None
        if session is not None:
            try:
                self._receiver.hand_back(session)
            except session.broken:
                # It comes again when its time is over.
                self._receiver.counts["not_handed_back"] = 1
            session.drop()
        cause = Closed("the connection was closed")
        self._receiver.lose(cause)
        self._note_settled()
        self._sender.lose(cause)
        self._note_sent()
        self._note(State.CLOSED)
        self._drop_arrivals()
