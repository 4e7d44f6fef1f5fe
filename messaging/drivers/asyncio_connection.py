"""A connection for authors whose client library speaks asyncio only: they write a session of four coroutines, the
rest is here.

`AsyncioConnection` turns a private event loop while it is pumped, in whatever thread pumps it, and starts no thread.
A session
(asyncio_session.py) is one life of the connection, from `open` until it breaks; the next life gets a new session, so
nothing stale survives.
Pumping, reconnecting with backoff, subscribing again, generations, windows, deadlines, states, and the answers at a
lost connection are ours.

It turns a loop per pump and makes a task per message: a driver that must be as fast as its library writes the
contract itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from messaging.backoff import Backoff
from messaging.drivers.asyncio_sender import Sender, as_ours, is_loss
from messaging.drivers.asyncio_session import AsyncioSession, Inbox
from messaging.drivers.base import Capabilities, ConnectionEvents, Services, State
from messaging.drivers.outbox import unwritten
from messaging.errors import (
    AuthFailed,
    Cancelled,
    Closed,
    ConnectFailed,
    ConnectionLost,
    Delivered,
    TransportError,
)
from messaging.message import Delivery, Outcome, Outgoing, SentResult, Source, SourceKind
from messaging.url import Host

__all__ = ["AsyncioConnection", "AsyncioSession", "Inbox"]

_TEARDOWN = 0.3
"""Seconds that the coroutines of a session have for their `finally` when it has ended."""


class AsyncioConnection:
    """See messaging.drivers.base.Connection. A driver's `connect` returns one: `AsyncioConnection(MySession, hosts,
    events, services)`.

    `session` makes a session for each life. `stable_replies`: the reply address survives a reconnect.
    `connect_timeout` is in seconds;
    `in_flight` is how many messages are being sent at a time. It keeps to real time, also where the services have a
    virtual clock.
    """

    def __init__(
        self,
        session: Callable[[], AsyncioSession],
        hosts: Sequence[Host],
        events: ConnectionEvents,
        services: Services,
        *,
        stable_replies: bool = False,
        connect_timeout: float = 10.0,
        in_flight: int = 1000,
    ) -> None:
        self._new_session = session
        self._hosts: Sequence[Host | None] = hosts or (None,)
        self._events = events
        self._clock = services.clock
        self._backoff = Backoff(source=services.random)
        self._stable_replies = stable_replies
        self._connect_timeout = connect_timeout
        self._loop = asyncio.new_event_loop()
        self._state: State | None = None
        self._news: list[tuple[Callable[..., None], list[Any]]] = []
        """Events that are due, in the order of what happened: a method, and its arguments, of which the last may be
        a batch."""
        self._life: asyncio.Task[None] | None = None
        self._session: AsyncioSession | None = None
        self._end: asyncio.Future[Exception] | None = None
        """Why the session has ended."""
        self._passing: set[asyncio.Task[None]] = set()
        """Tasks of the session that end by themselves: they send and settle."""
        self._lasting: set[asyncio.Task[None]] = set()
        """Tasks of the session that last as long as it does: they receive."""
        self._wanted: dict[Source, int] = {}
        self._missing: set[Source] = set()
        """Wanted sources that are not ready yet in this life."""
        self._inboxes: dict[Source, tuple[Inbox, asyncio.Task[None]]] = {}
        self._generation = 0
        self._unsettled: dict[Delivery, Inbox] = {}
        self._settling: dict[asyncio.Task[None], list[Delivery]] = {}
        self._sender = Sender(self._tell_sent, self._start_passing, self.broke, services.clock, in_flight)
        self._closing = False
        self._closer: asyncio.Task[None] | None = None
        self._begun = False
        """A task was started since the loop has last turned."""
        self._lives = 0
        self._stale = 0

    @property
    def session(self) -> AsyncioSession | None:
        """The session of now, or None while there is no connection; for tests that break it."""
        return self._session

    # The contract

    def pump(self, timeout: float) -> float:
        """See Connection. Raises what a session's `close` raises."""
        if self._loop.is_closed():
            return math.inf
        if self._life is None:
            if self._closing:
                # It was never used: there is nothing to wait for, and its owner may not pump it twice.
                self._tell_state(State.CLOSED)
                self._fire()
                self._loop.close()
                return math.inf
            self._life = self._loop.create_task(self._live())
        self._turn(0.0 if self._news else timeout)
        if self._life.done() and not self._life.cancelled():
            self._life.result()
        self._fire()
        if self._state is State.CLOSED and not self._news:
            self._loop.close()
            return math.inf
        if self._begun:
            # What the events have published and settled is written before anybody waits.
            self._turn(0.0)
        return 0.0 if self._news else math.inf

    def _fire(self) -> None:
        news, self._news = self._news, []
        for event, arguments in news:
            event(*arguments)

    def _turn(self, timeout: float) -> None:
        loop = self._loop
        self._begun = False
        self._sender.expire()
        self._follow_marks()
        if timeout > 0.0 and not self._news:
            due = min(timeout, self._sender.next_expiry - self._clock())
            timer = loop.call_later(max(0.0, due), loop.stop)
            loop.run_forever()
            timer.cancel()
        else:
            loop.call_soon(loop.stop)
            loop.run_forever()

    def wake(self) -> None:
        """See Connection; any thread."""
        try:
            self._loop.call_soon_threadsafe(self._loop.stop)
        except RuntimeError:
            pass  # the loop is closed, and with it the connection

    def fileno(self) -> int | None:
        """None: only pump can wait, because the private loop has timers of its own."""
        return None

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection."""
        if self._state in (State.READY, State.BLOCKED):
            self._sender.publish(outgoing)
            self._follow_marks()
        else:
            self._tell_sent(unwritten(outgoing, None))

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self._wanted[source] = window
        if source in self._inboxes:
            self._inboxes[source][0].resize(window)
        elif self._session is not None:
            self._receive(self._session, source)

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._wanted.pop(source, None)
        self._missing.discard(source)
        if source in self._inboxes:
            inbox, receiver = self._inboxes[source]
            inbox.cancelled = True
            receiver.cancel()
        else:
            self._tell_unsubscribed(source)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        valid = [delivery for delivery in deliveries if delivery in self._unsettled]
        answers = [delivery for delivery in deliveries if delivery.source.kind is SourceKind.REPLY]
        self._stale += len(deliveries) - len(valid) - len(answers)
        if answers:
            self._tell(self._events.on_settled, answers, None)
        if valid and self._session is not None:
            inboxes = [self._unsettled.pop(delivery) for delivery in valid]
            task = self._start_passing(self._session.settle(valid, outcome, delay, reason))
            task.add_done_callback(partial(self._settled, self._session, inboxes))
            self._settling[task] = valid

    def close(self, grace: float) -> None:
        """See Connection."""
        if not self._closing:
            self._closing = True
            if self._life is not None:
                self._closer = self._loop.create_task(self._close(grace))

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return {"reconnects": max(0, self._lives - 1), "stale_settlements": self._stale}

    # Events: noted down while the loop turns, told when it stands

    def _tell(self, event: Callable[..., None], *arguments: Any) -> None:
        self._news.append((event, list(arguments)))
        self._loop.stop()

    def _tell_in_batch(self, event: Callable[..., None], head: list[Any], item: Any) -> None:
        if self._news and self._news[-1][0] == event and self._news[-1][1][:-1] == head:
            self._news[-1][1][-1].append(item)
        else:
            self._tell(event, *head, [item])

    def _tell_state(
        self,
        state: State,
        cause: Exception | None = None,
        retry_in: float | None = None,
        peer: Capabilities | None = None,
    ) -> None:
        self._state = state
        self._tell(self._events.on_state, state, cause, retry_in, peer)

    def _tell_sent(self, result: SentResult) -> None:
        self._tell_in_batch(self._events.on_sent, [], result)

    def _tell_unsubscribed(self, source: Source) -> None:
        error = Cancelled(f"unsubscribed from {source}", delivered=Delivered.NO)
        self._tell(self._events.on_subscribed, source, "", error)

    def _follow_marks(self) -> None:
        if self._sender.blocked and self._state is State.READY:
            self._tell_state(State.BLOCKED)
        elif self._state is State.BLOCKED and not self._sender.blocked:
            self._tell_state(State.READY)

    # The life of the connection: sessions, one after the other

    async def _live(self) -> None:
        attempt = 0
        while not self._closing:
            host = self._hosts[attempt % len(self._hosts)]
            attempt += 1
            self._tell_state(State.CONNECTING)
            session = self._new_session()
            session.owner = self
            self._end = self._loop.create_future()
            try:
                cause = await self._open(session, host, self._end)
            finally:
                await self._tear_down(session)
            retry_in = None if isinstance(cause, AuthFailed) else self._backoff.next()
            self._tell_state(State.LOST, cause, retry_in)
            self._answer_all(cause, self._stable_replies)
            if retry_in is None:
                return
            await asyncio.sleep(retry_in)

    async def _open(self, session: AsyncioSession, host: Host | None, end: asyncio.Future[Exception]) -> Exception:
        where = host.address if host is not None else "the peer"
        try:
            async with asyncio.timeout(self._connect_timeout):
                peer = await session.open(host)
        except TimeoutError:
            return ConnectFailed(f"{where} has not answered within {self._connect_timeout:g} seconds")
        except ConnectFailed as error:
            return error
        except Exception as error:
            failure = ConnectFailed(f"{where} cannot be connected: {error!s:.500}")
            failure.__cause__ = error
            return failure
        self._session = session
        self._sender.begin(session)
        self._lives += 1
        self._tell_state(State.READY, peer=peer)
        self._missing = set(self._wanted)
        if not self._missing:
            self._backoff.reset()
        for source in self._wanted:
            self._receive(session, source)
        return await end

    async def _tear_down(self, session: AsyncioSession) -> None:
        # At once, and not after the waiting: the owner may settle and unsubscribe meanwhile.
        self._session = None
        self._sender.end()
        for delivery in self._unsettled:
            delivery.stale = True
        self._unsettled.clear()
        self._inboxes.clear()
        # Nobody shall start what is stale before it was told. Answers are as good as ever.
        self._news = [
            (event, arguments)
            for event, arguments in self._news
            if event != self._events.on_deliveries or arguments[0].kind is SourceKind.REPLY
        ]
        running = self._passing | self._lasting
        for task in running:
            task.cancel()
        try:
            if running:
                await asyncio.wait(running, timeout=_TEARDOWN)
        finally:
            session.close()

    def _answer_all(self, cause: Exception, answers_may_come: bool) -> None:
        self._sender.lose(cause, answers_may_come)
        for deliveries in self._settling.values():
            error = ConnectionLost(f"the connection went before the settlement was written: {cause}")
            self._tell(self._events.on_settled, deliveries, error)
            for delivery in deliveries:
                delivery.stale = True
        self._settling.clear()

    async def _close(self, grace: float) -> None:
        deadline = self._loop.time() + grace
        while self._passing and (left := deadline - self._loop.time()) > 0.0:
            await asyncio.wait(self._passing, timeout=left)
        if self._life is not None and not self._life.done():
            self._life.cancel()
            await asyncio.wait({self._life})
        self._answer_all(Closed("the connection was closed"), answers_may_come=False)
        await self._loop.shutdown_asyncgens()
        self._tell_state(State.CLOSED)

    def broke(self, error: BaseException) -> None:
        """See Owner."""
        if self._end is not None and not self._end.done():
            if not isinstance(error, ConnectionLost | ConnectFailed):
                lost = ConnectionLost(f"the connection broke: {error!s:.500}")
                lost.__cause__ = error
                error = lost
            self._end.set_result(error)

    def _start(self, coroutine: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._begun = True
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def _start_passing(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._start(coroutine, self._passing)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """See Owner."""

        async def run() -> None:
            try:
                await coroutine
            except Exception as error:
                self.broke(error)
            else:
                self.broke(ConnectionLost("the connection was closed by the peer"))

        self._start(run(), self._lasting)

    # Receiving

    def _receive(self, session: AsyncioSession, source: Source) -> None:
        self._generation += 1
        inbox = Inbox(source, self._wanted[source], self._generation, self)
        receiver = self._start(session.receive(source, inbox), self._lasting)
        # A callback and no `finally`: a coroutine that is cancelled before it has begun never gets there.
        receiver.add_done_callback(partial(self._received_all, session, inbox))
        self._inboxes[source] = inbox, receiver

    def _received_all(self, session: AsyncioSession, inbox: Inbox, receiver: asyncio.Task[None]) -> None:
        source = inbox.source
        error = None if receiver.cancelled() else receiver.exception()
        if inbox.cancelled:
            self._tell_unsubscribed(source)
        if self._session is not session:
            return
        del self._inboxes[source]
        if inbox.cancelled:
            if source in self._wanted:
                # It was subscribed again while its end was under way.
                self._receive(session, source)
        elif error is not None and is_loss(error):
            self.broke(error)
        else:
            self._wanted.pop(source, None)
            self._missing.discard(source)
            ended = TransportError(f"the peer has ended the subscription of {source}")
            self._tell(self._events.on_subscribed, source, "", ended if error is None else as_ours(error))

    def receiving(self, inbox: Inbox, address: str) -> None:
        """See Owner."""
        if inbox.source.kind is SourceKind.REPLY:
            self._sender.reply_address = address
        if inbox.source in self._missing:
            self._missing.discard(inbox.source)
            if not self._missing:
                self._backoff.reset()
        self._tell(self._events.on_subscribed, inbox.source, address, None)

    def received(self, inbox: Inbox, delivery: Delivery) -> None:
        """See Owner."""
        if delivery.source.kind is not SourceKind.REPLY:
            if self._session is None:
                # The session has ended while its reader still ran: nobody could settle this, so it comes again.
                return
            self._unsettled[delivery] = inbox
        self._tell_in_batch(self._events.on_deliveries, [delivery.source], delivery)

    def _settled(self, session: AsyncioSession, inboxes: list[Inbox], task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or task not in self._settling or (error is not None and self._session is not session):
            return  # answered with all the others, after LOST
        if error is None:
            # Written, and so even where the session has ended meanwhile: its peer may have read it, and then nothing
            # comes again.
            for inbox in inboxes:
                inbox.settled()
        elif is_loss(error):
            self.broke(error)
            return
        else:
            self._unsettled.update(zip(self._settling[task], inboxes, strict=True))
        self._tell(self._events.on_settled, self._settling.pop(task), None if error is None else as_ours(error))
