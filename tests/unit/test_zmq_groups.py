"""Messages to several over ZeroMQ: fanouts to every server, notifications to one consumer of each pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from messaging.drivers.zmq.link import Item, Link
from messaging.errors import Delivered, MessagingError, NoRoute, Overloaded, Rejected
from messaging.message import Outcome, Route, Stage
from tests.unit.zmq_peers import EXCHANGE, Member, Process, all_source, members, pool_source, pump_for, pump_until

ALL = Route.all(EXCHANGE, "topic")
POOLS = Route.pools(EXCHANGE, "topic")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


def accepting(url: str, *sources: object, window: int = 1000) -> Member:
    """A member that takes everything it gets."""
    member = Member(url)
    member.on_delivery = member.accept
    member.subscribe(*sources, window=window)  # type: ignore[arg-type]
    return member


def test_a_fanout_reaches_every_server_once(url: str) -> None:
    """Each server gets one copy, two servers of one process get one each, and the sender learns how many."""
    one, two, client = accepting(url, all_source("a")), accepting(url, all_source("b"), all_source("c")), Member(url)
    with members(client, one, two):
        result = client.outcome(client.send(ALL), one, two)
        assert (result.stage, result.error, result.taker) == (Stage.TAKEN, None, (3, 0))
        assert len(one.deliveries) == 1
        assert sorted(found.source.server for found in two.deliveries) == ["b", "c"]


def test_a_fanout_to_nobody_is_well(url: str) -> None:
    """Nobody there is no error: it was sent to all of none."""
    client = Member(url)
    with members(client):
        assert client.outcome(client.send(ALL))[1:] == (Stage.TAKEN, None, (0, 0))


def test_a_server_that_has_just_come_is_in_the_next_fanout(url: str) -> None:
    """A server counts from the moment its subscription is ready, without any wait for the table."""
    client = Member(url, refresh=60.0)
    found = [client]
    with members(client):
        for number in range(5):
            found.append(accepting(url, all_source(str(number))))
            assert client.outcome(client.send(ALL), *found).taker == (number + 1, 0)
        for number in range(5, 0, -1):
            found.pop().close()
            assert client.outcome(client.send(ALL), *found).taker == (number - 1, 0)


def test_servers_that_do_not_take_a_fanout_are_counted(url: str) -> None:
    """A server that rejects, or stays busy up to the deadline, has failed; the result comes before the deadline."""
    good, full, bad, mute, client = (
        accepting(url, all_source("good")),
        accepting(url, all_source("full"), window=0),
        accepting(url, all_source("bad")),
        accepting(url, all_source("mute")),
        Member(url),
    )
    with members(client, good, full, bad, mute):
        bad.on_delivery = lambda delivery: bad.connection.settle([delivery], Outcome.REJECT)
        mute.on_delivery = None
        sent = client.send(ALL, timeout=1.0)
        result = client.outcome(sent, good, full, bad, mute)
        assert (result.error, result.taker) == (None, (1, 3))
        assert client.clock() < sent.deadline


def test_a_killed_server_is_not_in_the_fanout(url: str) -> None:
    """A server that is found dead before it was asked is not there: neither sent nor failed."""
    client = Member(url)
    good = accepting(url, all_source("good"))
    with members(client, good), Process(url, "echo") as process:
        assert client.outcome(client.send(Route.any(EXCHANGE, "topic")), good).error is None
        process.kill()
        assert client.outcome(client.send(ALL), good).taker == (1, 0)


def test_one_consumer_of_each_pool_gets_a_notification(url: str) -> None:
    """Two pools, one with two consumers: two copies, spread over the consumers, and TAKEN when both pools have it."""
    first, second, other = (
        accepting(url, pool_source("audit")),
        accepting(url, pool_source("audit")),
        accepting(url, pool_source("billing")),
    )
    client = Member(url)
    with members(client, first, second, other):
        sent = [client.send(POOLS, str(n).encode()) for n in range(20)]
        pump_until(lambda: all(client.of(message) for message in sent), client, first, second, other)
        assert {client.of(message)[0][1:] for message in sent} == {(Stage.TAKEN, None, None)}
        assert len(other.deliveries) == 20
        assert len(first.deliveries) + len(second.deliveries) == 20
        assert len({*first.bodies, *second.bodies}) == 20


def test_a_notification_without_a_pool_is_no_route(url: str) -> None:
    """Nobody listens: NoRoute, NO, at once."""
    client = Member(url)
    with members(client):
        error = client.outcome(client.send(POOLS)).error
        assert isinstance(error, NoRoute)
        assert error.delivered is Delivered.NO
        assert "listens to topic 'topic'" in str(error)


def test_a_pool_that_does_not_take_it_is_named(url: str) -> None:
    """When one pool has taken a notification and another will not, the error says which, and MAYBE: it must not be
    sent to all again.
    """
    good, bad, client = accepting(url, pool_source("good")), accepting(url, pool_source("bad")), Member(url)
    with members(client, good, bad):
        bad.on_delivery = lambda delivery: bad.connection.settle([delivery], Outcome.REJECT, reason="no room")
        error = client.outcome(client.send(POOLS), good, bad).error
        assert isinstance(error, Rejected)
        assert error.delivered is Delivered.MAYBE
        assert "'good'" in str(error)
        assert "'bad'" in str(error)
        assert "no room" in str(error)


def test_a_notification_that_no_pool_takes_is_not_delivered(url: str) -> None:
    """Every pool proven NO makes the whole NO."""
    full, client = accepting(url, pool_source("full"), window=0), Member(url)
    with members(client, full):
        error = client.outcome(client.send(POOLS, timeout=0.5), full).error
        assert isinstance(error, Overloaded)
        assert error.delivered is Delivered.NO


def test_a_busy_consumer_is_passed_over_within_its_pool(url: str) -> None:
    """Only the pool that refused is asked again, and within it another consumer."""
    full, free, other = (
        accepting(url, pool_source("audit"), window=0),
        accepting(url, pool_source("audit")),
        accepting(url, pool_source("billing")),
    )
    client = Member(url)
    with members(client, full, free, other):
        sent = [client.send(POOLS) for _ in range(10)]
        pump_until(lambda: all(client.of(message) for message in sent), client, full, free, other)
        assert {client.of(message)[0].error for message in sent} == {None}
        assert (len(full.deliveries), len(free.deliveries), len(other.deliveries)) == (0, 10, 10)


def test_a_pool_that_does_not_answer_is_named_before_the_deadline(url: str) -> None:
    """A consumer that settles nothing makes the notification MAYBE, and the sender is told which pool it was."""
    good, mute, client = accepting(url, pool_source("good")), accepting(url, pool_source("mute")), Member(url)
    with members(client, good, mute):
        mute.on_delivery = None
        sent = client.send(POOLS, timeout=0.5)
        error = client.outcome(sent, good, mute).error
        assert client.clock() < sent.deadline
        assert isinstance(error, MessagingError)
        assert error.delivered is Delivered.MAYBE
        assert "no answer from 'mute'" in str(error)
        pump_for(0.05, client, good, mute)
        mute.accept(mute.deliveries[0])
        pump_for(0.05, client, good, mute)
        assert len(client.of(sent)) == 1


def test_what_was_told_as_not_delivered_is_not_delivered_later(url: str) -> None:
    """A pool whose consumer was not reached in time gets nothing of the notification when it is reached a moment
    later.
    """
    late, client = accepting(url, pool_source("late")), Member(url)
    with members(client, late):
        sent = client.send(POOLS, b"early", timeout=10.0)
        [(_until, _serial, group)] = client.connection._sender._groups
        group.close()
        error = client.outcome(sent).error
        assert isinstance(error, MessagingError)
        assert error.delivered is Delivered.NO
        assert client.outcome(client.send(POOLS, b"in time"), late).error is None
        assert late.bodies == [b"in time"]


def test_a_refusal_of_one_pool_leaves_the_stage_that_another_has_proven(url: str) -> None:
    """While one pool has a notification and another has refused it, nobody may take it for one that nobody has."""
    good, full, client = accepting(url, pool_source("good")), accepting(url, pool_source("full"), window=0), Member(url)
    with members(client, good, full):
        sent = client.send(POOLS)
        pump_until(lambda: good.deliveries, client, good)
        refusals = client.connection._sender._refusals
        note = refusals.note
        stages = []

        def noted(item: Item, link: Link, why: int) -> None:
            stages.append(sent.stage)
            note(item, link, why)

        refusals.note = noted  # type: ignore[method-assign]
        pump_until(lambda: stages, client, good, full)
        assert stages[0] is Stage.WRITTEN


def test_notifications_that_have_ended_are_let_go_of(url: str) -> None:
    """While one waits for its pool, thousands of later ones, which others have taken, do not stay with it."""
    mute, good, client = Member(url), accepting(url, pool_source("good", "other"), window=10_000), Member(url)
    with members(client, mute, good):
        mute.subscribe(pool_source("mute"))
        client.send(POOLS, timeout=60.0)
        pump_until(lambda: mute.deliveries, client, mute)
        for number in range(30):
            for _ in range(100):
                client.send(Route.pools(EXCHANGE, "other"), timeout=70.0)
            pump_until(lambda number=number: len(client.sent) == 100 * (number + 1), client, good)  # type: ignore[misc]
        assert len(client.connection._sender._groups) <= 1001
