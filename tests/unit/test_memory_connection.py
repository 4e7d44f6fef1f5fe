"""The states of a connection to memory://, what they do to messages, and its faults."""

from __future__ import annotations

from collections import Counter

import pytest

from messaging.drivers.base import State
from messaging.errors import (
    AuthFailed,
    Cancelled,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Delivered,
)
from messaging.message import Outcome, Outgoing, Route, SourceKind, Stage
from tests.unit.memory_peers import ALL, ANY, REPLY, World, pool

TO_ANY = Route.any("", "topic")
TO_ALL = Route.all("", "topic")
TO_POOLS = Route.pools("", "topic")


@pytest.fixture
def world() -> World:
    """A hub of its own for each test."""
    return World()


def test_the_first_pump_connects(world: World) -> None:
    """Nothing happens before the first pump; that one connects, and subscribes what was asked for before."""
    peer = world.connection()
    peer.connection.subscribe(ANY, 1)
    assert peer.events.log == []
    peer.pump()
    assert peer.events.log == ["CONNECTING", "READY", "subscribed ANY"]


def test_subscribing_again_changes_the_window_alone(world: World) -> None:
    """A second subscribe to the same source is told nothing new."""
    peer = world.peer(ANY, window=1)
    peer.connection.subscribe(ANY, 5)
    peer.pump()
    assert peer.events.log.count("subscribed ANY") == 1


def test_unsubscribing_is_told(world: World) -> None:
    """The end of a subscription is told as Cancelled, connected or not."""
    peer = world.peer(ANY)
    peer.connection.unsubscribe(ANY)
    peer.pump()
    world.faults.disconnect()
    peer.connection.unsubscribe(REPLY)
    peer.pump()
    assert [(source.kind, type(error)) for source, error in peer.events.subscription_errors] == [
        (SourceKind.ANY, Cancelled),
        (SourceKind.REPLY, Cancelled),
    ]


def test_a_cut_connection_comes_back(world: World) -> None:
    """After a cut it is LOST with its cause and the time of the next try, then READY, with all its subscriptions."""
    peer = world.peer(ANY, REPLY)
    peer.events.log.clear()
    world.faults.disconnect()
    rest = peer.pump()
    assert peer.events.log == ["LOST"]
    assert isinstance(peer.events.causes[-1], ConnectionLost)
    assert peer.events.retries[-1] == pytest.approx(rest)
    world.virtual.advance(rest)
    peer.pump()
    assert peer.events.log == ["LOST", "CONNECTING", "READY", "subscribed ANY", "subscribed REPLY"]
    assert peer.counts["reconnects"] == 1


def test_what_was_unsettled_comes_again(world: World) -> None:
    """At a cut every unsettled delivery is stale, and comes again to the next generation, marked and counted."""
    peer, client = world.peer(ANY, window=2), world.peer()
    for number in range(3):
        client.send(TO_ANY, b"%d" % number)
    held = peer.take()
    world.faults.disconnect(peer.address)
    assert [delivery.stale for delivery in held] == [True, True]
    world.virtual.advance(peer.pump())
    again = peer.take()
    assert [(delivery.body, delivery.redelivered, delivery.attempt) for delivery in again] == [
        (b"0", True, 2),
        (b"1", True, 2),
    ]
    assert again[0].generation > held[0].generation
    peer.accept(*held)
    assert peer.counts["stale_settlements"] == 2
    peer.accept(*again)
    assert [(delivery.body, delivery.redelivered) for delivery in peer.take()] == [(b"2", False)]


def test_another_server_takes_what_was_lost(world: World) -> None:
    """When a consumer is cut or closes, another one of the topic gets what it had, read or not."""
    leaving, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, b"read")
    assert len(leaving.take()) == 1
    client.send(TO_ANY, b"not read")
    staying = world.peer(ANY)
    leaving.connection.close(0.0)
    leaving.pump()
    assert [(delivery.body, delivery.attempt) for delivery in staying.take()] == [(b"read", 2), (b"not read", 2)]


def test_requests_wait_for_the_only_server(world: World) -> None:
    """While the only server is away, what it had taken waits for it; what is new has no route."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, b"old")
    world.faults.disconnect(server.address)
    client.send(TO_ANY, b"new")
    assert len(client.events.errors) == 1
    world.virtual.advance(server.pump())
    assert [(delivery.body, delivery.attempt) for delivery in server.take()] == [(b"old", 2)]


def test_a_request_whose_server_never_returns_expires(world: World) -> None:
    """What waits for a server that is gone for good is dropped and counted when its time is over."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, budget=True, deadline=world.clock() + 5.0)
    server.connection.close(0.0)
    server.pump()
    world.virtual.advance(client.pump())
    client.pump()
    assert client.counts["hub_expired"] == 1
    assert world.peer(ANY).take() == []


def test_a_fanout_is_live(world: World) -> None:
    """Copies for a server that is cut go with it, and are counted."""
    server, client = world.peer(ALL), world.peer()
    client.send(TO_ALL, b"seen")
    assert len(server.take()) == 1
    client.send(TO_ALL, b"not seen")
    world.faults.disconnect(server.address)
    world.virtual.advance(server.pump())
    assert server.take() == []
    assert server.counts["hub_dropped"] == 2
    client.send(TO_ALL, b"after")
    assert [delivery.body for delivery in server.take()] == [b"after"]


def test_the_reply_address_survives(world: World) -> None:
    """Answers that come while the asker is cut off wait for it under the same address."""
    server, client = world.peer(ANY), world.peer(REPLY)
    client.send(TO_ANY, reply_to=True)
    (request,) = server.take()
    world.faults.disconnect(client.address)
    server.send(Route.reply(request.reply_to), b"answer")
    assert server.events.errors == []
    assert client.take() == []
    world.virtual.advance(client.pump())
    assert [(delivery.body, delivery.attempt) for delivery in client.take()] == [(b"answer", 1)]
    assert client.events.addresses[REPLY] == request.reply_to


def test_publishing_while_lost_is_answered(world: World) -> None:
    """A message that meets a connection that is away comes back unwritten, after LOST was told and before READY."""
    client = world.peer()
    client.events.log.clear()
    world.faults.disconnect()
    client.connection.publish(Outgoing(TO_ANY, b"x", {}))
    rest = client.pump()
    client.connection.publish(Outgoing(TO_ANY, b"x", {}))
    world.virtual.advance(rest)
    client.pump()
    assert client.events.log == ["LOST", "sent", "sent", "CONNECTING", "READY"]
    assert [(type(error), error.delivered) for error in client.events.errors] == [
        (ConnectionLost, Delivered.NO),
        (ConnectionLost, Delivered.NO),
    ]


def test_refused_connections_back_off(world: World) -> None:
    """Each refusal is told with the time of the next try, whose bound doubles; being whole again starts it afresh."""
    world.faults.refuse_connections(count=4)
    peer = world.connection(jitter=lambda: 1.0)
    for _ in range(4):
        world.virtual.advance(peer.pump())
    peer.pump()
    assert [state.name for state in peer.events.states] == ["CONNECTING", "LOST"] * 4 + ["CONNECTING", "READY"]
    assert [retry for retry in peer.events.retries if retry is not None] == [0.05, 0.1, 0.2, 0.4]
    assert isinstance(peer.events.causes[1], ConnectFailed)
    world.faults.disconnect()
    peer.pump()
    assert peer.events.retries[-1] == 0.05


def test_a_refused_login_is_not_repeated(world: World) -> None:
    """AuthFailed is final: no time for another try is told, and none is made."""
    world.faults.refuse_connections(AuthFailed("wrong password"))
    peer = world.connection()
    assert peer.pump() == float("inf")
    assert (peer.events.last_state(), peer.events.retries[-1]) == (State.LOST, None)
    world.faults.accept_connections()
    world.virtual.advance(3600.0)
    peer.pump()
    assert peer.events.last_state() is State.LOST


def test_a_blocked_connection_holds_messages(world: World) -> None:
    """BLOCKED holds back what is published, in order, expires it by its deadline, and writes it when it is over."""
    server, client = world.peer(ANY), world.peer()
    world.faults.block(client.address)
    client.pump()
    assert client.events.last_state() is State.BLOCKED
    client.send(TO_ANY, b"expires", deadline=world.clock() + 5.0)
    client.send(TO_ANY, b"withdrawn").withdrawn = True
    client.send(TO_ANY, b"waits", deadline=world.clock() + 50.0)
    assert client.pump() == pytest.approx(5.0)
    world.virtual.advance(5.0)
    client.pump()
    (error,) = client.events.errors
    assert isinstance(error, DeadlineExceeded)
    assert server.take() == []
    world.faults.unblock()
    client.send(TO_ANY, b"later")
    assert client.events.last_state() is State.READY
    assert [delivery.body for delivery in server.take()] == [b"waits", b"later"]


def test_a_blocked_connection_that_is_cut(world: World) -> None:
    """What a blocked connection held when it was cut is told as not delivered."""
    client = world.peer()
    world.faults.block()
    client.send(TO_ANY)
    world.faults.disconnect()
    client.pump()
    assert [error.delivered for error in client.events.errors] == [Delivered.NO]
    world.virtual.advance(client.pump())
    client.pump()
    assert client.events.last_state() is State.READY


def test_a_silent_hub_is_noticed(world: World) -> None:
    """Without a sign of life for two heartbeats the connection is LOST, and what was written is in doubt."""
    server, client = world.peer(ANY), world.peer(heartbeat=2.0)
    world.faults.silence(client.address)
    client.pump()
    confirmed = client.send(TO_ANY, b"in doubt")
    client.send(TO_ANY, b"pending", confirm=False)
    assert confirmed.stage is Stage.WRITTEN
    world.virtual.advance(3.9)
    client.pump()
    assert client.events.last_state() is State.READY
    world.virtual.advance(0.1)
    client.pump()
    assert client.events.last_state() is State.LOST
    (result,) = [result for result in client.events.sent if result.error is not None]
    assert result.outgoing is confirmed
    assert (result.stage, result.error.delivered) == (Stage.WRITTEN, Delivered.MAYBE)  # type: ignore[union-attr]
    assert server.take() == []


def test_a_silence_that_ends_costs_nothing(world: World) -> None:
    """Messages and settlements written into a silence arrive when it ends, and deliveries come then."""
    peer, other = world.peer(ANY, window=1), world.peer(pool("a"))
    other.send(TO_ANY, b"before")
    (delivery,) = peer.take()
    world.faults.silence(peer.address)
    peer.pump()
    peer.send(TO_POOLS, b"out")
    peer.accept(delivery)
    other.send(TO_ANY, b"in")
    assert (peer.take(), other.take(), peer.events.settled) == ([], [], [])
    world.faults.resume()
    assert [delivery.body for delivery in peer.take()] == [b"in"]
    assert [delivery.body for delivery in other.take()] == [b"out"]
    assert peer.events.sent[-1].stage is Stage.TAKEN
    assert len(peer.events.settled) == 1


def test_a_settlement_into_silence_is_not_written(world: World) -> None:
    """When the connection goes before a settlement was written, that is told, and the message comes again."""
    peer, other = world.peer(ANY), world.peer()
    other.send(TO_ANY)
    batch = peer.take()
    world.faults.silence(peer.address)
    peer.accept(*batch)
    world.faults.disconnect(peer.address)
    world.virtual.advance(peer.pump())
    assert [type(error) for _, error in peer.events.settled] == [ConnectionLost]
    assert [delivery.attempt for delivery in peer.take()] == [2]


def test_a_lost_settlement_brings_the_message_again(world: World) -> None:
    """A settlement that was written but got lost with its connection: the handler may have run, and the message
    comes again.
    """
    peer, other = world.peer(ANY), world.peer()
    other.send(TO_ANY)
    world.faults.lose_settlements()
    peer.accept(*peer.take())
    assert [error for _, error in peer.events.settled] == [None]
    world.faults.disconnect(peer.address)
    world.virtual.advance(peer.pump())
    assert [delivery.redelivered for delivery in peer.take()] == [True]


def test_withheld_confirms_leave_in_doubt(world: World) -> None:
    """What the hub took without saying so arrives, and is in doubt when the connection goes."""
    server, client = world.peer(ANY), world.peer()
    world.faults.withhold_confirms()
    outgoing = client.send(TO_ANY)
    assert (client.events.sent, outgoing.stage) == ([], Stage.WRITTEN)
    assert len(server.take()) == 1
    world.faults.disconnect(client.address)
    client.pump()
    assert [error.delivered for error in client.events.errors] == [Delivered.MAYBE]


def test_withheld_confirms_are_told_later(world: World) -> None:
    """Confirmations that are released reach their senders."""
    world.peer(ANY)
    client = world.peer()
    world.faults.withhold_confirms()
    outgoing = client.send(TO_ANY)
    world.faults.clear()
    client.pump()
    assert [result.stage for result in client.events.sent] == [Stage.TAKEN]
    assert outgoing.stage is Stage.TAKEN


def test_lost_messages(world: World) -> None:
    """A rule loses as many messages of its kind and topic as it says; their sender believes that they were taken."""
    server, client = world.peer(ANY), world.peer(REPLY)
    rule = world.faults.lose(SourceKind.REPLY, count=1)
    other = world.faults.lose(topic="other")
    client.send(TO_ANY)
    server.send(Route.reply(client.address), b"1")
    server.send(Route.reply(client.address), b"2")
    assert [delivery.body for delivery in client.take()] == [b"2"]
    assert len(server.take()) == 1
    assert (rule.hits, other.hits, server.events.errors) == (1, 0, [])


def test_repeated_messages(world: World) -> None:
    """A message may come twice, and its second self may or may not admit that it is one."""
    server, client = world.peer(ANY), world.peer()
    admits = world.faults.duplicate(SourceKind.ANY, redelivered=True, count=1)
    client.send(TO_ANY, b"1")
    world.faults.remove(admits)
    world.faults.duplicate(SourceKind.ANY, count=1)
    client.send(TO_ANY, b"2")
    assert [(delivery.body, delivery.redelivered) for delivery in server.take()] == [
        (b"1", False),
        (b"1", True),
        (b"2", False),
        (b"2", False),
    ]


def test_delayed_messages(world: World) -> None:
    """A delayed message comes at its time; whoever pumps lets it, be it nobody's owner who sent it."""
    server, client = world.peer(ANY), world.peer()
    world.faults.delay(5.0, SourceKind.ANY, count=1)
    client.send(TO_ANY, b"slow")
    client.send(TO_ANY, b"quick")
    assert [delivery.body for delivery in server.take()] == [b"quick"]
    assert server.pump() == pytest.approx(5.0)
    world.virtual.advance(5.0)
    assert [delivery.body for delivery in server.take()] == [b"slow"]


def test_faults_repeat_with_their_seed(world: World) -> None:
    """Losses and reorderings are the same again after the same seed, and different after another."""

    def run(seed: int) -> list[bytes]:
        world.faults.clear()
        world.faults.seed(seed)
        world.faults.lose(SourceKind.ANY, probability=0.3)
        world.faults.reorder(1.0, SourceKind.ANY)
        server, client = world.peer(ANY, window=100), world.peer()
        for number in range(20):
            client.send(TO_ANY, b"%d" % number)
        for _ in range(100):
            world.virtual.advance(0.01)
            server.pump()
        server.connection.settle(server.events.deliveries, Outcome.ACCEPT)
        server.connection.close(0.0)
        server.pump()
        return server.events.bodies

    first = run(1)
    assert 5 < len(first) < 20
    assert first != sorted(first, key=int)
    assert run(1) == first
    assert run(2) != first


def test_close_tells_closed(world: World) -> None:
    """Close ends in CLOSED in every state, after which nothing more happens."""
    fresh, ready, lost, blocked, silent = (world.connection() for _ in range(5))
    for peer in (ready, lost, blocked, silent):
        peer.pump()
    world.faults.disconnect(lost.address)
    lost.pump()
    world.faults.block(blocked.address)
    blocked.send(TO_ANY)
    world.faults.silence(silent.address)
    silent.send(TO_ANY)
    for peer in (fresh, ready, lost, blocked, silent):
        peer.connection.close(5.0)
        peer.connection.close(1.0)
        peer.pump()
    assert [peer.events.last_state() for peer in (fresh, ready, lost)] == [State.CLOSED] * 3
    assert [peer.events.last_state() for peer in (blocked, silent)] == [State.BLOCKED, State.READY]
    world.faults.unblock(blocked.address)
    blocked.pump()
    assert blocked.events.last_state() is State.CLOSED
    world.virtual.advance(5.0)
    silent.pump()
    assert silent.events.last_state() is State.CLOSED
    assert [type(result.error) for result in silent.events.sent] == [ConnectionLost]
    assert Counter(peer.pump() for peer in (fresh, ready, lost, blocked, silent)) == {float("inf"): 5}
    assert world.hub.links == {}


def test_a_settlement_is_told_in_the_pump_that_made_it(world: World) -> None:
    """What an event causes is told before that pump returns: a server settles and starts in one turn."""
    server, client = world.peer(ANY), world.peer()
    server.events.on_batch = lambda batch: server.connection.settle(batch, Outcome.ACCEPT)
    client.send(TO_ANY)
    server.events.log.clear()
    server.connection.pump(0.0)
    assert server.events.log == ["deliveries ANY", "settled"]


def test_a_pump_is_bounded(world: World) -> None:
    """A large backlog comes in several pumps, and each says that there is more."""
    server, client = world.peer(ANY, window=10_000), world.peer()
    for _ in range(1_500):
        client.connection.publish(Outgoing(TO_ANY, b"x", {}, confirm=False))
    assert server.connection.pump(0.0) == 0.0
    assert 0 < len(server.events.deliveries) < 1_500
    assert len(server.take()) == 1_500
