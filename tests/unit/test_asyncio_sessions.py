"""AsyncioConnection with scripted sessions: what each failure of a session means to messages and subscriptions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from messaging.drivers.asyncio_connection import AsyncioConnection, AsyncioSession, Inbox
from messaging.drivers.base import Capabilities, State
from messaging.errors import (
    AuthFailed,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Delivered,
    EncodeError,
    NoRoute,
    Rejected,
    TransportError,
)
from messaging.message import Delivery, Outcome, Outgoing, Route, Source, SourceKind, Stage
from messaging.url import Host
from tests.unit.pumping import Peer, Recorder, Services

ANY = Source(SourceKind.ANY, "", "topic")
REPLY = Source.reply()
TO_ANY = Route.any("", "topic")


class Session(AsyncioSession):
    """A session that a test scripts; it records what happened to it."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.opening: Callable[[], Any] = lambda: None
        self.sending: Callable[[Outgoing], Any] = lambda outgoing: None
        self.receiving: Callable[[Inbox], Any] = lambda inbox: None
        self.settling: Callable[[], Any] = lambda: None
        self.inboxes: list[Inbox] = []
        self.forever = asyncio.Event()

    async def open(self, host: Host | None) -> Capabilities | None:
        self.log.append("open")
        result: Any = self.opening()
        told: Capabilities | None = await result if asyncio.iscoroutine(result) else result
        return told

    async def send(self, outgoing: Outgoing, body: bytes, reply_to: str, budget: float | None) -> Any:
        self.log.append(f"send {body.decode()}")
        result = self.sending(outgoing)
        return await result if asyncio.iscoroutine(result) else result

    async def receive(self, source: Source, inbox: Inbox) -> None:
        self.receiving(inbox)
        inbox.ready("address")
        self.inboxes.append(inbox)
        await self.forever.wait()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        self.log.append(f"settle {outcome.name} {delay:g} {reason}")
        result = self.settling()
        if asyncio.iscoroutine(result):
            await result

    def close(self) -> None:
        self.log.append("close")


class Scripted:
    """A connection whose sessions are prepared by the test."""

    def __init__(self, prepare: Callable[[Session], None] = lambda session: None, **options: Any) -> None:
        self.log: list[str] = []
        self.sessions: list[Session] = []

        def session() -> Session:
            made = Session(self.log)
            prepare(made)
            self.sessions.append(made)
            return made

        self.events = Recorder()
        connection = AsyncioConnection(session, (), self.events, Services(jitter=lambda: 0.01), **options)
        self.connection = connection
        self.peer = Peer(connection, self.events)

    def ready(self, *sources: Source) -> Scripted:
        """Pump until READY and subscribed."""
        for source in sources:
            self.peer.connection.subscribe(source, 10)
        self.peer.until(lambda: "READY" in self.events.log and len(self.events.addresses) == len(sources))
        return self


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """A maker of scripted connections, which are closed after the test."""
    made: list[Scripted] = []

    def make(*arguments: Any, **options: Any) -> Scripted:
        made.append(Scripted(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.peer.connection.close(0.0)
        each.peer.until(lambda each=each: each.events.log[-1:] == ["CLOSED"])  # type: ignore[misc]
        assert each.peer.connection.pump(1.0) == float("inf")
        each.peer.connection.wake()


def fail(error: BaseException) -> Callable[..., Any]:
    """A function that raises."""

    def raising(*_: Any) -> Any:
        raise error

    return raising


async def hang() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


def test_a_refused_login_is_not_repeated(scripted: Callable[..., Scripted]) -> None:
    """AuthFailed from open is final."""
    it = scripted(lambda session: setattr(session, "opening", fail(AuthFailed("wrong"))))
    it.peer.until(lambda: it.events.last_state() is State.LOST)
    assert it.events.retries[-1] is None
    it.peer.connection.pump(0.05)
    assert it.log == ["open", "close"]


def test_an_open_that_hangs_is_given_up(scripted: Callable[..., Scripted]) -> None:
    """A peer that does not answer within `connect_timeout` is ConnectFailed."""
    it = scripted(lambda session: setattr(session, "opening", hang), connect_timeout=0.02)
    it.peer.until(lambda: it.events.last_state() is State.LOST)
    assert isinstance(it.events.causes[-1], ConnectFailed)
    assert "0.02 seconds" in str(it.events.causes[-1])


def test_what_the_server_can_do_is_told(scripted: Callable[..., Scripted]) -> None:
    """What open returns comes with READY."""
    it = scripted(lambda session: setattr(session, "opening", lambda: Capabilities(pools=True))).ready()
    assert it.events.peers[-1] == Capabilities(pools=True)


@pytest.mark.parametrize(
    ("raised", "told", "delivered"),
    [
        (NoRoute("nobody"), NoRoute, Delivered.NO),
        (Rejected("no"), Rejected, Delivered.NO),
        (KeyError("bug"), TransportError, Delivered.MAYBE),
    ],
)
def test_an_error_of_one_message_stays_with_it(
    scripted: Callable[..., Scripted], raised: Exception, told: type[Exception], delivered: Delivered
) -> None:
    """A refusal, or a bug in the session's send, ends that message alone."""
    it = scripted(lambda session: setattr(session, "sending", fail(raised))).ready()
    it.peer.send(TO_ANY)
    it.peer.until(lambda: it.events.sent)
    (error,) = it.events.errors
    assert (type(error), error.delivered) == (told, delivered)
    assert it.events.last_state() is State.READY


@pytest.mark.parametrize("raised", [OSError("reset"), EOFError(), ConnectionLost("gone")])
def test_a_broken_socket_ends_the_session(scripted: Callable[..., Scripted], raised: Exception) -> None:
    """What was begun is in doubt, what was not is not delivered; it is told after LOST, and a new session follows."""
    it = scripted(lambda session: setattr(session, "sending", fail(raised)), in_flight=1).ready()
    for body in (b"1", b"2"):
        it.peer.connection.publish(Outgoing(TO_ANY, body, {}))
    it.peer.until(lambda: it.events.log.count("READY") == 2)
    assert it.events.log == ["CONNECTING", "READY", "LOST", "sent", "CONNECTING", "READY"]
    assert [result.outgoing.body for result in it.events.sent] == [b"2", b"1"]
    assert [error.delivered for error in it.events.errors] == [Delivered.NO, Delivered.MAYBE]
    assert it.log == ["open", "send 1", "close", "open"]


def twice_ready(it: Scripted) -> bool:
    """Whether a second session followed the first."""
    return it.events.log.count("READY") == 2


def test_a_task_of_the_session_that_ends_breaks_it(scripted: Callable[..., Scripted]) -> None:
    """When a reader returns, raises, or a callback says so, the session ends."""

    async def reads() -> None:
        await asyncio.sleep(0)

    async def raises() -> None:
        raise ValueError("garbage")

    def broken(session: Session) -> None:
        session.broken(OSError("told by a callback"))

    for begin, said in (
        (lambda session: session.spawn(reads()), "closed by the peer"),
        (lambda session: session.spawn(raises()), "garbage"),
        (broken, "told by a callback"),
    ):
        it = scripted()
        it.ready()
        begin(it.sessions[0])
        it.peer.until(partial(twice_ready, it))
        assert said in str(it.events.causes[2])


def test_a_source_that_is_refused_ends_alone(scripted: Callable[..., Scripted]) -> None:
    """An error of one subscription is told for it; the connection, and the others, live on."""

    def refuse(inbox: Inbox) -> None:
        if inbox.source == ANY:
            raise Rejected("not allowed")

    it = scripted(lambda session: setattr(session, "receiving", refuse))
    it.peer.connection.subscribe(ANY, 1)
    it.ready(REPLY)
    assert [(source, type(error)) for source, error in it.events.subscription_errors] == [(ANY, Rejected)]
    it.sessions[0].forever.set()
    it.peer.until(lambda: len(it.events.subscription_errors) == 2)
    assert "ended the subscription" in str(it.events.subscription_errors[1][1])
    assert it.events.last_state() is State.READY


def test_a_subscription_that_is_cancelled_before_it_began(scripted: Callable[..., Scripted]) -> None:
    """Subscribing and unsubscribing in one breath is told as Cancelled all the same."""
    it = scripted().ready()
    it.peer.connection.subscribe(ANY, 1)
    it.peer.connection.unsubscribe(ANY)
    it.peer.until(lambda: it.events.subscription_errors)
    assert it.sessions[0].inboxes == []


def test_settling_is_passed_on(scripted: Callable[..., Scripted]) -> None:
    """Outcome, delay and reason reach the session; a failure leaves the deliveries unsettled, so that they can be
    settled again.
    """
    it = scripted().ready(ANY)
    it.sessions[0].inboxes[0].put(b"x", {})
    it.peer.until(lambda: it.events.deliveries)
    (delivery,) = it.events.deliveries
    it.sessions[0].settling = fail(Rejected("not now"))
    it.peer.connection.settle([delivery], Outcome.REQUEUE, 5.0, "why")
    it.peer.until(lambda: it.events.settled)
    it.sessions[0].settling = lambda: None
    it.peer.connection.settle([delivery], Outcome.REJECT, 0.0, "bad")
    it.peer.until(lambda: len(it.events.settled) == 2)
    assert [type(error) for _, error in it.events.settled] == [Rejected, type(None)]
    assert it.log[1:] == ["settle REQUEUE 5 why", "settle REJECT 0 bad"]


def test_a_settlement_under_way_when_the_session_breaks(scripted: Callable[..., Scripted]) -> None:
    """It is told as not written, and its deliveries are stale."""
    it = scripted().ready(ANY)
    it.sessions[0].inboxes[0].put(b"x", {})
    it.peer.until(lambda: it.events.deliveries)
    it.sessions[0].settling = hang
    it.peer.accept(*it.events.deliveries)
    it.sessions[0].broken(OSError("reset"))
    it.peer.until(lambda: it.events.settled)
    assert [type(error) for _, error in it.events.settled] == [ConnectionLost]
    assert it.events.deliveries[0].stale


def test_a_settlement_that_was_written_before_the_session_broke(scripted: Callable[..., Scripted]) -> None:
    """It is told as written, however late the news of it come: its delivery may never come again."""
    it = scripted().ready(ANY)
    session = it.sessions[0]
    session.inboxes[0].put(b"x", {})
    it.peer.until(lambda: it.events.deliveries)
    session.settling = lambda: session.broken(OSError("reset"))
    it.peer.accept(*it.events.deliveries)
    it.peer.until(partial(twice_ready, it))
    assert it.events.settled == [(it.events.deliveries, None)]


def test_settling_while_a_session_is_torn_down(scripted: Callable[..., Scripted]) -> None:
    """Deliveries are stale from the moment on from which nobody can settle them, and none come any more."""

    async def slow_to_go(inbox: Inbox) -> None:
        try:
            await hang()
        finally:
            inbox.put(b"late", {})
            await hang()

    it = scripted().ready(ANY)
    session = it.sessions[0]
    session.inboxes[0].put(b"x", {})
    it.peer.until(lambda: it.events.deliveries)
    session.spawn(slow_to_go(session.inboxes[0]))
    it.peer.connection.pump(0.0)
    session.broken(OSError("reset"))
    it.peer.until(lambda: it.connection.session is None)
    assert it.events.last_state() is State.READY
    assert it.events.deliveries[0].stale
    it.peer.accept(*it.events.deliveries)
    it.peer.until(partial(twice_ready, it))
    assert it.events.bodies == [b"x"]
    assert it.events.settled == []
    assert it.peer.connection.counts()["stale_settlements"] == 1


def test_answers_need_no_settlement(scripted: Callable[..., Scripted]) -> None:
    """What comes for REPLY does not fill its window, and settling it is no mistake."""
    it = scripted().ready(REPLY)
    for _ in range(20):
        it.sessions[0].inboxes[0].put(b"x", {})
    it.peer.until(lambda: len(it.events.deliveries) == 20)
    it.peer.accept(*it.events.deliveries)
    assert len(it.events.settled) == 1
    assert it.peer.connection.counts()["stale_settlements"] == 0


def test_an_answer_that_came_before_the_session_broke(scripted: Callable[..., Scripted]) -> None:
    """It is told, in the same breath in which the connection is lost; a request is not, for it comes again."""
    it = scripted().ready(REPLY, ANY)
    for inbox in it.sessions[0].inboxes:
        inbox.put(inbox.source.kind.name.encode(), {})
    it.sessions[0].broken(OSError("reset"))
    it.peer.until(partial(twice_ready, it))
    assert it.events.bodies == [b"REPLY"]


def test_what_waits_expires(scripted: Callable[..., Scripted]) -> None:
    """A message that waits for others to be sent ends at its deadline, in a pump that waits."""
    it = scripted(lambda session: setattr(session, "sending", lambda outgoing: hang()), in_flight=1).ready()
    it.peer.send(TO_ANY, b"1")
    it.peer.send(TO_ANY, b"2", deadline=time.monotonic() + 0.05)
    began = time.monotonic()
    it.peer.until(lambda: it.events.sent)
    assert time.monotonic() - began < 5.0
    assert [type(error) for error in it.events.errors] == [DeadlineExceeded]
    it.peer.send(TO_ANY, b"3", deadline=time.monotonic() - 1.0)
    it.peer.until(lambda: len(it.events.sent) == 2)
    assert it.log == ["open", "send 1"]


def test_what_is_not_sent(scripted: Callable[..., Scripted]) -> None:
    """A withdrawn message is passed over in silence; one that cannot be encoded is told; neither reaches the
    session.
    """

    def encode(address: str, remaining: float | None) -> bytes:
        raise ValueError("no")

    it = scripted().ready()
    withdrawn = Outgoing(TO_ANY, b"x", {}, withdrawn=True)
    it.peer.connection.publish(withdrawn)
    it.peer.connection.publish(Outgoing(TO_ANY, b"x", {}, encode=encode))
    it.peer.until(lambda: it.events.sent)
    assert [type(error) for error in it.events.errors] == [EncodeError]
    assert it.log == ["open"]


def test_too_much_waiting_is_blocked(scripted: Callable[..., Scripted]) -> None:
    """When the buffer passes its mark BLOCKED is told, and READY when it has drained."""
    gate = asyncio.Event()
    it = scripted(lambda session: setattr(session, "sending", lambda outgoing: gate.wait()), in_flight=1).ready()
    for _ in range(10_010):
        it.peer.connection.publish(Outgoing(TO_ANY, b"x", {}))
    it.peer.until(lambda: it.events.last_state() is State.BLOCKED)
    gate.set()
    it.peer.until(lambda: len(it.events.sent) == 10_010)
    assert it.events.states == [State.CONNECTING, State.READY, State.BLOCKED, State.READY]


def test_publishing_while_lost_is_answered(scripted: Callable[..., Scripted]) -> None:
    """What is published on a connection that is not there comes back as not delivered."""
    it = scripted(lambda session: setattr(session, "opening", fail(OSError("refused"))))
    it.peer.until(lambda: it.events.last_state() is State.LOST)
    it.peer.send(TO_ANY)
    assert [(type(error), error.delivered) for error in it.events.errors] == [(ConnectionLost, Delivered.NO)]


def test_close_flushes_first(scripted: Callable[..., Scripted]) -> None:
    """Close waits for what is being sent, up to its grace; what is not done then is told, and CLOSED comes last."""
    gate = asyncio.Event()
    it = scripted(lambda session: setattr(session, "sending", lambda outgoing: gate.wait())).ready()
    it.peer.send(TO_ANY)
    it.peer.connection.close(10.0)
    it.peer.pump()
    assert it.events.last_state() is State.READY
    gate.set()
    it.peer.until(lambda: it.events.last_state() is State.CLOSED)
    assert it.events.sent[0].stage is Stage.TAKEN

    stuck = scripted(lambda session: setattr(session, "sending", lambda outgoing: hang())).ready()
    stuck.peer.send(TO_ANY)
    stuck.peer.connection.close(0.02)
    stuck.peer.until(lambda: stuck.events.last_state() is State.CLOSED)
    assert [error.delivered for error in stuck.events.errors] == [Delivered.MAYBE]
    assert stuck.log[-1] == "close"


def test_close_before_the_first_pump(scripted: Callable[..., Scripted]) -> None:
    """A connection that was never used closes without connecting, in one pump."""
    it = scripted()
    it.peer.connection.close(5.0)
    it.peer.connection.pump(0.0)
    assert it.events.states == [State.CLOSED]
    assert it.log == []


def test_the_backoff_starts_afresh_when_all_is_back(scripted: Callable[..., Scripted]) -> None:
    """READY alone does not reset it: a peer that accepts connections but no subscriptions is not hammered."""

    def refuse_sources(session: Session) -> None:
        session.receiving = fail(OSError("no"))

    it = scripted(refuse_sources)
    it.peer.connection.subscribe(ANY, 1)
    it.peer.until(lambda: it.events.log.count("LOST") == 4)
    retries = [retry for retry in it.events.retries if retry is not None][:4]
    assert retries == pytest.approx([0.0005, 0.001, 0.002, 0.004])
