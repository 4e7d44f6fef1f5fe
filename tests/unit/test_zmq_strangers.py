"""Bytes of strangers on the port: counted and dropped, never raised, and never at the cost of others."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from messaging.drivers.zmq.frames import Bye, Hello, Welcome, decode, encode
from messaging.errors import ConnectionLost, ServerLost
from messaging.message import Source
from tests.unit.zmq_peers import ANY, Member, any_source, members, pump_for, pump_until

HELLO = encode(Hello("messaging", 1, 1, "stranger", "", 1024))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Member, Member]]:
    """A server of the topic that answers, and a client that has called it once."""
    server, client = Member(url), Member(url)
    with members(client, server):
        server.on_delivery = server.echo
        server.subscribe(any_source())
        client.subscribe(Source.reply())
        yield server, client


@contextmanager
def stranger(server: Member, routing_id: str = "") -> Iterator[zmq.Socket[bytes]]:
    """A bare DEALER, connected to a server."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.rcvtimeo = 5000
    if routing_id:
        dealer.routing_id = routing_id.encode()
    dealer.connect(server.connection._callers.endpoint)
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


def served(server: Member, client: Member, id: str = "1") -> bool:
    """Whether the server still answers."""
    before = len(client.deliveries)
    client.call(ANY, b"still", id=id)
    pump_until(lambda: len(client.deliveries) > before, client, server)
    return client.deliveries[-1].body == b"still"


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"nonsense"],
        [b"", b"", b""],
        [b"\x92\x00\x90", b"unasked"],
        [b"x"] * 100,
        [b"x" * 300_000],
        [encode({"a": "map"})],
        [encode((0, [(1, 1)]))],
        [encode((9, 1))],
        [encode(Welcome(1, "", 1, 1, []))],
        [encode(Hello("messaging", 1, 1, "x", "", 1))[:-1]],
    ],
)
def test_malformed_messages_are_dropped(pair: tuple[Member, Member], frames: list[bytes]) -> None:
    """Whatever a stranger sends is counted, and the next message, its own or another's, is read as it should be."""
    server, client = pair
    with stranger(server) as dealer:
        for _ in range(3):
            dealer.send_multipart(frames)
        pump_until(lambda: server.counts["undecodable"] + server.counts["strangers"] == 3, server)
        assert served(server, client)
        dealer.send(HELLO)
        pump_until(lambda: dealer.poll(0) and isinstance(decode(dealer.recv()), Welcome), server)
    assert len(server.deliveries) == 1


def test_messages_before_the_greeting_are_not_taken(pair: tuple[Member, Member]) -> None:
    """A batch of somebody who has not said hello is counted, not handed over, and answered with Bye."""
    server, client = pair
    with stranger(server) as dealer:
        dealer.send(encode((0, [(1, 1, 0, None, {}, b"x")])))
        pump_until(lambda: server.counts["strangers"], server)
        assert isinstance(decode(dealer.recv()), Bye)
    assert served(server, client)
    assert len(server.deliveries) == 1


def test_a_stranger_cannot_take_the_address_of_a_peer(pair: tuple[Member, Member]) -> None:
    """What is sent to the address of a server goes to the server, whatever a stranger calls itself."""
    server, client = pair
    assert served(server, client)
    client.subscribe(any_source("other"))
    [peer] = client.connection._peers.open
    with stranger(client, peer.address) as dealer:
        dealer.send(HELLO)
        pump_until(lambda: len(client.connection._callers) == 1, client)
        assert client.connection._runtime.links[peer.address] is peer


def test_a_greeted_stranger_can_send_nonsense_too(pair: tuple[Member, Member]) -> None:
    """After the greeting: unknown subscriptions are refused, bodies that are not there and settlements of nothing are
    counted.
    """
    server, client = pair
    with stranger(server) as dealer:
        dealer.send(HELLO)
        dealer.send(encode((0, [(1, 999, 0, None, {}, b"x"), (2, 1, 0, None, {}, 5), (3, 1, 0, None, {}, -5)], [7, 8])))
        dealer.send(encode((0, [], [], [(9, 77, "what")])))
        pump_until(lambda: server.counts["late_settlements"] == 3, server)
        assert server.counts["undecodable"] == 2
    assert served(server, client)


def test_a_raw_connection_does_no_harm(pair: tuple[Member, Member]) -> None:
    """Somebody who does not even speak ZeroMQ is not heard, and others are."""
    server, client = pair
    host, _, port = server.connection._callers.endpoint.removeprefix("tcp://").rpartition(":")
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 10_000, b""):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(data)
            pump_for(0.02, server)
    assert served(server, client)


def test_a_message_beyond_the_limit_ends_the_strangers_connection_only(pair: tuple[Member, Member]) -> None:
    """More than max_message is not even received."""
    server, client = pair
    with stranger(server) as dealer:
        dealer.send(HELLO)
        pump_until(lambda: dealer.poll(0), server)
        dealer.recv()
        dealer.send(b"x" * (server.settings.max_message + 1))
        pump_for(0.1, server)
        assert served(server, client)
    assert server.counts["undecodable"] == 0


def test_a_flood_does_not_grow_memory(url: str) -> None:
    """Somebody who sends and never reads is refused, and forgotten once too many refusals wait for it."""
    server, client = Member(url, send_hwm=1), Member(url)
    with members(client, server):
        server.on_delivery = server.echo
        server.subscribe(any_source(), window=0)
        with stranger(server) as dealer:
            dealer.rcvhwm = 1
            dealer.send(HELLO)
            batch = encode((0, [(n, 1, 0, None, {}, b"") for n in range(1, 5001)]))
            sent = 0
            while not server.counts["flooded"]:
                try:
                    dealer.send(batch, zmq.NOBLOCK)
                    sent += 1
                except zmq.Again:
                    pass
                server.connection.pump(0.0)
                assert sent < 10_000
                links = server.connection._runtime.links.values()
                assert sum(len(link.refused) for link in links) < 20_000
            assert len(server.connection._callers) == 0
        server.connection.subscribe(any_source(), 100)
        client.subscribe(Source.reply())
        assert served(server, client)


def test_a_client_that_dies_leaves_nothing_behind(pair: tuple[Member, Member]) -> None:
    """A caller whose connection ended without a word is forgotten when it is written to, or probed."""
    server, _client = pair
    with stranger(server) as dealer:
        dealer.send(HELLO)
        pump_until(lambda: len(server.connection._callers) == 1, server)
    caller = next(iter(server.connection._callers._callers.values()))
    caller.heard_at -= 60.0

    def forgotten() -> bool:
        server.connection._callers._next_probe = 0.0
        server.connection._runtime.due = 0.0
        return len(server.connection._callers) == 0

    pump_until(forgotten, server)
    assert caller.address not in server.connection._runtime.links


def test_a_caller_that_is_given_up_gets_no_settlements(pair: tuple[Member, Member]) -> None:
    """Its owner is told that they are not written, and so they are not, though the caller is still connected."""
    server, client = pair
    server.on_delivery = None
    outgoing = client.send(ANY)
    pump_until(lambda: server.deliveries, client, server)
    [delivery] = server.take_deliveries()
    server.accept(delivery)
    callers = server.connection._callers
    [caller] = callers._callers.values()
    callers._drop(caller, "it reads no settlements")
    pump_until(lambda: server.settled, server)
    assert [(settled, type(error)) for settled, error in server.settled] == [([delivery], ConnectionLost)]
    # The first that the client hears of it is that it is a stranger now.
    client.send(ANY)
    pump_until(lambda: client.lost_peers, client, server)
    assert [type(result.error) for result in client.of(outgoing)] == [ServerLost]


def mutations(number: int, seed: int) -> Iterator[bytes]:
    """Frames that were right once."""
    source = random.Random(seed)
    right = [
        HELLO,
        encode((0, [(1, 1, 1, 5.0, {"message-id": "a", "n": [1, {"b": None}]}, b"body")] * 3, [1, 2], [(3, 0, "")])),
        encode((0, [(1, 1, 1, 5.0, {}, 1)], [], [], 1)),
        encode(Bye(5, "x")),
        encode(Welcome(1, "a", 5, 1, [(1, "any", "e", "t", "", "")])),
    ]
    for _ in range(number):
        frame = bytearray(source.choice(right))
        for _ in range(source.randint(0, 3)):
            position = source.randrange(len(frame) + 1)
            frame[position : position + source.randint(0, 4)] = source.randbytes(source.randint(0, 4))
        yield bytes(frame)


def attack(server: Member, client: Member, number: int, seed: int) -> None:
    """Send mutated frames to a live server, which serves somebody else meanwhile."""
    served(server, client, "first")
    with stranger(server) as dealer:
        for count, frame in enumerate(mutations(number, seed)):
            dealer.send_multipart([frame, b"body"] if count % 7 == 0 else [frame])
            if count % 100 == 0:
                server.connection.pump(0.0)
                while dealer.poll(0):
                    dealer.recv_multipart()
            if count % 1000 == 0:
                assert served(server, client, str(count))
        pump_for(0.2, server)
        assert served(server, client, "last")
    assert len(server.connection._callers) <= 2


def test_ten_thousand_mutated_frames_do_no_harm(pair: tuple[Member, Member]) -> None:
    """A live server survives them, keeps answering, and remembers nothing of them."""
    server, client = pair
    server.on_delivery = lambda delivery: server.echo(delivery) if delivery.sent_by != "stranger" else None
    attack(server, client, 10_000, seed=1)
    assert server.counts["undecodable"] > 1000


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_mutated_frames_do_no_harm(pair: tuple[Member, Member]) -> None:
    """The same, ten times as long and by another seed."""
    server, client = pair
    server.on_delivery = lambda delivery: server.echo(delivery) if delivery.sent_by != "stranger" else None
    attack(server, client, 100_000, seed=random.randrange(2**32))
