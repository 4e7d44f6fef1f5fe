"""Who wakes whom on memory://: threads that pump, event loops that watch, and posters anywhere."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from messaging.drivers.memory.wakeup import Wakeup
from messaging.message import Delivery, Outcome, Outgoing, Route
from tests.unit.memory_peers import ANY, REPLY, MemoryPeer, World

TO_ANY = Route.any("", "topic")
LONG = 30.0
"""Seconds that no test waits unless a wake-up is lost."""


@pytest.fixture
def world() -> World:
    """A hub of its own for each test, in real time."""
    return World(time.monotonic)


@contextmanager
def pumped(*peers: MemoryPeer) -> Iterator[None]:
    """Let a thread of its own pump each connection, which always waits as long as it may."""
    stop = threading.Event()

    def run(peer: MemoryPeer) -> None:
        while not stop.is_set():
            peer.connection.pump(LONG)

    threads = [threading.Thread(target=run, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for peer, thread in zip(peers, threads, strict=True):
            peer.connection.wake()
            thread.join(LONG)
            assert not thread.is_alive()


def test_no_wake_up_is_lost_between_threads(world: World) -> None:
    """Two thousand round trips between two pumping threads: each is over long before a lost wake-up would be
    noticed.
    """
    server, client = world.peer(ANY), world.peer(REPLY)
    answered = threading.Semaphore(0)

    def answer(batch: object) -> None:
        deliveries = list[Delivery](batch)  # type: ignore[call-overload]
        server.connection.settle(deliveries, Outcome.ACCEPT)
        for delivery in deliveries:
            server.connection.publish(Outgoing(Route.reply(delivery.reply_to), b"", {}, confirm=False))

    server.events.on_batch = answer
    client.events.on_batch = lambda batch: answered.release(len(batch))
    with pumped(server, client):
        for _ in range(2_000):
            client.connection.publish(Outgoing(TO_ANY, b"", {}, reply_to=True, confirm=False))
            assert answered.acquire(timeout=10.0)


def test_many_threads_publish_on_one_connection(world: World) -> None:
    """What eight threads publish at once arrives once each, and each sender's confirmation is told once."""
    server, client = world.peer(ANY, window=50), world.peer()
    server.events.on_batch = lambda batch: server.connection.settle(batch, Outcome.ACCEPT)
    sent = [f"{thread}-{number}".encode() for thread in range(8) for number in range(250)]

    def publish(bodies: list[bytes]) -> None:
        for body in bodies:
            client.connection.publish(Outgoing(TO_ANY, body, {}))

    with pumped(server, client):
        threads = [threading.Thread(target=publish, args=(sent[index::8],)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        server.events.wait_for(lambda: len(server.events.deliveries) >= len(sent))
        client.events.wait_for(lambda: len(client.events.sent) >= len(sent))
    assert sorted(server.events.bodies) == sorted(sent)
    assert sorted(result.outgoing.body for result in client.events.sent) == sorted(sent)
    assert client.events.errors == []


def test_wake_ends_a_waiting_pump(world: World) -> None:
    """A pump that waits returns when another thread calls wake."""
    peer = world.peer()
    waker = threading.Timer(0.05, peer.connection.wake)
    waker.start()
    began = time.monotonic()
    peer.connection.pump(LONG)
    waker.join()
    assert time.monotonic() - began < LONG / 2


def test_wake_keeps_the_next_pump_from_waiting(world: World) -> None:
    """A wake that comes before the pump is not forgotten, and is used up by it."""
    peer = world.peer()
    peer.connection.wake()
    began = time.monotonic()
    peer.connection.pump(LONG)
    assert time.monotonic() - began < LONG / 2
    began = time.monotonic()
    peer.connection.pump(0.02)
    assert time.monotonic() - began >= 0.02


def test_a_pump_waits_no_longer_than_its_timeout(world: World) -> None:
    """Pump waits at most as long as it was told, while nothing comes; and not at all for 0."""
    peer = world.peer()
    for timeout in (0.0, 0.05):
        began = time.monotonic()
        peer.connection.pump(timeout)
        assert timeout <= time.monotonic() - began < timeout + 5.0


def test_the_owner_may_change(world: World) -> None:
    """One thread after the other pumps the same connection."""
    server, client = world.peer(ANY), world.peer()
    for number in range(3):
        thread = threading.Thread(target=lambda: server.until(lambda: server.events.deliveries))
        thread.start()
        client.send(TO_ANY, b"%d" % number)
        thread.join(LONG)
        assert [delivery.body for delivery in server.take()] == [b"%d" % number]


def readable(descriptor: int) -> bool:
    """Whether a watcher of the descriptor would be woken now."""
    return bool(select.select([descriptor], [], [], 0.0)[0])


def test_the_descriptor_is_readable_when_there_is_work(world: World) -> None:
    """It is quiet while nothing happens, speaks for deliveries, confirmations, faults and wake, and is quiet after a
    pump.
    """
    server, client = world.peer(ANY), world.peer()
    descriptor = server.connection.fileno()
    assert descriptor is not None
    assert server.connection.fileno() == descriptor
    assert readable(descriptor)
    server.pump()
    assert not readable(descriptor)

    def publish_here() -> None:
        server.connection.publish(Outgoing(TO_ANY, b"", {}))

    for poke in (
        lambda: client.send(TO_ANY),
        publish_here,
        server.connection.wake,
        world.faults.block,
        world.faults.unblock,
        world.faults.disconnect,
    ):
        poke()
        assert readable(descriptor)
        server.pump()
        server.pump()
        assert not readable(descriptor)


def test_a_burst_is_one_mark_on_the_descriptor(world: World) -> None:
    """Many messages between two pumps write to the descriptor once."""
    server, client = world.peer(ANY, window=100), world.peer()
    descriptor = server.connection.fileno()
    assert descriptor is not None
    server.pump()
    for _ in range(50):
        client.send(TO_ANY)
    assert os.eventfd_read(descriptor) == 1
    assert len(server.take()) == 50


def test_the_descriptor_is_closed_with_the_connection(world: World) -> None:
    """After CLOSED the descriptor is gone, and waking does no harm to whoever got its number."""
    peer = world.peer()
    descriptor = peer.connection.fileno()
    assert descriptor is not None
    peer.connection.close(0.0)
    peer.pump()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    ours = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        peer.connection.wake()
        assert not readable(ours)
    finally:
        os.close(ours)


def test_every_order_of_wake_and_sleep() -> None:
    """Whether wake comes before the owner lies down, before it sleeps, or while it sleeps: it never sleeps through."""
    wakeup = Wakeup()
    wakeup.wake()
    assert not wakeup.lie_down()
    wakeup.get_up(idle=True)
    assert wakeup.lie_down()
    wakeup.wake()
    wakeup.sleep(LONG)
    wakeup.get_up(idle=True)
    assert wakeup.lie_down()
    sleeper = threading.Thread(target=wakeup.sleep, args=(LONG,))
    sleeper.start()
    wakeup.ring()
    sleeper.join(LONG / 2)
    assert not sleeper.is_alive()


def test_a_late_ring_does_not_wake_the_next_sleep() -> None:
    """A ring that meets a sleeper whose time was just over is used up by that sleep."""
    wakeup = Wakeup()
    assert wakeup.lie_down()
    wakeup.ring()
    assert not wakeup.armed
    wakeup.get_up(idle=False)
    assert wakeup.lie_down()
    began = time.monotonic()
    wakeup.sleep(0.02)
    assert time.monotonic() - began >= 0.02


def test_an_interrupted_publisher_harms_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a publish loses that message at most; the hub, its lock and the others go on."""
    server, client = world.peer(ANY), world.peer()
    client.send(TO_ANY, b"1")

    def interrupt(self: Wakeup) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Wakeup, "ring", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.connection.publish(Outgoing(TO_ANY, b"2", {}))
    client.send(TO_ANY, b"3")
    assert [delivery.body for delivery in server.take()] == [b"1", b"3"]


def test_virtual_time_wakes_who_waits_for_it() -> None:
    """A pump on a virtual clock waits for the time to be moved, however long it takes, and no longer."""
    world = World()
    peer = world.peer()
    world.faults.disconnect()
    rest = peer.pump()
    assert 0.0 < rest <= 0.05
    with pumped(peer):
        world.virtual.advance(rest)
        peer.events.wait_for(lambda: peer.events.log[-2:] == ["CONNECTING", "READY"])
    assert peer.events.log == ["CONNECTING", "READY", "LOST", "CONNECTING", "READY"]
