"""Waiting for ZeroMQ sockets: few or many, by a thread or by a loop, with epoll and without."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from messaging.drivers.wakeup import WakeUp
from messaging.drivers.zmq.callers import Caller
from messaging.drivers.zmq.frames import PROBE, Hello
from messaging.drivers.zmq.waiter import Waiter
from messaging.message import Source
from tests.faults.processes import Stall
from tests.unit.zmq_peers import ANY, Member, any_source, members, pump_until


@pytest.fixture(params=["epoll", "loop", "neither"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A thread on a system with epoll, a loop that watches the descriptor, and a system that has no such thing."""
    if request.param == "neither":
        monkeypatch.delattr(select, "epoll")
        monkeypatch.delattr(os, "eventfd")
    return str(request.param)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context whose sockets are closed in the end."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(0)


class Reader:
    """A socket that is read when the waiter says so."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], waiter: Waiter, number: int) -> None:
        self.got: list[bytes] = []
        self.waiter = waiter
        self.socket = context.socket(zmq.PAIR)
        self.other = context.socket(zmq.PAIR)
        self.socket.bind(f"inproc://{number}")
        self.other.connect(f"inproc://{number}")
        waiter.add(self.socket, self.read)

    def read(self) -> None:
        try:
            self.got.append(self.socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return
        self.waiter.touch(self.socket)


@pytest.mark.parametrize("number", [1, 3, 40])
def test_every_message_of_every_socket_is_found(way: str, number: int, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Several messages per socket, one read per turn, among few sockets and many."""
    waiter = Waiter()
    if way == "loop":
        assert waiter.fileno() is not None
    if way == "neither":
        assert waiter.fileno() is None
    readers = [Reader(context, waiter, index) for index in range(number)]
    for round in range(20):
        for reader in readers:
            for _ in range(3):
                reader.other.send(b"%d" % round)
        deadline = time.monotonic() + 5.0
        while any(len(reader.got) < 3 * (round + 1) for reader in readers):
            assert time.monotonic() < deadline
            for handler in waiter.wait(5.0):
                handler()
    for reader in readers:
        waiter.remove(reader.socket)
        reader.socket.close()
        reader.other.close()
    assert waiter.wait(0.0) == []
    waiter.close()


def test_a_message_is_reported_once(way: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Whoever has read the one message there was is not called again: each empty turn costs as much as the message."""
    waiter = Waiter()
    if way == "loop":
        waiter.fileno()
    reader = Reader(context, waiter, 0)
    waiter.wait(0.0)
    for number in range(5):
        reader.other.send(b"%d" % number)
        for handler in waiter.wait(5.0):
            handler()
        assert len(reader.got) == number + 1
        assert waiter.wait(0.0) == []
    waiter.remove(reader.socket)
    reader.socket.close()
    reader.other.close()
    waiter.close()


def test_a_wait_lasts_as_long_as_asked_and_no_longer(way: str) -> None:
    """Not less than asked for, which would turn the wait into a loop, and not much more."""
    waiter = Waiter()
    if way == "loop":
        waiter.fileno()
    for timeout in (0.0, 0.0004, 0.02):
        with Stall() as stall:
            begin = time.monotonic()
            assert waiter.wait(timeout) == []
            took = time.monotonic() - begin
        assert timeout <= took < timeout + 0.2 + stall.worst
    waiter.close()


def test_a_ring_ends_one_wait(way: str) -> None:
    """Rung before or during the wait, once or a hundred times, it ends that wait and not the next one."""
    waiter = Waiter()
    if way == "loop":
        waiter.fileno()
    for rings in (1, 100):
        for _ in range(rings):
            waiter.wake()
        begin = time.monotonic()
        waiter.wait(5.0)
        assert time.monotonic() - begin < 4.0
        waiter.wait(0.0)
        begin = time.monotonic()
        waiter.wait(0.02)
        assert time.monotonic() - begin >= 0.02
    timer = threading.Timer(0.02, waiter.wake)
    timer.start()
    begin = time.monotonic()
    waiter.wait(5.0)
    assert time.monotonic() - begin < 4.0
    timer.join()
    waiter.close()


def test_a_wakeup_can_be_rung_without_end(way: str) -> None:
    """A pipe that nobody reads fills up; ringing goes on all the same."""
    wakeup = WakeUp()
    for _ in range(100_000):
        wakeup.ring()
    assert select.select([wakeup.descriptor], [], [], 0.0)[0]
    for _ in range(1000):
        wakeup.silence()
    assert not select.select([wakeup.descriptor], [], [], 0.0)[0]
    wakeup.ring()
    assert select.select([wakeup.descriptor], [], [], 0.0)[0]


def test_a_connection_works_each_way(way: str, tmp_path: Path) -> None:
    """Calls pass between connections that wait in that way."""
    url = f"zmq+local://{tmp_path}/peers"
    server, client = Member(url), Member(url)
    with members(client, server):
        for member in (server, client):
            if way != "epoll":
                assert (member.connection.fileno() is None) == (way == "neither")
        server.on_delivery = server.echo
        server.subscribe(any_source())
        client.subscribe(Source.reply())
        for number in range(100):
            client.call(ANY, id=str(number))
        pump_until(lambda: len(client.deliveries) == 100, client, server)


# The sign that is given once, and who eats it


def use(member: Member) -> None:
    """Use a server's socket so that nothing is written: a frame for somebody who is not there."""
    member.connection._callers._send(b"nobody", PROBE)


def write_to_the_gone(member: Member) -> None:
    """Write to a caller whose connection has ended, as an answer or a probe does."""
    router = member.connection._callers._router
    assert router is not None
    runtime = member.connection._runtime
    gone = Caller(runtime, router, b"nobody", Hello("messaging", 1, 1, "gone", "", 0), runtime.now)
    with pytest.raises(zmq.ZMQError):
        gone.send_frames(PROBE, [])


def ask_for_room(member: Member) -> None:
    """Ask whether the socket to a peer takes messages again."""
    [peer] = member.connection._peers.open
    assert peer.writable()


def readable(descriptor: int | None, seconds: float) -> bool:
    assert descriptor is not None
    return bool(select.select([descriptor], [], [], seconds)[0])


def eat_the_sign(member: Member, by: Callable[[Member], None]) -> None:
    """Wait until something has come for a member, and use its socket until the descriptor says so no more: before a
    send ZeroMQ looks for signs once in a while, not each time.
    """
    descriptor = member.connection.fileno()
    assert readable(descriptor, 5.0)
    deadline = time.monotonic() + 5.0
    while readable(descriptor, 0.0):
        assert time.monotonic() < deadline
        by(member)


def pump_as_told(member: Member, until: Callable[[], object], timeout: float = 0.0) -> None:
    """Pump only when the descriptor is readable, or the pump has just said that more is ready."""
    descriptor = member.connection.fileno()
    rest = 0.0
    while not until():
        assert rest <= 0.0 or readable(descriptor, 1.0), "what has come is not told"
        rest = member.connection.pump(timeout)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Member, Member]]:
    """A server and a client that have greeted each other; the server's descriptor, then the client's, is watched."""
    url = f"zmq+local://{tmp_path}/peers"
    server, client = Member(url), Member(url)
    with members(client, server):
        server.on_delivery = server.echo
        server.subscribe(any_source())
        client.subscribe(Source.reply())
        client.call(ANY, id="first")
        pump_until(lambda: client.deliveries, client, server)
        for member in (server, client):
            descriptor = member.connection.fileno()
            pump_until(lambda descriptor=descriptor: not readable(descriptor, 0.0), member)  # type: ignore[misc]
            member.take_deliveries()
        yield server, client


@pytest.mark.parametrize("by", [use, write_to_the_gone])
def test_a_send_that_fails_hides_no_message(pair: tuple[Member, Member], by: Callable[[Member], None]) -> None:
    """A server that writes to somebody who is gone still finds what another caller has sent meanwhile."""
    server, client = pair
    client.call(ANY)
    client.connection.pump(0.0)
    eat_the_sign(server, by)
    pump_as_told(server, lambda: server.deliveries)


def test_asking_for_room_hides_no_message(pair: tuple[Member, Member]) -> None:
    """A client whose peer takes no more for now still finds the answers that the peer has sent."""
    server, client = pair
    client.call(ANY)
    client.connection.pump(0.0)
    pump_until(lambda: server.deliveries, server)
    eat_the_sign(client, ask_for_room)
    pump_as_told(client, lambda: client.deliveries)


@pytest.mark.parametrize("timeout", [0.0, 0.001])
def test_what_comes_during_a_pump_is_told(pair: tuple[Member, Member], timeout: float) -> None:
    """A pump that has read one message says when another one is there, whether it was to wait or not."""
    server, client = pair

    def come(_delivery: object) -> None:
        server.on_delivery = None
        client.call(ANY, id="second")
        client.connection.pump(0.0)
        router = server.connection._callers._router
        assert router is not None
        assert router.poll(5000)

    server.on_delivery = come
    client.call(ANY, id="first")
    client.connection.pump(0.0)
    pump_as_told(server, lambda: len(server.deliveries) == 2, timeout)


def test_a_descriptor_tells_of_what_came_before_it_was_asked_for(tmp_path: Path) -> None:
    """The sign may have been eaten while nobody watched: the descriptor is readable at first then."""
    url = f"zmq+local://{tmp_path}/peers"
    server, client = Member(url), Member(url)
    with members(client, server):
        server.subscribe(any_source())
        client.call(ANY)
        pump_until(lambda: server.deliveries, client, server)
        assert readable(server.connection.fileno(), 0.0)
