"""AsyncioConnection, with the example's driver and broker over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from messaging.drivers.base import State
from messaging.errors import Cancelled, ConnectFailed, ConnectionLost, Delivered, NoRoute
from messaging.message import Outcome, Outgoing, Route, Source, SourceKind, Stage, Token
from tests.brokers.ports import free_port
from tests.unit.tcp_service import TcpService

ANY = Source(SourceKind.ANY, "", "topic")
REPLY = Source.reply()
TO_ANY = Route.any("", "topic")


@pytest.fixture
def tcp() -> Iterator[TcpService]:
    """A broker of its own for each test."""
    with TcpService() as service:
        yield service


def test_a_question_and_its_answer(tcp: TcpService) -> None:
    """A message goes to the server with the asker's address and budget, and the answer comes back."""
    server, client = tcp.peer(ANY), tcp.peer(REPLY)
    asked = client.send(
        TO_ANY, b"question", headers={"h": 1}, reply_to=True, budget=True, deadline=time.monotonic() + 9
    )
    server.until(lambda: server.events.deliveries)
    (delivery,) = server.events.deliveries
    assert (delivery.body, delivery.headers, delivery.source) == (b"question", {"h": 1}, ANY)
    assert delivery.reply_to == client.events.addresses[REPLY]
    assert delivery.budget is not None
    assert 8.0 < delivery.budget <= 9.0
    server.accept(delivery)
    server.until(lambda: server.events.settled)
    server.send(Route.reply(delivery.reply_to), b"answer", confirm=False)
    # The answer may be read together with the confirmation, and then comes first.
    client.until(lambda: client.events.bodies == [b"answer"] and client.events.sent)
    assert [(result.outgoing, result.stage) for result in client.events.sent] == [(asked, Stage.TAKEN)]
    assert server.events.sent == []


def test_every_route(tcp: TcpService) -> None:
    """One named server, all servers, every pool; and where nobody consumes, the sender is told."""
    one = Source(SourceKind.ONE, "", "topic", "host-1")
    everybody = Source(SourceKind.ALL, "", "topic", "host-1")
    pool = Source(SourceKind.POOLS, "", "topic", "", "a")
    server, client = tcp.peer(one, everybody, pool), tcp.peer()
    client.send(Route.one("", "topic", "host-1"), b"one")
    client.send(Route.all("", "topic"), b"all")
    client.send(Route.pools("", "topic"), b"pools")
    client.send(Route.one("", "topic", "host-2"), b"nobody")
    server.until(lambda: len(server.events.deliveries) == 3)
    client.until(lambda: len(client.events.sent) == 4)
    assert {delivery.source: delivery.body for delivery in server.events.deliveries} == {
        one: b"one",
        everybody: b"all",
        pool: b"pools",
    }
    assert [result.taker for result in client.events.sent] == [None, (1, 0), None, None]
    assert [type(error) for error in client.events.errors] == [NoRoute]


def test_the_window_bounds_what_is_unsettled(tcp: TcpService) -> None:
    """No more than `window` deliveries are unsettled; 0 holds; a settlement or a larger window lets more come."""
    server, client = tcp.peer(ANY, window=2), tcp.peer()
    for number in range(6):
        client.send(TO_ANY, b"%d" % number)
    client.until(lambda: len(client.events.sent) == 6)
    server.until(lambda: len(server.events.deliveries) == 2)
    server.accept(server.events.deliveries[0])
    server.until(lambda: len(server.events.deliveries) == 3)
    server.connection.subscribe(ANY, 0)
    server.accept(*server.events.deliveries[1:])
    server.until(lambda: len(server.events.settled) == 2)
    server.connection.subscribe(ANY, 10)
    server.until(lambda: len(server.events.deliveries) == 6)
    assert server.events.bodies == [b"%d" % number for number in range(6)]


def test_a_thousand_messages_keep_their_order(tcp: TcpService) -> None:
    """Pipelined messages arrive in order, each once, and each is confirmed."""
    server, client = tcp.peer(ANY, window=100), tcp.peer()
    server.events.on_batch = lambda batch: server.connection.settle(batch, Outcome.ACCEPT)
    for number in range(1_000):
        client.connection.publish(Outgoing(TO_ANY, b"%d" % number, {}))
    client.until(lambda: len(client.events.sent) == 1_000)
    server.until(lambda: len(server.events.deliveries) == 1_000)
    assert server.events.bodies == [b"%d" % number for number in range(1_000)]
    assert client.events.errors == []


def test_a_cut_connection_comes_back(tcp: TcpService) -> None:
    """After a cut: LOST, CONNECTING, READY, subscribed; what was unsettled is stale and comes again to the next
    generation.
    """
    server, client = tcp.peer(ANY), tcp.peer()
    client.send(TO_ANY, b"x")
    server.until(lambda: server.events.deliveries)
    (first,) = server.events.deliveries
    server.events.log.clear()
    tcp.cut()
    server.until(lambda: len(server.events.deliveries) == 2)
    again = server.events.deliveries[1]
    assert first.stale
    assert (again.redelivered, again.attempt, again.stale) == (True, 2, False)
    assert again.generation > first.generation
    assert server.events.log == ["LOST", "CONNECTING", "READY", "subscribed ANY", "deliveries ANY"]
    assert isinstance(server.events.causes[2], ConnectionLost)
    server.accept(first)
    assert server.connection.counts() == {"reconnects": 1, "stale_settlements": 1}


def test_a_restarted_broker_is_found_again(tcp: TcpService) -> None:
    """While nobody listens each try is told as ConnectFailed with the time of the next; then the connection is back."""
    peer = tcp.peer(ANY)
    tcp.stop()
    peer.until(lambda: peer.events.states.count(State.LOST) == 4)
    assert [type(cause) for cause in peer.events.causes if cause is not None][1:] == [ConnectFailed] * 3
    assert all(
        retry is not None
        for state, retry in zip(peer.events.states, peer.events.retries, strict=True)
        if state is State.LOST
    )
    assert f"127.0.0.1:{tcp.port}" in str(peer.events.causes[-1])
    tcp.listen()
    peer.until(lambda: peer.events.log.count("subscribed ANY") == 2)


def test_the_next_host_is_tried(tcp: TcpService) -> None:
    """A host that refuses, or does not answer, is followed by the next one of the URL."""
    peer = tcp.connection(f"tcp://127.0.0.1:{free_port()},127.0.0.1:{tcp.port}")
    peer.until(lambda: peer.events.last_state() is State.READY)
    assert peer.events.states == [State.CONNECTING, State.LOST, State.CONNECTING, State.READY]


def test_a_message_without_an_answer_is_in_doubt(tcp: TcpService) -> None:
    """When the connection goes, a written call whose answer cannot find the new address ends as MAYBE; an ended one
    is silent.
    """
    client = tcp.peer(REPLY)
    tcp.peer(ANY)
    waiting, answered = (client.send(TO_ANY, body, reply_to=True, token=Token()) for body in (b"1", b"2"))
    client.until(lambda: len(client.events.sent) == 2)
    answered.token = None
    client.events.sent.clear()
    tcp.cut()
    client.until(lambda: client.events.sent)
    (result,) = client.events.sent
    assert result.outgoing is waiting
    assert isinstance(result.error, ConnectionLost)
    assert (result.stage, result.error.delivered) == (Stage.TAKEN, Delivered.MAYBE)


def test_unsubscribing(tcp: TcpService) -> None:
    """The end of a subscription is told as Cancelled, and it can be made again at once."""
    server, client = tcp.peer(ANY), tcp.peer()
    server.connection.unsubscribe(ANY)
    server.connection.subscribe(ANY, 5)
    server.until(lambda: server.events.log.count("subscribed ANY") == 2)
    assert [type(error) for _, error in server.events.subscription_errors] == [Cancelled]
    client.send(TO_ANY)
    server.until(lambda: server.events.deliveries)
    server.connection.unsubscribe(ANY)
    server.accept(*server.events.deliveries)
    server.until(lambda: len(server.events.subscription_errors) == 2 and server.events.settled)


def test_wake_ends_a_waiting_pump(tcp: TcpService) -> None:
    """A pump that waits returns when another thread calls wake; one that was woken before does not wait."""
    peer = tcp.peer()
    for delay in (0.0, 0.05):
        waker = threading.Timer(delay, peer.connection.wake)
        waker.start()
        if not delay:
            waker.join()
        began = time.monotonic()
        peer.connection.pump(30.0)
        waker.join()
        assert time.monotonic() - began < 15.0
    assert peer.connection.fileno() is None


def test_the_owner_may_change(tcp: TcpService) -> None:
    """One thread after the other pumps the same connection."""
    server, client = tcp.peer(ANY), tcp.peer()
    client.send(TO_ANY)
    thread = threading.Thread(target=lambda: server.until(lambda: server.events.deliveries))
    thread.start()
    thread.join(10.0)
    assert len(server.events.deliveries) == 1
