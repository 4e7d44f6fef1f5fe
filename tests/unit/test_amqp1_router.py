"""amqp1:// over a router that does what a test tells it: no credit, links that end, outcomes that are held back. What
any router does is tested in test_amqp1_routers.py.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import messaging
from messaging import notify, rpc
from messaging.drivers.amqp1.connection import Amqp1Connection
from messaging.drivers.amqp1.receiving import Receiving
from messaging.drivers.base import Role, State
from messaging.errors import ConnectionLost, DeadlineExceeded, Delivered
from messaging.message import Route, Source, SourceKind, Stage
from messaging.testing.conformance.bare import together
from tests.faults.processes import Stall, came_true, until
from tests.unit.amqp1_ends import Ends, bare_at
from tests.unit.amqp1_router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    """A router of the test's own."""
    with Router() as running:
        yield running


@pytest.fixture
def ends(router: Router) -> Iterator[Ends]:
    """Both ends, connected and subscribed."""
    with ExitStack() as stack:
        yield Ends(router.url, stack)


def test_without_credit_messages_wait_and_expire(router: Router) -> None:
    """A link without credit holds what is published: it expires unwritten, goes out when credit comes, and is withdrawn
    unsent.
    """
    router.credit = 0
    with ExitStack() as stack:
        ends = Ends(router.url, stack)
        clock = ends.sender.connection._clock  # type: ignore[attr-defined]
        late = ends.sender.publish(ends.route, b"late", deadline=clock() + 0.05)
        stage, error = ends.news(late)
        assert stage is None
        assert isinstance(error, DeadlineExceeded)
        waiting = ends.sender.publish(ends.route, b"waiting")
        withdrawn = ends.sender.publish(ends.route, b"withdrawn")
        assert (waiting.stage, withdrawn.stage) == (None, None)
        withdrawn.withdrawn = True
        router.grant(5)
        ends.until(lambda: ends.receiver.events.deliveries, "the message that waited")
        deliveries = ends.receiver.take()
        assert [bytes(delivery.body) for delivery in deliveries] == [b"waiting"]
        ends.receiver.settle(deliveries)
        assert ends.news(waiting) == (Stage.TAKEN, None)


def test_blocked_is_told_when_too_much_waits_for_credit(router: Router) -> None:
    """Ten thousand messages without credit are the mark; READY comes back when they have gone."""
    router.credit = 0
    with ExitStack() as stack:
        sender = bare_at(router.url, Role.RPC_CLIENT, stack)
        # Longer than a busy machine takes to publish them all.
        deadline = sender.connection._clock() + 3.0  # type: ignore[attr-defined]
        for _ in range(10_001):
            sender.publish(Route.any("ex", "topic"), deadline=deadline)
        sender.until(lambda: sender.events.state is State.BLOCKED, "BLOCKED")
        sender.until(lambda: sender.events.state is State.READY, "READY when they have expired")


def test_a_subscription_that_is_ended_comes_back(ends: Ends, router: Router) -> None:
    """The consumer's link is ended by the peer: it is told, attached again, and messages pass; the connection lives."""
    before = list(ends.receiver.events.states)
    outgoing = ends.sender.publish(ends.route, b"held")
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    (held,) = ends.receiver.take()
    router.detach(f"openstack.org/om/rpc/anycast/ex/{ends.topic}")
    ends.until(lambda: ends.receiver.events.unsubscribed, "news of the end")
    source, error = ends.receiver.events.unsubscribed[-1]
    assert source == ends.source
    assert isinstance(error, ConnectionLost)
    assert "ended by a test" in str(error)
    assert held.stale
    ends.receiver.settle([held])
    assert ends.receiver.connection.counts()["stale_settlements"] == 1
    assert ends.news(outgoing)[1] is not None
    ends.until(lambda: ends.source in ends.receiver.events.subscribed, "the subscription again")
    again = ends.sender.publish(ends.route, b"again")
    ends.until(lambda: ends.receiver.events.deliveries, "a message over the new link")
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(again) == (Stage.TAKEN, None)
    assert ends.receiver.events.states == before


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    @rpc.expose
    def answer(self, ctxt: object) -> int:
        """Wait, the first time."""
        first = not self.begun.is_set()
        self.begun.set()
        assert not first or self.go_on.wait(30)
        return 42


def test_a_lost_address_for_answers_is_told_to_who_waits(router: Router) -> None:
    """The link for answers is ended by the peer while a call runs: its caller is told MAYBE long before its deadline,
    since the next address is another one; over that one the next call has its answer.
    """
    slow = Slow()
    url = f"{router.url}?profile=router"
    with (
        messaging.open_transport(url) as served,
        messaging.open_transport(url) as calling,
        rpc.Server(served, messaging.Target(topic="slow", server="a"), [slow]),
    ):
        client = rpc.Client(calling, messaging.Target(topic="slow"), timeout=60)
        before = set(router.consumers)
        call = client.submit(None, "answer")
        assert slow.begun.wait(30)
        (address,) = set(router.consumers) - before
        router.detach(address)
        error = call.exception(timeout=30)
        assert isinstance(error, ConnectionLost)
        assert error.delivered is Delivered.MAYBE
        assert "ended by a test" in str(error)
        assert client.call(None, "answer") == 42
        slow.go_on.set()


class Deaf:
    """Hears what is of no interest here."""

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> None:
        """Nothing."""


def test_a_subscription_that_went_and_is_back_is_logged(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    """As a warning, since it mends itself, and then that it has; what is final would be an error."""

    def told() -> list[tuple[int, str]]:
        return [(level, text) for name, level, text in caplog.record_tuples if name == "messaging.lifecycle"]

    with (
        caplog.at_level(logging.INFO, logger="messaging.lifecycle"),
        messaging.open_transport(router.url, profile="router") as transport,
    ):
        with notify.Listener(transport, [messaging.Target(topic="events")], [Deaf()]) as listener:
            router.detach("openstack.org/om/notify/anycast/messaging/events")
            until(lambda: len(told()) >= 2, "both lines")
            assert listener.health()["consuming"]
    (gone, went), (back, came) = told()
    assert (gone, back) == (logging.WARNING, logging.INFO)
    assert "ended by a test" in went
    assert came.endswith("the subscription to 'pools' is back")


def forgets_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is the last word, also of what was attached before."""
    sound = Receiving.ended

    def forgetful(self: Receiving, pointer: object) -> bool:
        link = self._by_link.get(pointer)
        if link is not None and not link.attached:
            self._known.discard(link.source)
        return sound(self, pointer)

    monkeypatch.setattr(Receiving, "ended", forgetful)


@pytest.mark.parametrize("planted", [False, True])
def test_a_subscription_that_is_refused_for_a_while_comes_back(
    ends: Ends, router: Router, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost, and after it the peer refuses for a while what it had allowed before, as a broker does
    whose queue is not there yet: the subscription is tried until it stands again.
    """
    if planted:
        forgets_what_it_had(monkeypatch)
    address = f"openstack.org/om/rpc/anycast/ex/{ends.topic}"
    news = ends.receiver.events.unsubscribed
    router.refusing.add(address)
    router.drop()
    ends.until(lambda: len(news) >= (1 if planted else 3), "refusals")
    router.refusing.clear()
    assert {isinstance(error, ConnectionLost) for _, error in news} == {not planted}
    assert "refused by a test" in str(news[-1][1])
    if not planted:
        ends.until(lambda: ends.source in ends.receiver.events.subscribed, "the subscription again")
        outgoing = ends.sender.publish(ends.route, b"again")
        ends.until(lambda: ends.receiver.events.deliveries, "a message over the new link")
        ends.receiver.settle(ends.receiver.take())
        assert ends.news(outgoing) == (Stage.TAKEN, None)


def test_a_sending_link_that_is_ended_comes_back(ends: Ends, router: Router) -> None:
    """What it had not been answered is in doubt, what comes later goes over a new link; the connection lives."""
    router.holding = True
    before = list(ends.sender.events.states)
    doubtful = ends.sender.publish(ends.route, b"doubtful")
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    router.detach_senders()
    _, error = ends.news(doubtful)
    assert isinstance(error, ConnectionLost)
    assert error.delivered is Delivered.MAYBE
    router.release_outcomes()
    ends.receiver.settle(ends.receiver.take())
    later = ends.sender.publish(ends.route, b"later")
    ends.until(lambda: ends.receiver.events.deliveries, "a message over the new link")
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(later) == (Stage.TAKEN, None)
    assert ends.sender.events.states == before


class Crowd:
    """A connection with more subscriptions than its router allows it sessions, and one that sends to them."""

    def __init__(self, router: Router, most_sessions: int, stack: ExitStack) -> None:
        router.most_sessions = most_sessions
        self.sender = bare_at(router.url, Role.RPC_CLIENT, stack)
        self.receiver = bare_at(router.url, Role.RPC_SERVER, stack)
        self.sources = [Source(SourceKind.ANY, "ex", f"crowd-{number}", "a") for number in range(10)]
        for source in self.sources:
            self.receiver.connection.subscribe(source, 10)
        self.await_subscriptions()

    def await_subscriptions(self) -> None:
        """All that is in `sources` is subscribed."""
        self.receiver.until(lambda: self.receiver.events.subscribed.keys() == {*self.sources}, "the subscriptions")

    def hears_all(self) -> None:
        """A message to each source arrives and is taken, over a connection that was never lost."""
        sent = [self.sender.publish(Route.any("ex", source.topic)) for source in self.sources]
        both = [self.sender, self.receiver]
        together(both, lambda: len(self.receiver.events.deliveries) == len(sent), "every message")
        deliveries = self.receiver.take()
        assert {delivery.source for delivery in deliveries} == {*self.sources}
        for delivery in deliveries:
            self.receiver.settle([delivery])
        together(both, lambda: all(self.sender.final(outgoing) for outgoing in sent), "every outcome")
        assert [self.sender.error(outgoing) for outgoing in sent] == [None] * len(sent)
        assert State.LOST not in self.sender.events.states + self.receiver.events.states


def _consumer(source: Source) -> str:
    return f"openstack.org/om/rpc/anycast/ex/{source.topic}"


@pytest.mark.parametrize("most_sessions", [1, 2, 4])
def test_links_share_sessions_when_the_peer_allows_no_more(router: Router, most_sessions: int) -> None:
    """Beyond what the peer allows on a connection, links go where there are links already, and all of them work."""
    with ExitStack() as stack:
        Crowd(router, most_sessions, stack).hears_all()


@pytest.mark.parametrize("most_sessions", [4, 11])
def test_a_link_that_ends_leaves_those_on_its_session(router: Router, most_sessions: int) -> None:
    """Whether we end it or the peer does; and a session that goes with its last link makes room only once that is
    written, so what is subscribed in the same breath does not ask for one too many.
    """
    with ExitStack() as stack:
        crowd = Crowd(router, most_sessions, stack)
        for _ in range(len(crowd.sources)):
            crowd.receiver.connection.unsubscribe(crowd.sources.pop(0))
            crowd.sources.append(Source(SourceKind.ANY, "ex", f"later-{len(router.outcomes)}", "a"))
            crowd.receiver.connection.subscribe(crowd.sources[-1], 10)
            crowd.await_subscriptions()
            crowd.hears_all()
        crowd.receiver.events.unsubscribed.clear()
        router.detach(_consumer(crowd.sources[0]))
        crowd.receiver.until(lambda: crowd.receiver.events.unsubscribed, "news of the end")
        crowd.await_subscriptions()
        assert [source for source, _ in crowd.receiver.events.unsubscribed] == crowd.sources[:1]
        crowd.hears_all()


def test_a_shared_session_that_is_ended_takes_its_links_along(router: Router) -> None:
    """Each of them is told as ended, with the peer's reason, and comes back; those on other sessions notice nothing."""
    with ExitStack() as stack:
        crowd = Crowd(router, 4, stack)
        addresses = router.end_session(_consumer(crowd.sources[0]))
        assert 1 < len(addresses) < len(crowd.sources)
        told = crowd.receiver.events.unsubscribed
        crowd.receiver.until(lambda: len(told) >= len(addresses), "news of the end of each")
        assert sorted(_consumer(source) for source, _ in told) == sorted(addresses)
        assert all("ended by a test" in str(error) for _, error in told)
        crowd.await_subscriptions()
        crowd.hears_all()


def test_addresses_that_fail_at_once_are_passed_over(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name stands for three addresses, two of which have no route: the first attempt reaches the third one."""
    places = [("255.255.255.255", router.port), ("255.255.255.255", router.port), ("127.0.0.1", router.port)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *about, **options: found)
    with ExitStack() as stack:
        bare = bare_at(f"amqp1://three.example:{router.port}/", Role.RPC_CLIENT, stack)
        assert bare.events.states == [State.CONNECTING, State.READY]


def test_a_lost_connection_answers_everything(ends: Ends, router: Router) -> None:
    """Unsettled at the loss: MAYBE, told after LOST; both ends come back by themselves, subscribed."""
    router.holding = True
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    router.drop()
    _, error = ends.news(outgoing)
    assert isinstance(error, ConnectionLost)
    assert error.delivered is Delivered.MAYBE
    assert State.LOST in ends.sender.events.states
    router.release_outcomes()
    ends.until(
        lambda: ends.sender.events.state is State.READY and ends.source in ends.receiver.events.subscribed,
        "both ends are back",
    )
    assert ends.sender.connection.counts()["reconnects"] == 1


def test_a_close_waits_for_outcomes_and_rests_meanwhile(ends: Ends, router: Router) -> None:
    """Within its grace a closing connection waits for what it has sent, and pumps no more than it has to."""
    router.holding = True
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.settle(ends.receiver.take())
    ends.receiver.pump(0.0)
    ends.sender.connection.close(0.4)
    pumps = 0
    while ends.sender.events.state is not State.CLOSED:
        ends.sender.pump(0.1)
        pumps += 1
    assert pumps < 20
    error = ends.sender.error(outgoing)
    assert isinstance(error, ConnectionLost)
    assert error.delivered is Delivered.MAYBE


def test_a_settlement_that_may_have_left_counts_as_written(ends: Ends, router: Router) -> None:
    """A router that stands still keeps what the system has taken, and reads it later. So what left before the
    connection broke is told as settled; what never left is told as not.
    """
    receiver = ends.receiver
    connection: Any = receiver.connection
    outgoings = [ends.sender.publish(ends.route) for _ in range(2)]
    ends.until(lambda: len(receiver.events.deliveries) == 2, "two deliveries")
    first, second = receiver.take()
    with router.standing_still():
        receiver.settle([first])
        for _ in range(16):
            receiver.publish(ends.route, bytes(1_000_000))
        receiver.until(lambda: connection.stream.unwritten, "more than the system takes")
        assert receiver.events.settled == []
        receiver.settle([second])
        receiver.pump(0.0)
        connection.stream.shut_down()
        receiver.until(lambda: State.LOST in receiver.events.states, "the loss")
        receiver.pump(0.0)
    assert receiver.events.settled == [first]
    assert [(delivery, type(error)) for delivery, error in receiver.events.unsettled] == [(second, ConnectionLost)]
    assert ends.news(outgoings[0]) == (Stage.TAKEN, None)
    assert isinstance(ends.news(outgoings[1])[1], ConnectionLost)


@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_a_close_hands_back_without_credit(ends: Ends, router: Router, grace: float) -> None:
    """What a closing connection hands back cannot come to its own link again: that one has no credit any more."""
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.close(grace)
    _, error = ends.news(outgoing)
    assert isinstance(error, ConnectionLost)
    assert router.credit_left == [0]


def test_replies_are_settled_when_they_are_sent(ends: Ends, router: Router) -> None:
    """An answer costs no settlement: it is WRITTEN, and the router is not asked what became of it."""
    address = ends.sender.subscribe(Source.reply())
    answer = ends.receiver.publish(Route.reply(address), b"answer", confirm=False)
    ends.until(lambda: ends.sender.events.deliveries, "the answer")
    assert answer.stage is Stage.WRITTEN
    assert router.outcomes == []


def test_presettled_requests_are_only_written(router: Router) -> None:
    """By option: nobody says what became of them, and the capabilities do not promise it."""
    with ExitStack() as stack:
        sender = bare_at(router.url, Role.RPC_CLIENT, stack, presettled="requests")
        assert not sender.capabilities.confirms
        outgoing = sender.publish(Route.any("ex", "nobody"))
        sender.until(lambda: sender.final(outgoing), "news")
        assert outgoing.stage is Stage.WRITTEN
        sender.until(lambda: router.dropped == 1, "the router has dropped it")


def rests_till_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that ticks by its own heartbeat, whatever the peer has said in its Open."""
    sound = Amqp1Connection._on_open

    def deaf(self: Amqp1Connection, pointer: object) -> None:
        due = self._tick_at
        sound(self, pointer)
        self._tick_at = due

    monkeypatch.setattr(Amqp1Connection, "_on_open", deaf)


@pytest.mark.parametrize("planted", [False, True])
def test_a_peer_that_gives_up_silent_connections_sooner_than_we_look(
    router: Router, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the usual heartbeat of 15 s a connection that has nothing to say says so often enough for a peer that waits
    for one second alone.
    """
    if planted:
        rests_till_the_next_tick(monkeypatch)
    router.idle = 1.0
    with Stall() as stall, messaging.open_transport(router.url, profile="router") as transport:
        with notify.Listener(transport, [messaging.Target(topic="events")], [Deaf()]):
            lost = came_true(lambda: transport.stats()["driver.reconnects"], 2.5)
    assert bool(lost) is planted or stall.worst > 0.2


def test_many_lives_leave_no_memory_behind(router: Router) -> None:
    """A hundred connections that are lost and made again: the pieces of the C library are given back each time."""
    with ExitStack() as stack:
        ends = Ends(router.url, stack)
        connection = ends.receiver.connection
        assert isinstance(connection, Amqp1Connection)
        sizes = []
        for number in range(100):
            connection.stream.shut_down()
            ends.receiver.events.states.clear()
            ends.receiver.until(lambda: State.LOST in ends.receiver.events.states, "LOST")
            ends.receiver.until(lambda: ends.source in ends.receiver.events.subscribed, "the subscription again")
            if number in (40, 99):
                sizes.append(_resident())
        assert sizes[1] - sizes[0] < 8_000, f"60 lives took {sizes[1] - sizes[0]} KiB"


def _resident() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
