"""Messages over ZeroMQ between connections of one process: routes, answers, settlement, refusals, deadlines, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from messaging.errors import (
    DeadlineExceeded,
    Delivered,
    EncodeError,
    NoRoute,
    Overloaded,
    Rejected,
    TooLarge,
)
from messaging.message import CORRELATION_ID, Delivery, Outcome, Outgoing, Route, Source, Stage
from tests.unit.zmq_peers import (
    ANY,
    EXCHANGE,
    Member,
    any_source,
    members,
    one_source,
    pump_for,
    pump_until,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Member, Member]]:
    """A server of the topic that answers, and a client that receives answers."""
    server, client = Member(url), Member(url)
    with members(client, server):
        server.on_delivery = server.echo
        server.subscribe(any_source(), one_source("first"))
        client.subscribe(Source.reply())
        yield server, client


def test_a_call_is_answered_on_the_same_connection(pair: tuple[Member, Member]) -> None:
    """The answer comes as a delivery of the reply source, with its headers; what was written says to whom."""
    server, client = pair
    call = client.call(ANY, b"hello", id="7")
    pump_until(lambda: client.deliveries, client, server)
    answer = client.deliveries[0]
    assert (answer.body, answer.source, answer.headers) == (b"hello", Source.reply(), {"correlation-id": "7"})
    assert call.stage is Stage.TAKEN
    assert call.taker == answer.sent_by == server.addresses[any_source()]
    request = server.deliveries[0]
    assert request.sent_by == client.addresses[Source.reply()]
    assert request.budget is not None
    assert 4.0 < request.budget <= 5.0
    assert client.of(call) == []


def test_an_answer_whose_id_is_none_harms_nobody(pair: tuple[Member, Member]) -> None:
    """A server that answers with a list where an id belongs, which can be looked up nowhere, ends no pump."""
    server, client = pair
    echo = server.on_delivery
    assert echo is not None

    def nonsense(delivery: Delivery) -> None:
        headers = {CORRELATION_ID: ["no", "id"]}
        server.connection.publish(Outgoing(Route.reply(delivery.reply_to), b"nonsense", headers, confirm=False))
        echo(delivery)

    server.on_delivery = nonsense
    client.call(ANY, b"sense")
    pump_until(lambda: len(client.deliveries) == 2, client, server)
    assert client.bodies == [b"nonsense", b"sense"]
    [peer] = client.connection._peers.open
    assert not peer.awaited


def test_a_settlement_without_an_answer_is_told(pair: tuple[Member, Member]) -> None:
    """A call that is settled ahead of its answer is told as TAKEN, once."""
    server, client = pair
    server.on_delivery = server.accept
    call = client.call(ANY)
    result = client.outcome(call, server)
    assert (result.stage, result.error, result.taker) == (Stage.TAKEN, None, server.addresses[any_source()])
    server.on_delivery = None
    server.connection.publish(
        Outgoing(Route.reply(server.deliveries[0].reply_to), b"late", {"correlation-id": "1"}, confirm=False)
    )
    pump_until(lambda: client.deliveries, client, server)
    assert len(client.of(call)) == 1


def test_a_confirmed_message_is_taken_when_it_is_settled(pair: tuple[Member, Member]) -> None:
    """TAKEN is the consumer's settlement, not the write."""
    server, client = pair
    server.on_delivery = None
    cast = client.send(ANY, b"cast")
    pump_until(lambda: server.deliveries, client, server)
    pump_for(0.05, client, server)
    assert client.of(cast) == []
    assert cast.stage is Stage.WRITTEN
    server.accept(server.deliveries[0])
    assert client.outcome(cast, server)[1:] == (Stage.TAKEN, None, server.addresses[any_source()])
    assert [found for batch, error in server.settled for found in batch] == server.deliveries


def test_one_reaches_the_named_server_alone(url: str) -> None:
    """ONE goes to the server of that name, ANY to both in turn."""
    first, second, client = Member(url), Member(url), Member(url)
    with members(client, first, second):
        for server, name in ((first, "first"), (second, "second")):
            server.on_delivery = server.accept
            server.subscribe(any_source(), one_source(name))
        casts = [client.send(Route.one(EXCHANGE, "topic", "second")) for _ in range(5)]
        pump_until(lambda: all(client.of(cast) for cast in casts), client, first, second)
        assert (len(first.deliveries), len(second.deliveries)) == (0, 5)
        casts = [client.send(ANY) for _ in range(40)]
        pump_until(lambda: all(client.of(cast) for cast in casts), client, first, second)
        pump_until(lambda: len(client.connection._runtime.links) == 2, client, first, second)
        casts += [client.send(ANY) for _ in range(40)]
        pump_until(lambda: all(client.of(cast) for cast in casts), client, first, second)
        assert first.deliveries
        assert len(second.deliveries) > 5


def test_nobody_there_is_told_at_once(pair: tuple[Member, Member]) -> None:
    """An unknown topic and an unknown server are NoRoute, proven not delivered."""
    _server, client = pair
    for route in (Route.any(EXCHANGE, "nobody"), Route.one(EXCHANGE, "topic", "nobody"), Route.reply("nobody")):
        sent = client.send(route)
        assert client.connection.pump(10.0) >= 0.0
        error = client.of(sent)[0].error
        assert isinstance(error, NoRoute)
        assert error.delivered is Delivered.NO


def test_the_least_loaded_server_is_chosen(url: str) -> None:
    """A server that settles nothing gets no more than one that does."""
    idle, busy, client = Member(url), Member(url), Member(url)
    with members(client, idle, busy):
        idle.on_delivery = idle.accept
        idle.subscribe(any_source())
        busy.subscribe(any_source())

        def arrived(number: int) -> bool:
            return len(idle.deliveries) + len(busy.deliveries) == number

        for _ in range(2):
            client.send(ANY)
        pump_until(partial(arrived, 2), client, idle, busy)
        links = client.connection._runtime.links
        pump_until(lambda: len(links) == 2, client, idle, busy)
        for number in range(3, 23):
            client.send(ANY)
            pump_until(partial(arrived, number), client, idle, busy)
            # The next one shall not overtake what the idle one says of this one.
            pump_until(lambda: 0 in [link.load for link in links.values()], client, idle, busy)
        assert len(busy.deliveries) <= 2


def test_beyond_the_window_the_server_says_busy(pair: tuple[Member, Member]) -> None:
    """More than `window` unsettled messages are refused; they are offered again and taken once there is room."""
    server, client = pair
    server.on_delivery = None
    server.connection.subscribe(any_source(), 3)
    casts = [client.send(ANY, str(n).encode()) for n in range(5)]
    pump_until(lambda: server.counts["busy"] >= 2, client, server)
    assert len(server.deliveries) == 3
    for delivery in list(server.deliveries):
        server.accept(delivery)
    server.on_delivery = server.accept
    pump_until(lambda: all(client.of(cast) for cast in casts), client, server)
    assert {client.of(cast)[0].stage for cast in casts} == {Stage.TAKEN}
    assert sorted(server.bodies) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_busy_server_is_passed_over(url: str) -> None:
    """What one server refuses goes to another at once."""
    full, free, client = Member(url), Member(url), Member(url)
    with members(client, full, free):
        full.subscribe(any_source(), window=0)
        free.on_delivery = free.accept
        free.subscribe(any_source())
        casts = [client.send(ANY) for _ in range(10)]
        pump_until(lambda: all(client.of(cast) for cast in casts), client, full, free)
        assert full.deliveries == []
        assert len(free.deliveries) == 10


def test_when_all_are_busy_the_message_is_overloaded(pair: tuple[Member, Member]) -> None:
    """Refused by everybody up to its deadline, or in a number of rounds without one, is Overloaded and NO."""
    server, client = pair
    server.connection.subscribe(any_source(), 0)
    with_deadline, without = client.send(ANY, timeout=0.3), client.send(ANY, timeout=0)
    for sent in (with_deadline, without):
        error = client.outcome(sent, server).error
        assert isinstance(error, Overloaded)
        assert error.delivered is Delivered.NO
    assert server.deliveries == []


def test_the_inbox_is_bounded_in_bytes(url: str) -> None:
    """Unsettled bodies beyond `inbox` bytes are refused, one body alone never."""
    server, client = Member(url, inbox=10_000), Member(url)
    with members(client, server):
        server.subscribe(any_source())
        big = client.send(ANY, b"x" * 50_000)
        pump_until(lambda: server.deliveries, client, server)
        small = client.send(ANY, b"y")
        pump_until(lambda: server.counts["busy"], client, server)
        server.accept(server.deliveries[0])
        server.on_delivery = server.accept
        for sent in (big, small):
            assert client.outcome(sent, server).stage is Stage.TAKEN


def test_what_is_handed_back_goes_to_another_server(url: str) -> None:
    """REQUEUE sends a message elsewhere, without the one that returned it having settled it."""
    shy, willing, client = Member(url), Member(url), Member(url)
    with members(client, shy, willing):
        shy.on_delivery = lambda delivery: shy.connection.settle([delivery], Outcome.REQUEUE)
        shy.subscribe(any_source())
        willing.on_delivery = willing.accept
        willing.subscribe(any_source())
        casts = [client.send(ANY) for _ in range(20)]
        pump_until(lambda: all(client.of(cast) for cast in casts), client, shy, willing)
        assert {client.of(cast)[0].taker for cast in casts} == {willing.addresses[any_source()]}
        assert len(willing.deliveries) == 20


def test_a_rejected_message_is_an_error_with_its_reason(pair: tuple[Member, Member]) -> None:
    """REJECT reaches the sender as Rejected, and the message goes nowhere else."""
    server, client = pair
    server.on_delivery = lambda delivery: server.connection.settle([delivery], Outcome.REJECT, reason="bad blood")
    error = client.outcome(client.send(ANY), server).error
    assert isinstance(error, Rejected)
    assert "bad blood" in str(error)


def test_after_unsubscribing_nothing_arrives(pair: tuple[Member, Member]) -> None:
    """A message for a source that is gone is NoRoute; what was handed out before can still be settled and answered."""
    server, client = pair
    server.on_delivery = None
    call = client.call(ANY)
    pump_until(lambda: server.deliveries, client, server)
    server.connection.unsubscribe(any_source())
    pump_until(lambda: server.subscription_errors, server)
    late = client.send(ANY)
    error = client.outcome(late, server).error
    assert isinstance(error, NoRoute)
    server.echo(server.deliveries[0])
    pump_until(lambda: client.deliveries, client, server)
    assert call.stage is Stage.TAKEN
    assert len(server.deliveries) == 1


def test_a_message_on_its_way_to_a_source_that_goes_is_refused(pair: tuple[Member, Member]) -> None:
    """Written before the client heard that the source is gone, it comes back as not delivered."""
    server, client = pair
    cast = client.send(ANY)
    client.connection.pump(0.0)
    pump_until(lambda: client.of(cast), client, server)
    late = client.send(ANY)
    client.connection.pump(0.0)
    assert late.stage is Stage.WRITTEN
    server.connection.unsubscribe(any_source())
    error = client.outcome(late, server).error
    assert isinstance(error, NoRoute)
    assert error.delivered is Delivered.NO
    assert len(server.deliveries) == 1


def test_expired_and_withdrawn_messages_are_not_written(pair: tuple[Member, Member]) -> None:
    """What is past its deadline is told with NO; what its sender took back is skipped in silence."""
    server, client = pair
    client.outcome(client.send(ANY), server)
    expired = client.send(ANY, timeout=-1.0)
    withdrawn = client.send(ANY)
    withdrawn.withdrawn = True
    error = client.outcome(expired, server).error
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, error.delivered) == ("send", Delivered.NO)
    pump_for(0.05, client, server)
    assert client.of(withdrawn) == []
    assert withdrawn.stage is None
    assert len(server.deliveries) == 1


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
def test_bodies_of_every_size_arrive_whole(pair: tuple[Member, Member], size: int) -> None:
    """Small bodies travel in the batch, large ones in frames of their own; both ways."""
    server, client = pair
    bodies = [bytes([n]) * size for n in range(10)]
    for n, body in enumerate(bodies):
        client.call(ANY, body, id=str(n))
    pump_until(lambda: len(client.deliveries) == 10, client, server)
    found = {answer.headers["correlation-id"]: answer.body for answer in client.deliveries}
    assert [found[str(n)] for n in range(10)] == bodies


def test_a_body_beyond_the_limit_of_the_receiver_is_too_large(url: str) -> None:
    """The receiver's max_message comes with its greeting, so the sender is told instead of the connection being cut."""
    server, client = Member(url, max_message=2000), Member(url)
    with members(client, server):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        error = client.outcome(client.send(ANY, b"x" * 2001), server).error
        assert isinstance(error, TooLarge)
        assert error.delivered is Delivered.NO
        assert client.outcome(client.send(ANY, b"x" * 2000), server).stage is Stage.TAKEN


def test_headers_beyond_the_limit_harm_only_their_own_message(pair: tuple[Member, Member]) -> None:
    """Of messages written together, the one with too large headers fails and the others arrive."""
    server, client = pair
    client.outcome(client.send(ANY), server)
    sent = [client.send(ANY, headers={"n": "x" * (2_000_000 if n == 2 else 1)}) for n in range(5)]
    pump_until(lambda: all(client.of(message) for message in sent), client, server)
    errors = [client.of(message)[0].error for message in sent]
    assert [type(error) for error in errors] == [type(None)] * 2 + [TooLarge] + [type(None)] * 2


def test_a_body_made_at_the_write_knows_address_and_budget(pair: tuple[Member, Member]) -> None:
    """`encode` gets the reply address and the remaining seconds."""
    server, client = pair
    asked = []

    def encode(address: str, remaining: float | None) -> bytes:
        asked.append((address, remaining))
        return b"made"

    client.call(ANY, b"", encode=encode)
    pump_until(lambda: client.deliveries, client, server)
    assert client.bodies == [b"made"]
    address, remaining = asked[0]
    assert address == client.addresses[Source.reply()]
    assert remaining is not None
    assert 0.0 < remaining <= 5.0


def test_a_message_counts_as_written_from_before_its_sender_could_withdraw_it(pair: tuple[Member, Member]) -> None:
    """Its sender, on another thread, withdraws it first and looks at its stage then; so whatever is told as not written
    is not written.
    """
    server, client = pair
    stages = []

    def encode(_address: str, _left: float | None) -> bytes:
        stages.append(outgoing.stage)
        return b"body"

    outgoing = client.send(ANY, encode=encode)
    assert outgoing.stage is None
    client.outcome(outgoing, server)
    assert stages == [Stage.WRITTEN]


def test_what_cannot_be_encoded_harms_only_its_own_message(pair: tuple[Member, Member]) -> None:
    """A body that cannot be made, and headers that cannot be written, are EncodeError and NO; their neighbours pass."""
    server, client = pair
    server.on_delivery = server.accept

    def broken(address: str, remaining: float | None) -> bytes:
        raise ValueError("this body cannot be made")

    sent = [
        client.send(ANY, b"1"),
        client.send(ANY, encode=broken),
        client.send(ANY, b"2"),
        client.send(ANY, headers={"n": object()}),
        client.send(ANY, headers={"n": 2**70}),
        client.send(ANY, b"3"),
    ]
    pump_until(lambda: all(client.of(message) for message in sent), client, server)
    errors = [client.of(message)[0].error for message in sent]
    assert [type(error) for error in errors] == [
        type(None),
        EncodeError,
        type(None),
        EncodeError,
        EncodeError,
        type(None),
    ]
    assert {getattr(error, "delivered", Delivered.NO) for error in errors} == {Delivered.NO}
    assert server.bodies == [b"1", b"2", b"3"]


def test_a_message_to_the_taker_arrives_at_its_reply_source(pair: tuple[Member, Member]) -> None:
    """A cancel, addressed to the taker of a call, reaches that server and can be answered."""
    server, client = pair
    server.subscribe(Source.reply())
    server.on_delivery = None
    call = client.call(ANY)
    pump_until(lambda: server.deliveries, client, server)
    client.send(Route.reply(call.taker), b"cancel", confirm=False)
    pump_until(lambda: len(server.deliveries) == 2, client, server)
    control = server.deliveries[1]
    assert (control.source, control.body, control.sent_by) == (
        Source.reply(),
        b"cancel",
        client.addresses[Source.reply()],
    )


def test_a_confirmed_answer_is_settled_too(pair: tuple[Member, Member]) -> None:
    """A message to a reply address with `confirm` is TAKEN when its receiver settles it."""
    server, client = pair
    client.on_delivery = client.accept
    server.on_delivery = None
    client.call(ANY)
    pump_until(lambda: server.deliveries, client, server)
    sent = server.send(Route.reply(server.deliveries[0].reply_to), b"sure")
    assert server.outcome(sent, client).stage is Stage.TAKEN


def test_an_answer_to_somebody_who_has_left_is_no_route(pair: tuple[Member, Member]) -> None:
    """Who closed its connection is not written to any more, and what it sent has become stale."""
    server, client = pair
    server.on_delivery = None
    client.call(ANY)
    pump_until(lambda: server.deliveries, client, server)
    client.close()
    request = server.deliveries[0]
    pump_until(lambda: request.stale, server)
    error = server.outcome(server.send(Route.reply(request.reply_to), confirm=False)).error
    assert isinstance(error, NoRoute)
    server.accept(request)
    assert server.counts["stale_settlements"] == 1


def test_settling_twice_is_counted_and_ignored(pair: tuple[Member, Member]) -> None:
    """A second settlement, or one of another outcome, changes nothing."""
    server, client = pair

    def twice(delivery: Delivery) -> None:
        server.accept(delivery)
        server.connection.settle([delivery], Outcome.REJECT)

    server.on_delivery = twice
    assert client.outcome(client.send(ANY), server).error is None
    assert server.counts["stale_settlements"] == 1


def test_a_process_can_talk_to_itself(url: str) -> None:
    """A client and a server on one connection reach each other like any other two."""
    both = Member(url)
    with members(both):
        both.on_delivery = lambda delivery: both.echo(delivery) if delivery.reply_to else None
        both.subscribe(any_source(), Source.reply())
        both.call(ANY, b"self")
        pump_until(lambda: len(both.deliveries) == 2, both)
        assert both.bodies == [b"self", b"self"]


def test_ten_thousand_calls_in_flight_get_their_own_answers(pair: tuple[Member, Member]) -> None:
    """No answer is lost, doubled or given to another call, however many are under way."""
    server, client = pair
    server.connection.subscribe(any_source(), 100_000)
    for n in range(10_000):
        client.call(ANY, str(n).encode(), id=str(n), timeout=30.0)
    pump_until(lambda: len(client.deliveries) >= 10_000, client, server, within=30.0)
    assert all(answer.body.decode() == answer.headers["correlation-id"] for answer in client.deliveries)
    assert len({answer.body for answer in client.deliveries}) == 10_000
