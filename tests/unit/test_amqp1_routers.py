"""amqp1:// over routers, message by message: what consumers answer is what senders are told.

Each test runs over the router of the tests, and over every real one of the machine: so the first does what they do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from messaging.drivers.amqp1.connection import Amqp1Connection
from messaging.drivers.base import Role, State
from messaging.errors import ConfigError, Delivered, NoRoute, Overloaded, Rejected, ServerLost
from messaging.message import Outcome, Route, Source, SourceKind, Stage
from messaging.testing.conformance.bare import Bare
from tests.brokers.router import installed
from tests.unit.amqp1_ends import Ends, bare_at


@pytest.fixture(params=["router_in_process", *installed()])
def url(request: pytest.FixtureRequest) -> str:
    """Where a router is."""
    found: str = request.getfixturevalue(request.param).url
    return found


@pytest.fixture
def ends(url: str) -> Iterator[Ends]:
    """Both ends, connected and subscribed."""
    with ExitStack() as stack:
        yield Ends(url, stack)


def test_taken_is_what_the_consumer_says(ends: Ends) -> None:
    """A message is TAKEN when its consumer has settled it, and not when the router has it."""
    outgoing = ends.sender.publish(ends.route, b"one")
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    for _ in range(20):
        ends.sender.pump(0.002)
    assert ends.sender.news(outgoing) == []
    ends.receiver.settle(ends.receiver.take())
    assert ends.news(outgoing) == (Stage.TAKEN, None)


def test_a_consumer_that_is_full_is_overloaded(ends: Ends) -> None:
    """REQUEUE reaches the sender as a message that may go elsewhere: not delivered, and not `nobody is there`."""
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.connection.settle(ends.receiver.take(), Outcome.REQUEUE)
    _, error = ends.news(outgoing)
    assert isinstance(error, Overloaded)
    assert error.delivered is Delivered.NO


def test_a_consumer_that_rejects_ends_the_message(ends: Ends) -> None:
    """REJECT reaches the sender as rejected; nothing keeps dead letters here."""
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.connection.settle(ends.receiver.take(), Outcome.REJECT, 0.0, "why")
    _, error = ends.news(outgoing)
    assert isinstance(error, Rejected)
    assert error.delivered is Delivered.NO


def test_nobody_is_no_route_at_once(ends: Ends) -> None:
    """The router releases what nobody consumes, and the error names the address."""
    _, error = ends.news(ends.sender.publish(Route.any("ex", f"{ends.topic}-nobody"), deadline=math.inf))
    assert isinstance(error, NoRoute)
    assert error.delivered is Delivered.NO
    assert f"anycast/ex/{ends.topic}-nobody" in str(error)


def test_a_consumer_that_goes_with_a_message_leaves_it_in_doubt(ends: Ends) -> None:
    """It was delivered and not settled when its connection broke: MAYBE, and its delivery is stale."""
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    connection = ends.receiver.connection
    assert isinstance(connection, Amqp1Connection)
    connection.stream.shut_down()
    _, error = ends.news(outgoing)
    assert isinstance(error, ServerLost)
    assert error.delivered is Delivered.MAYBE
    (delivery,) = ends.receiver.take()
    assert delivery.stale


def test_what_a_closing_consumer_had_is_in_doubt(ends: Ends) -> None:
    """It was delivered and perhaps begun, so nobody may say that it was not."""
    outgoing = ends.sender.publish(ends.route)
    ends.until(lambda: ends.receiver.events.deliveries, "a delivery")
    ends.receiver.connection.close(1.0)
    _, error = ends.news(outgoing)
    assert isinstance(error, ServerLost)
    assert error.delivered is Delivered.MAYBE


def test_answers_come_to_the_address_that_the_router_made(ends: Ends) -> None:
    """An answer is WRITTEN, nobody is asked what became of it, and it arrives."""
    address = ends.sender.subscribe(Source.reply())
    answer = ends.receiver.publish(Route.reply(address), b"answer", confirm=False)
    ends.until(lambda: ends.sender.events.deliveries, "the answer")
    assert answer.stage is Stage.WRITTEN
    assert [bytes(delivery.body) for delivery in ends.sender.take()] == [b"answer"]


def test_fanout_reaches_all_and_nobody_is_no_error(ends: Ends) -> None:
    """Each has its copy, and it is taken when the last one has settled; released by nobody is taken too."""
    nobody = ends.sender.publish(Route.all("ex", f"{ends.topic}-nobody"))
    assert ends.news(nobody) == (Stage.TAKEN, None)
    everyone = [ends.receiver, ends.another()]
    for number, bare in enumerate(everyone):
        bare.subscribe(Source(SourceKind.ALL, "ex", ends.topic, f"{number}"))
    outgoing = ends.sender.publish(Route.all("ex", ends.topic), b"all")
    ends.until(lambda: all(bare.events.deliveries for bare in everyone), "both parts of the fanout")
    for bare in everyone:
        assert ends.sender.final(outgoing) is None
        bare.settle(bare.take())
    assert ends.news(outgoing) == (Stage.TAKEN, None)


def test_a_fanout_that_one_server_could_not_take_is_taken(ends: Ends) -> None:
    """Where one has it and another is full, it has been delivered."""
    everyone = [ends.receiver, ends.another()]
    for number, bare in enumerate(everyone):
        bare.subscribe(Source(SourceKind.ALL, "ex", ends.topic, f"{number}"))
    outgoing = ends.sender.publish(Route.all("ex", ends.topic), b"all")
    ends.until(lambda: all(bare.events.deliveries for bare in everyone), "both parts of the fanout")
    everyone[0].settle(everyone[0].take())
    everyone[1].connection.settle(everyone[1].take(), Outcome.REQUEUE)
    assert ends.news(outgoing) == (Stage.TAKEN, None)


def test_a_fanout_that_no_server_could_take_is_in_doubt(ends: Ends) -> None:
    """Routers do not pass on of a fanout what its consumers say of a message that they hand back."""
    ends.receiver.subscribe(Source(SourceKind.ALL, "ex", ends.topic, "a"))
    outgoing = ends.sender.publish(Route.all("ex", ends.topic), b"all")
    ends.until(lambda: ends.receiver.events.deliveries, "its part of the fanout")
    ends.receiver.connection.settle(ends.receiver.take(), Outcome.REQUEUE)
    _, error = ends.news(outgoing)
    assert isinstance(error, ServerLost)
    assert error.delivered is Delivered.MAYBE


def test_large_messages_come_in_pieces_and_whole(ends: Ends) -> None:
    """Three megabytes are many frames; they are read when the last one is there."""
    body = bytes(range(256)) * 12_000
    ends.sender.publish(ends.route, body)
    ends.until(lambda: ends.receiver.events.deliveries, "the large message")
    (delivery,) = ends.receiver.take()
    assert delivery.body == body
    ends.receiver.settle([delivery])


def test_presettled_requests_are_only_written(url: str) -> None:
    """By option: nobody says what became of them, and the capabilities do not promise it."""
    with ExitStack() as stack:
        sender = bare_at(url, Role.RPC_CLIENT, stack, presettled="requests")
        assert not sender.capabilities.confirms
        outgoing = sender.publish(Route.any("ex", "nobody"))
        sender.until(lambda: sender.final(outgoing), "news")
        assert outgoing.stage is Stage.WRITTEN


def test_a_router_has_to_be_named(url: str) -> None:
    """Found by itself it is refused for good, with the cure: nothing is stored there, so the promises are others."""
    bare = Bare(url, Role.RPC_CLIENT, {})
    bare.until(lambda: bare.events.state is State.LOST, "LOST")
    assert isinstance(bare.events.causes[-1], ConfigError)
    assert "profile=router" in str(bare.events.causes[-1])
    assert bare.events.retries[-1] is None
    bare.close()
