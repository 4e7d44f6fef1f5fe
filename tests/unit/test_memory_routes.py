"""Where messages go on memory://, and what their senders and receivers are told."""

from __future__ import annotations

from typing import Any

import pytest

from messaging.errors import DeadlineExceeded, Delivered, EncodeError, NoRoute, Overloaded, TooLarge
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, Outcome, Route, Stage
from tests.unit.memory_peers import ALL, ANY, REPLY, MemoryPeer, World, dead, one, pool

TO_ANY = Route.any("", "topic")
TO_ALL = Route.all("", "topic")
TO_POOLS = Route.pools("", "topic")


@pytest.fixture
def world() -> World:
    """A hub of its own for each test."""
    return World()


def error_of(peer: MemoryPeer) -> Any:
    """The error of the only message that failed."""
    (error,) = peer.events.errors
    return error


def test_any_goes_to_one_server_in_turn(world: World) -> None:
    """Messages of a topic are dealt out to its servers one by one."""
    first, second, client = world.peer(ANY), world.peer(ANY), world.peer()
    for body in (b"1", b"2", b"3", b"4"):
        client.send(TO_ANY, body)
    first.pump()
    second.pump()
    assert first.events.bodies == [b"1", b"3"]
    assert second.events.bodies == [b"2", b"4"]


def test_any_without_a_server_is_no_route(world: World) -> None:
    """Where no server consumes, the sender is told at once that nothing was delivered."""
    client = world.peer()
    client.send(TO_ANY)
    assert isinstance(error_of(client), NoRoute)
    assert error_of(client).delivered is Delivered.NO


def test_exchanges_are_apart(world: World) -> None:
    """The same topic in another exchange is another place."""
    world.peer(ANY)
    client = world.peer()
    client.send(Route.any("other", "topic"))
    assert isinstance(error_of(client), NoRoute)


def test_one_goes_to_the_named_server(world: World) -> None:
    """A named server gets its own messages, and an unknown name is no route."""
    first, second, client = world.peer(one("host-1")), world.peer(one("host-2")), world.peer()
    client.send(Route.one("", "topic", "host-2"), b"for 2")
    client.send(Route.one("", "topic", "host-3"))
    assert first.take() == []
    assert [delivery.body for delivery in second.take()] == [b"for 2"]
    assert "host-3" in str(error_of(client))


def test_a_stored_message_waits_for_its_server(world: World) -> None:
    """With `store` a message for a server that is not up yet is kept for so many seconds."""
    client = world.peer()
    client.send(Route.one("", "topic", "late"), b"early", store=10.0)
    client.send(Route.one("", "topic", "never"), b"lost", store=10.0)
    world.virtual.advance(9.0)
    server = world.peer(one("late"))
    assert [delivery.body for delivery in server.take()] == [b"early"]
    assert client.events.errors == []
    world.virtual.advance(2.0)
    client.pump()
    assert client.counts["hub_expired"] == 1
    assert world.peer(one("never")).take() == []


def test_all_goes_to_every_server(world: World) -> None:
    """Each server that is connected gets a copy; the sender is told how many did."""
    servers = [world.peer(ALL), world.peer(ALL._replace(server="host-2"))]
    client = world.peer()
    client.send(TO_ALL, b"everybody")
    assert [[delivery.body for delivery in server.take()] for server in servers] == [[b"everybody"], [b"everybody"]]
    assert client.events.sent[-1].taker == (2, 0)


def test_all_to_nobody_is_well(world: World) -> None:
    """A fanout that nobody hears is no error."""
    client = world.peer()
    client.send(TO_ALL)
    assert client.events.sent[-1].stage is Stage.TAKEN
    assert client.events.sent[-1].taker == (0, 0)


def test_all_counts_who_had_no_room(world: World) -> None:
    """A server whose queue is full misses a fanout; the sender is told that one failed."""
    world.peer(ALL, window=0)
    world.peer(ALL._replace(server="host-2"))
    client = world.peer(max_queue=1)
    client.send(TO_ALL)
    client.send(TO_ALL)
    assert [result.taker for result in client.events.sent] == [(2, 0), (1, 1)]


def test_every_pool_gets_a_copy(world: World) -> None:
    """Each pool gets each message once, whoever of its members takes it."""
    members = [world.peer(pool("a")), world.peer(pool("a")), world.peer(pool("b"))]
    client = world.peer()
    client.send(TO_POOLS, b"1")
    client.send(TO_POOLS, b"2")
    taken = [[delivery.body for delivery in member.take()] for member in members]
    assert sorted(taken[0] + taken[1]) == [b"1", b"2"]
    assert taken[2] == [b"1", b"2"]


def test_a_pool_keeps_messages_while_nobody_listens(world: World) -> None:
    """Once declared, a pool's queue stores messages after its listeners have gone."""
    listener, client = world.peer(pool("a")), world.peer()
    listener.connection.close(0.0)
    listener.pump()
    client.send(TO_POOLS, b"kept")
    assert client.events.errors == []
    assert [delivery.body for delivery in world.peer(pool("a")).take()] == [b"kept"]


def test_pools_that_never_listened_are_no_route(world: World) -> None:
    """Before any pool was declared, a notification has nowhere to go."""
    client = world.peer()
    client.send(TO_POOLS)
    assert isinstance(error_of(client), NoRoute)


def test_pools_are_refused_together(world: World) -> None:
    """When one pool is full no pool gets the message, so that sending it again repeats nothing."""
    full, free = world.peer(pool("full"), window=0), world.peer(pool("free"))
    client = world.peer(max_queue=1)
    client.send(TO_POOLS, b"1")
    client.send(TO_POOLS, b"2")
    assert isinstance(error_of(client), Overloaded)
    assert error_of(client).delivered is Delivered.NO
    assert [delivery.body for delivery in free.take()] == [b"1"]
    assert full.take() == []


def test_a_reply_finds_its_sender(world: World) -> None:
    """The stamped reply address leads back to the connection that asked; it needs no settlement."""
    server, client = world.peer(ANY), world.peer(REPLY, window=1)
    client.send(TO_ANY, b"question", reply_to=True)
    (question,) = server.take()
    assert question.reply_to == client.address
    assert question.sent_by == client.address
    for body in (b"1", b"2", b"3"):
        server.send(Route.reply(question.reply_to), body)
    client.pump()
    assert client.events.bodies == [b"1", b"2", b"3"]


def test_a_reply_to_nobody_is_no_route(world: World) -> None:
    """An address whose connection is closed, or that does not receive, is nobody's."""
    server, gone, deaf = world.peer(), world.peer(REPLY), world.peer()
    address = gone.address
    gone.connection.close(0.0)
    gone.pump()
    server.send(Route.reply(address))
    server.send(Route.reply(deaf.address))
    assert [type(error) for error in server.events.errors] == [NoRoute, NoRoute]


def test_the_window_bounds_what_is_unsettled(world: World) -> None:
    """A consumer has at most `window` unsettled deliveries; each settlement makes room for one more."""
    server, client = world.peer(ANY, window=2), world.peer()
    for number in range(5):
        client.send(TO_ANY, b"%d" % number)
    first = server.take()
    assert [delivery.body for delivery in first] == [b"0", b"1"]
    server.accept(first[0])
    assert [delivery.body for delivery in server.take()] == [b"2"]


def test_a_window_of_zero_holds(world: World) -> None:
    """With window 0 nothing comes, and what was sent waits; a larger window lets it come."""
    server, client = world.peer(ANY, window=0), world.peer()
    client.send(TO_ANY)
    assert server.take() == []
    assert client.events.errors == []
    server.connection.subscribe(ANY, 1)
    assert len(server.take()) == 1


def test_requeued_messages_come_first_and_say_so(world: World) -> None:
    """What is handed back comes again in its old place, marked as redelivered and counted."""
    server, client = world.peer(ANY, window=2), world.peer()
    for number in range(4):
        client.send(TO_ANY, b"%d" % number)
    batch = server.take()
    server.connection.settle(batch, Outcome.REQUEUE)
    again = server.take()
    assert [delivery.body for delivery in again] == [b"0", b"1"]
    assert [(delivery.redelivered, delivery.attempt) for delivery in again] == [(True, 2), (True, 2)]
    assert [(delivery.redelivered, delivery.attempt) for delivery in batch] == [(False, 1), (False, 1)]


def test_a_message_is_requeued_later(world: World) -> None:
    """A delay keeps a message away for so long, and no longer."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY)
    server.connection.settle(server.take(), Outcome.REQUEUE, delay=30.0)
    assert server.pump() == pytest.approx(30.0)
    world.virtual.advance(29.9)
    assert server.take() == []
    world.virtual.advance(0.1)
    assert [delivery.attempt for delivery in server.take()] == [2]


def test_a_delayed_message_outlives_its_consumer(world: World) -> None:
    """When the consumer that put a message off is gone, another one gets it at its time."""
    leaving, client = world.peer(ANY), world.peer()
    client.send(TO_ANY)
    leaving.connection.settle(leaving.take(), Outcome.REQUEUE, delay=30.0)
    leaving.connection.close(0.0)
    leaving.pump()
    staying = world.peer(ANY)
    world.virtual.advance(30.0)
    assert [delivery.attempt for delivery in staying.take()] == [2]


def test_rejected_messages_become_dead_letters(world: World) -> None:
    """A rejected message is found under its pool's dead letters, with the reason and the attempt."""
    listener, client = world.peer(pool("a")), world.peer()
    client.send(TO_POOLS, b"bad", headers={"h": 1})
    listener.connection.settle(listener.take(), Outcome.REQUEUE)
    listener.connection.settle(listener.take(), Outcome.REJECT, reason="cannot be read")
    listener.pump()
    (letter,) = world.peer(dead("a")).take()
    assert letter.body == b"bad"
    assert letter.headers == {"h": 1, DEAD_REASON: "cannot be read", DEAD_ATTEMPT: 2}
    assert listener.take() == []


def test_rejected_requests_become_dead_letters(world: World) -> None:
    """What a server rejects is found under the dead letters of its topic; what is rejected there is dropped and
    counted.
    """
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, b"bad")
    server.connection.settle(server.take(), Outcome.REJECT, reason="no")
    reader = world.peer(dead())
    reader.connection.settle(reader.take(), Outcome.REJECT)
    assert reader.take() == []
    assert reader.counts["hub_dead_letters"] == 1
    assert reader.counts["hub_dropped"] == 1


def test_dead_letters_are_bounded(world: World) -> None:
    """The oldest dead letter goes when there are too many, and is counted."""
    listener, client = world.peer(pool("a"), max_queue=2), world.peer()
    for number in range(3):
        client.send(TO_POOLS, b"%d" % number)
    listener.connection.settle(listener.take(), Outcome.REJECT)
    assert [letter.body for letter in world.peer(dead("a")).take()] == [b"1", b"2"]
    assert listener.counts["hub_dropped"] == 1


def test_a_settlement_counts_once(world: World) -> None:
    """Settling again what is settled does nothing, and is counted as stale."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY)
    (delivery,) = server.take()
    server.accept(delivery)
    server.connection.settle([delivery], Outcome.REQUEUE)
    assert server.take() == []
    assert [len(deliveries) for deliveries, _ in server.events.settled] == [1]
    assert server.counts["stale_settlements"] == 1


def test_unsubscribing_hands_back_what_was_not_seen(world: World) -> None:
    """After unsubscribing nothing more comes, the others get what waits, and what is in hand can still be settled."""
    leaving, client = world.peer(ANY, window=1), world.peer()
    client.send(TO_ANY, b"in hand")
    client.send(TO_ANY, b"waiting")
    (in_hand,) = leaving.take()
    staying = world.peer(ANY)
    client.send(TO_ANY, b"next")
    leaving.connection.unsubscribe(ANY)
    assert leaving.take() == []
    (told,) = leaving.events.subscription_errors
    assert told[0] == ANY
    leaving.connection.settle([in_hand], Outcome.REQUEUE)
    leaving.pump()
    staying.pump()
    assert staying.events.bodies == [b"waiting", b"next", b"in hand"]


def test_an_unsubscribed_server_is_no_route(world: World) -> None:
    """When the last server has unsubscribed, the topic is gone; its name can be used again."""
    server, client = world.peer(ANY, ALL, REPLY), world.peer()
    for source in (ANY, ALL, REPLY):
        server.connection.unsubscribe(source)
    server.pump()
    for route in (TO_ANY, TO_ALL, Route.reply(server.address)):
        client.send(route)
    assert [type(result.error) for result in client.events.sent] == [NoRoute, type(None), NoRoute]
    server.subscribe(ANY)
    client.send(TO_ANY, b"again")
    assert [delivery.body for delivery in server.take()] == [b"again"]


def test_time_in_the_queue_counts(world: World) -> None:
    """The budget is what is left at the write, less the time in the hub; a message whose time is over is not handed
    out.
    """
    server, client = world.peer(ANY, window=1), world.peer()
    now = world.clock()
    client.send(TO_ANY, b"1", budget=True, deadline=now + 5.0)
    client.send(TO_ANY, b"2", budget=True, deadline=now + 10.0)
    client.send(TO_ANY, b"3", budget=True, deadline=now + 60.0)
    (first,) = server.take()
    assert first.budget == pytest.approx(5.0)
    world.virtual.advance(15.0)
    server.accept(first)
    (third,) = server.take()
    assert third.body == b"3"
    assert third.budget == pytest.approx(45.0)
    assert server.counts["hub_expired"] == 1


def test_time_between_hub_and_owner_counts(world: World) -> None:
    """A message that expires while its receiver does not pump is not delivered either, and leaves its room to the
    next.
    """
    server, client = world.peer(ANY, window=1), world.peer()
    client.send(TO_ANY, b"1", budget=True, deadline=world.clock() + 5.0)
    client.send(TO_ANY, b"2")
    world.virtual.advance(6.0)
    assert [delivery.body for delivery in server.take()] == [b"2"]


def test_expired_messages_make_room(world: World) -> None:
    """A full queue is looked through for what has expired before a message is refused."""
    server, client = world.peer(ANY, window=0), world.peer(max_queue=1)
    client.send(TO_ANY, b"1", budget=True, deadline=world.clock() + 5.0)
    client.send(TO_ANY, b"2")
    assert isinstance(error_of(client), Overloaded)
    assert "max_queue" in str(error_of(client))
    world.virtual.advance(6.0)
    client.send(TO_ANY, b"3")
    server.connection.subscribe(ANY, 5)
    assert [delivery.body for delivery in server.take()] == [b"3"]


def test_without_a_budget_a_deadline_stays_with_the_sender(world: World) -> None:
    """The deadline of a send is not the receiver's business unless a budget is asked for."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, deadline=world.clock() + 1.0)
    world.virtual.advance(2.0)
    assert [delivery.budget for delivery in server.take()] == [None]


def test_a_late_message_is_not_written(world: World) -> None:
    """What is published after its deadline ends there, proven undelivered."""
    server, client = world.peer(ANY), world.peer()
    outgoing = client.send(TO_ANY, deadline=world.clock())
    error = error_of(client)
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, error.delivered, outgoing.stage) == ("send", Delivered.NO, None)
    assert server.take() == []


def test_a_withdrawn_message_is_skipped(world: World) -> None:
    """What its sender has given up is not written, and nobody is told anything."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, withdrawn=True)
    assert server.take() == []
    assert client.events.sent == []


def test_confirmed_messages_are_taken(world: World) -> None:
    """A message with `confirm` is told as TAKEN; one without is told nothing, and both know their stage."""
    world.peer(ANY)
    client = world.peer()
    confirmed = client.send(TO_ANY)
    plain = client.send(TO_ANY, confirm=False)
    assert [(result.outgoing, result.stage) for result in client.events.sent] == [(confirmed, Stage.TAKEN)]
    assert (confirmed.stage, plain.stage) == (Stage.TAKEN, Stage.WRITTEN)


def test_errors_are_told_without_confirm_too(world: World) -> None:
    """A message that nobody asked a confirmation for is told when it fails."""
    client = world.peer()
    client.send(TO_ANY, confirm=False)
    assert isinstance(error_of(client), NoRoute)


def test_encode_is_given_the_address_and_the_budget(world: World) -> None:
    """A wire format that carries both inside encodes at the write, with what is true then."""
    server, client = world.peer(ANY), world.peer(REPLY)
    given: list[Any] = []

    def encode(address: str, remaining: float | None) -> bytes:
        given.append((address, remaining))
        return b"encoded"

    client.send(TO_ANY, b"", encode=encode, reply_to=True, budget=True, deadline=world.clock() + 7.0)
    client.send(TO_ANY, b"", encode=encode)
    assert given == [(client.address, 7.0), ("", None)]
    assert [delivery.body for delivery in server.take()] == [b"encoded", b"encoded"]


def test_what_cannot_be_encoded_is_told(world: World) -> None:
    """An encoder that fails, or a header that is no value, ends that message alone."""
    server, client = world.peer(ANY), world.peer()

    def encode(address: str, remaining: float | None) -> bytes:
        raise ValueError("out of range")

    client.send(TO_ANY, b"", encode=encode)
    client.send(TO_ANY, b"", headers={"h": object()})
    client.send(TO_ANY, b"good")
    assert [type(error) for error in client.events.errors] == [EncodeError, EncodeError]
    assert "out of range" in str(client.events.errors[0])
    assert [delivery.body for delivery in server.take()] == [b"good"]


def test_bytes_are_moved_and_not_objects(world: World) -> None:
    """Neither side sees what the other does to its headers and bodies, nor does a second receiver."""
    first, second, client = world.peer(pool("a")), world.peer(pool("b")), world.peer()
    headers: dict[str, Any] = {"list": [1], "plain": 1}
    body = bytearray(b"body")
    client.send(TO_POOLS, body, headers=headers)  # type: ignore[arg-type]
    headers["list"].append(2)
    headers["plain"] = 2
    body[0] = 0
    (delivery,) = first.take()
    assert (delivery.body, delivery.headers) == (b"body", {"list": [1], "plain": 1})
    delivery.headers["plain"] = 3
    first.connection.settle([delivery], Outcome.REQUEUE)
    assert [again.headers["plain"] for again in first.take() + second.take()] == [1, 1]


def test_too_large_a_body_is_refused(world: World) -> None:
    """A body beyond `max_body` is refused with both numbers, and was not written."""
    world.peer(ANY)
    client = world.peer(max_body=10)
    outgoing = client.send(TO_ANY, b"x" * 11)
    assert isinstance(error_of(client), TooLarge)
    assert "11 bytes" in str(error_of(client))
    assert "10" in str(error_of(client))
    assert outgoing.stage is None


def test_order_is_kept(world: World) -> None:
    """One consumer gets the messages of a queue in the order in which they were sent."""
    server, client = world.peer(ANY, window=3), world.peer()
    for number in range(20):
        client.send(TO_ANY, b"%d" % number)
    bodies = []
    while batch := server.take():
        bodies += [delivery.body for delivery in batch]
        server.accept(*batch)
    assert bodies == [b"%d" % number for number in range(20)]
