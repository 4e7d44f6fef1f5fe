"""Waiting for ZeroMQ sockets: few or many, by a thread or by a loop, with epoll and without."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from messaging.drivers.wakeup import WakeUp
from messaging.drivers.zmq.waiter import Waiter
from messaging.message import Source
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
        begin = time.monotonic()
        assert waiter.wait(timeout) == []
        assert timeout <= time.monotonic() - begin < timeout + 0.2
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
        assert time.monotonic() - begin < 1.0
        waiter.wait(0.0)
        begin = time.monotonic()
        waiter.wait(0.02)
        assert time.monotonic() - begin >= 0.02
    timer = threading.Timer(0.02, waiter.wake)
    timer.start()
    begin = time.monotonic()
    waiter.wait(5.0)
    assert time.monotonic() - begin < 1.0
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
