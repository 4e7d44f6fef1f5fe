"""How far an error of one address reaches on real brokers: to whoever used that address, and to nobody else on the same
connections.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

import messaging
from messaging import notify, rpc
from messaging.drivers.amqp1.connection import Amqp1Connection
from messaging.drivers.amqp1.profiles import PROFILES
from messaging.drivers.base import Role, State
from messaging.errors import ConnectionLost, Delivered, MessagingError, NoRoute, Rejected, TransportError
from messaging.message import Route, Source
from messaging.target import DEFAULT_EXCHANGE, Target
from messaging.testing.conformance.bare import Bare
from messaging.testing.conformance.checks import Log
from tests.brokers.artemis import Artemis
from tests.brokers.broker_j import BrokerJ
from tests.faults.processes import until

OPEN, SHUT = "open", "shut"
"""A topic whose queues are there, and one that nobody may use."""


class Peer(NamedTuple):
    """A broker on which one topic is shut."""

    url: str
    options: dict[str, Any]
    refusal: type[TransportError]
    """What its users are told."""
    closed: str
    """An address that takes no answers."""


def _queues(prefix: str, divider: str) -> list[str]:
    names = (("anycast", OPEN), ("unicast", OPEN, "a"))
    return [divider.join([prefix, kind, DEFAULT_EXCHANGE, *rest]) for kind, *rest in names]


@pytest.fixture(scope="module")
def frugal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A Broker-J that makes no queues on demand."""
    queues = _queues("openstack.org.om.rpc", ".")
    with BrokerJ(tmp_path_factory.mktemp("frugal"), auto_create=False, queues=queues) as broker:
        yield Peer(broker.url, {"durable": False}, NoRoute, "TempQueue-of-nobody")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """An Artemis on which nobody has a right to one address."""
    shut = f"openstack.org/om/rpc/anycast/{DEFAULT_EXCHANGE}/{SHUT}"
    with Artemis(tmp_path_factory.mktemp("guarded"), login=("ann", "s3cret"), forbidden=[shut]) as broker:
        yield Peer(broker.url, {}, Rejected, shut)


@pytest.fixture(params=["frugal", "guarded"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each of them."""
    found: Peer = request.getfixturevalue(request.param)
    return found


class Service:
    """Answers, at once or when it may."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the argument."""
        return value

    @rpc.expose
    def held(self, ctxt: dict[str, Any], value: int) -> int:
        """Return it when the gate is open."""
        self.gate.wait(30)
        return value


class Collector:
    """Keeps notifications."""

    def __init__(self) -> None:
        self.events: Log[int] = Log()

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Keep one."""
        self.events.add(event.payload)


class Traffic:
    """Calls and notifications, one after another, over the connections of a transport: what became of them."""

    def __init__(self, transport: messaging.Transport, stack: ExitStack) -> None:
        topic = f"reach-{secrets.token_hex(4)}"
        self.service, self._collector = Service(), Collector()
        self._server = rpc.Server(transport, Target(topic=OPEN, server="a"), [self.service])
        listener = notify.Listener(transport, [Target(topic=topic)], [self._collector])
        for each in (self._server, listener):
            each.start(10)
            stack.callback(each.stop, 1.0)
        stack.callback(self.service.gate.set)
        self.client = rpc.Client(transport, Target(topic=OPEN), timeout=5)
        self._notifier = notify.Notifier(transport, publisher_id="p", topics=[topic], timeout=5)
        self._under_way = self.client.submit({}, "held", value=-1)
        self.rounds = 0
        self.failures: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        stack.callback(self._over.set)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                assert self.client.call({}, "echo", value=self.rounds) == self.rounds
                self._notifier.info({}, "event", self.rounds)
            except (AssertionError, MessagingError) as error:
                self.failures.append(repr(error))
            self.rounds += 1

    def goes_on(self) -> None:
        """Ten rounds more are made."""
        seen = self.rounds
        until(lambda: self.rounds >= seen + 10, "more traffic")

    def harm(self) -> list[str]:
        """End it; what went wrong: failures, notifications that were lost or doubled, and the call that was under way
        all the time.
        """
        self._over.set()
        self._thread.join(10)
        self.service.gate.set()
        found = list(self.failures)
        try:
            assert self._under_way.result(10) == -1
            self._collector.events.wait(self.rounds - len(self.failures), "the notifications")
            assert sorted(self._collector.events.items) == list(range(self.rounds))
        except (AssertionError, MessagingError) as error:
            found.append(repr(error))
        return found


def _accidents(transport: messaging.Transport, peer: Peer) -> Iterator[Callable[[], object]]:
    """What somebody does at the topic that is shut, each over a connection that the traffic uses too."""
    shut = rpc.Client(transport, Target(topic=SHUT), timeout=5)
    yield lambda: shut.call({}, "echo", value=1)
    yield lambda: shut.cast({}, "echo", value=1)
    yield lambda: rpc.Server(transport, Target(topic=SHUT, server="a"), [Service()]).start(5)


def takes_the_connection_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a link that is ended or refused is the end of its connection."""
    ended = Amqp1Connection._on_link_end

    def all_ended(self: Amqp1Connection, link: Any) -> None:
        ended(self, link)
        self._fail(ConnectionLost("planted"))

    monkeypatch.setattr(Amqp1Connection, "_on_link_end", all_ended)


@pytest.mark.parametrize("planted", [False, True])
def test_an_address_that_is_shut_harms_no_other(peer: Peer, planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, casts and servers at an address that is missing or forbidden are told so by name, NO where they sent;
    calls and notifications that cross them on the same connections have no failure, and no connection is lost.
    """
    if planted:
        takes_the_connection_along(monkeypatch)
    with ExitStack() as stack:
        transport = stack.enter_context(messaging.open_transport(peer.url, **peer.options))
        traffic = Traffic(transport, stack)
        for _ in range(5):
            for accident in _accidents(transport, peer):
                with pytest.raises(MessagingError) as caught:
                    accident()
                if not planted:
                    assert isinstance(caught.value, peer.refusal)
                    assert caught.value.delivered is Delivered.NO
                    assert SHUT in str(caught.value)
            traffic.goes_on()
        harm = traffic.harm()
        reconnects = transport.stats()["driver.reconnects"]
    assert (harm == [] and reconnects == 0) is not planted


class Answers:
    """Ten answers that follow each other closely, and among them one to a caller that is gone."""

    def __init__(self, peer: Peer) -> None:
        self.bare = Bare(peer.url, Role.RPC_SERVER, peer.options)
        self.bare.connect()
        self.address = self.bare.subscribe(Source.reply())
        for number in range(10):
            self.send(number)
            if number == 4:
                self.bare.publish(Route.reply(peer.closed), b"to nobody", confirm=False)

    def send(self, number: int) -> None:
        """Send one."""
        self.bare.publish(Route.reply(self.address), b"%d" % number, confirm=False)

    def until(self, last: int) -> list[int]:
        """All that have arrived when that one has."""
        events = self.bare.events
        self.bare.until(lambda: b"%d" % last in [each.body for each in events.deliveries], "the last answer")
        assert State.LOST not in events.states
        return [int(delivery.body) for delivery in events.deliveries]


def test_an_answer_that_reaches_nobody_harms_no_other(peer: Peer) -> None:
    """All other answers arrive, those behind it too."""
    answers = Answers(peer)
    try:
        assert answers.until(9) == list(range(10))
    finally:
        answers.bare.close()


def test_answers_that_are_lost_are_found(frugal: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: answers are settled when they are sent, which costs those behind one that reaches nobody."""
    monkeypatch.setitem(PROFILES, "broker-j", PROFILES["broker-j"]._replace(settles_answers=True))
    answers = Answers(frugal)
    try:
        sending: Any = answers.bare.connection._sending  # type: ignore[attr-defined]
        links = sending._attached
        answers.bare.until(lambda: sending._attached > links, "the next link")
        answers.send(10)
        assert answers.until(10) == [0, 1, 2, 3, 4, 10]
    finally:
        answers.bare.close()
