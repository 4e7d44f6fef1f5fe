"""amqp1:// over a router in this process, message by message: what consumers answer is what senders are told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from proton import Delivery as Wire

from messaging.drivers.amqp1.connection import Amqp1Connection
from messaging.drivers.base import Role, State
from messaging.errors import ConfigError, ConnectionLost, DeadlineExceeded, Delivered, NoRoute, Overloaded, ServerLost
from messaging.message import Outcome, Outgoing, Route, Source, SourceKind, Stage
from messaging.testing.conformance.bare import Bare, together
from tests.unit.amqp1_router import Router

_SOURCE = Source(SourceKind.ANY, "ex", "topic", "a")
_ROUTE = Route.any("ex", "topic")
_ADDRESS = "openstack.org/om/rpc/anycast/ex/topic"


@pytest.fixture
def router() -> Iterator[Router]:
    """A router of the test's own."""
    with Router() as running:
        yield running


class Ends:
    """A receiver and a sender at a router."""

    def __init__(self, router: Router, stack: ExitStack) -> None:
        self.receiver = _bare(router, Role.RPC_SERVER, stack)
        self.sender = _bare(router, Role.RPC_CLIENT, stack)
        self.receiver.subscribe(_SOURCE)

    def until(self, predicate: object, what: str) -> None:
        """Pump both until something is so."""
        together([self.sender, self.receiver], predicate, what)  # type: ignore[arg-type]

    def news(self, outgoing: Outgoing) -> tuple[Stage | None, Exception | None]:
        """Pump until the end of a message is told."""
        self.until(lambda: self.sender.final(outgoing), "news of a message")
        result = self.sender.final(outgoing)
        assert result is not None
        return result.stage, result.error


def _bare(router: Router, role: Role, stack: ExitStack, **options: object) -> Bare:
    made = Bare(router.url, role, {"profile": "router", **options})
    stack.callback(made.close)
    made.connect()
    return made


@pytest.fixture
def ends(router: Router) -> Iterator[Ends]:
    """Both ends, connected and subscribed."""
    with ExitStack() as stack:
        yield Ends(router, stack)


def test_taken_is_what_the_consumer_says(ends: Ends) -> None:
    """A message is TAKEN when its consumer has settled it, and not when the router has it."""
    outgoing = ends.sender.publish(_ROUTE, b"one")
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    for _ in range(20):
        ends.sender.pump(0.002)
    assert ends.sender.news(outgoing) == []
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(outgoing) == (Stage.TAKEN, None)


def test_a_consumer_that_is_full_is_overloaded(ends: Ends) -> None:
    """REQUEUE reaches the sender as a message that may go elsewhere: not delivered, and not `nobody is there`."""
    outgoing = ends.sender.publish(_ROUTE)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.connection.settle(ends.receiver.take(), Outcome.REQUEUE)
    _, error = ends.news(outgoing)
    assert isinstance(error, Overloaded)
    assert error.delivered is Delivered.NO


def test_a_consumer_that_rejects_ends_the_message(ends: Ends, router: Router) -> None:
    """REJECT reaches the sender as rejected; nothing keeps dead letters here."""
    outgoing = ends.sender.publish(_ROUTE)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.connection.settle(ends.receiver.take(), Outcome.REJECT, 0.0, "why")
    _, error = ends.news(outgoing)
    assert error is not None
    assert getattr(error, "delivered", None) is Delivered.NO
    assert router.outcomes == [Wire.REJECTED]


def test_nobody_is_no_route_at_once(ends: Ends) -> None:
    """The router releases what nobody consumes, and the error names the address."""
    _, error = ends.news(ends.sender.publish(Route.any("ex", "nobody"), deadline=math.inf))
    assert isinstance(error, NoRoute)
    assert error.delivered is Delivered.NO
    assert "anycast/ex/nobody" in str(error)


def test_a_consumer_that_goes_with_a_message_leaves_it_in_doubt(ends: Ends) -> None:
    """It was delivered and not settled when its connection broke: MAYBE, and its delivery is stale."""
    outgoing = ends.sender.publish(_ROUTE)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    connection = ends.receiver.connection
    assert isinstance(connection, Amqp1Connection)
    connection.stream.shut_down()
    _, error = ends.news(outgoing)
    assert isinstance(error, ServerLost)
    assert error.delivered is Delivered.MAYBE
    (delivery,) = ends.receiver.take()
    assert delivery.stale


def test_without_credit_messages_wait_and_expire(router: Router) -> None:
    """A link without credit holds what is published: it expires unwritten, goes out when credit comes, and is withdrawn
    unsent.
    """
    router.credit = 0
    with ExitStack() as stack:
        ends = Ends(router, stack)
        clock = ends.sender.connection._clock  # type: ignore[attr-defined]
        late = ends.sender.publish(_ROUTE, b"late", deadline=clock() + 0.05)
        stage, error = ends.news(late)
        assert stage is None
        assert isinstance(error, DeadlineExceeded)
        waiting = ends.sender.publish(_ROUTE, b"waiting")
        withdrawn = ends.sender.publish(_ROUTE, b"withdrawn")
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
        sender = _bare(router, Role.RPC_CLIENT, stack)
        deadline = sender.connection._clock() + 0.3  # type: ignore[attr-defined]
        for _ in range(10_001):
            sender.publish(_ROUTE, deadline=deadline)
        sender.until(lambda: sender.events.state is State.BLOCKED, "BLOCKED")
        sender.until(lambda: sender.events.state is State.READY, "READY when they have expired")


def test_a_subscription_that_is_ended_comes_back(ends: Ends, router: Router) -> None:
    """The consumer's link is ended by the peer: it is told, attached again, and messages pass; the connection lives."""
    before = list(ends.receiver.events.states)
    outgoing = ends.sender.publish(_ROUTE, b"held")
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    (held,) = ends.receiver.take()
    router.detach(_ADDRESS)
    ends.until(lambda: ends.receiver.events.unsubscribed, "news of the end")
    source, error = ends.receiver.events.unsubscribed[-1]
    assert source == _SOURCE
    assert isinstance(error, ConnectionLost)
    assert "ended by a test" in str(error)
    assert held.stale
    ends.receiver.settle([held])
    assert ends.receiver.connection.counts()["stale_settlements"] == 1
    assert ends.news(outgoing)[1] is not None
    ends.until(lambda: _SOURCE in ends.receiver.events.subscribed, "the subscription again")
    again = ends.sender.publish(_ROUTE, b"again")
    ends.until(lambda: ends.receiver.events.deliveries, "a message over the new link")
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(again) == (Stage.TAKEN, None)
    assert ends.receiver.events.states == before


def test_a_sending_link_that_is_ended_comes_back(ends: Ends, router: Router) -> None:
    """What it had not been answered is in doubt, what comes later goes over a new link; the connection lives."""
    router.holding = True
    before = list(ends.sender.events.states)
    doubtful = ends.sender.publish(_ROUTE, b"doubtful")
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    router.detach_senders()
    _, error = ends.news(doubtful)
    assert isinstance(error, ConnectionLost)
    assert error.delivered is Delivered.MAYBE
    router.release_outcomes()
    ends.receiver.settle(ends.receiver.take())
    later = ends.sender.publish(_ROUTE, b"later")
    ends.until(lambda: ends.receiver.events.deliveries, "a message over the new link")
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(later) == (Stage.TAKEN, None)
    assert ends.sender.events.states == before


def test_a_lost_connection_answers_everything(ends: Ends, router: Router) -> None:
    """Unsettled at the loss: MAYBE, told after LOST; both ends come back by themselves, subscribed."""
    router.holding = True
    outgoing = ends.sender.publish(_ROUTE)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    router.drop()
    _, error = ends.news(outgoing)
    assert isinstance(error, ConnectionLost)
    assert error.delivered is Delivered.MAYBE
    assert State.LOST in ends.sender.events.states
    router.release_outcomes()
    ends.until(
        lambda: ends.sender.events.state is State.READY and _SOURCE in ends.receiver.events.subscribed,
        "both ends are back",
    )
    assert ends.sender.connection.counts()["reconnects"] == 1


def test_what_a_closing_consumer_had_is_in_doubt(ends: Ends) -> None:
    """It was delivered and perhaps begun, so nobody may say that it was not."""
    outgoing = ends.sender.publish(_ROUTE)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.connection.close(1.0)
    _, error = ends.news(outgoing)
    assert isinstance(error, ServerLost)
    assert error.delivered is Delivered.MAYBE


def test_a_close_waits_for_outcomes_and_rests_meanwhile(ends: Ends, router: Router) -> None:
    """Within its grace a closing connection waits for what it has sent, and pumps no more than it has to."""
    router.holding = True
    outgoing = ends.sender.publish(_ROUTE)
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
        sender = _bare(router, Role.RPC_CLIENT, stack, presettled="requests")
        assert not sender.capabilities.confirms
        outgoing = sender.publish(Route.any("ex", "nobody"))
        sender.until(lambda: sender.final(outgoing), "news")
        assert outgoing.stage is Stage.WRITTEN
        sender.until(lambda: router.dropped == 1, "the router has dropped it")


def test_fanout_reaches_all_and_nobody_is_no_error(ends: Ends) -> None:
    """Taken when one has accepted it; released by nobody is taken too."""
    everyone = Source(SourceKind.ALL, "ex", "topic", "a")
    nobody = ends.sender.publish(Route.all("ex", "nobody"))
    assert ends.news(nobody) == (Stage.TAKEN, None)
    ends.receiver.subscribe(everyone)
    outgoing = ends.sender.publish(Route.all("ex", "topic"), b"all")
    ends.until(lambda: ends.receiver.events.deliveries, "its part of the fanout")
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(outgoing) == (Stage.TAKEN, None)


def test_large_messages_come_in_pieces_and_whole(ends: Ends) -> None:
    """Three megabytes are many frames; they are read when the last one is there."""
    body = bytes(range(256)) * 12_000
    ends.sender.publish(_ROUTE, body)
    ends.until(lambda: ends.receiver.events.deliveries, "the large message")
    (delivery,) = ends.receiver.take()
    assert delivery.body == body
    ends.receiver.settle([delivery])


def test_a_router_has_to_be_named(router: Router) -> None:
    """Found by itself it is refused for good, with the cure: nothing is stored there, so the promises are others."""
    bare = Bare(router.url, Role.RPC_CLIENT, {})
    bare.until(lambda: bare.events.state is State.LOST, "LOST")
    assert isinstance(bare.events.causes[-1], ConfigError)
    assert "profile=router" in str(bare.events.causes[-1])
    assert bare.events.retries[-1] is None
    bare.close()


def test_many_lives_leave_no_memory_behind(router: Router) -> None:
    """A hundred connections that are lost and made again: the pieces of the C library are given back each time."""
    with ExitStack() as stack:
        ends = Ends(router, stack)
        connection = ends.receiver.connection
        assert isinstance(connection, Amqp1Connection)
        sizes = []
        for number in range(100):
            connection.stream.shut_down()
            ends.receiver.events.states.clear()
            ends.receiver.until(lambda: State.LOST in ends.receiver.events.states, "LOST")
            ends.receiver.until(lambda: _SOURCE in ends.receiver.events.subscribed, "the subscription again")
            if number in (40, 99):
                sizes.append(_resident())
        assert sizes[1] - sizes[0] < 8_000, f"60 lives took {sizes[1] - sizes[0]} KiB"


def _resident() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
