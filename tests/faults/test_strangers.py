"""A stranger on the port of a live server: ten thousand messages that are nearly right, and connections that are not
even ZeroMQ. The server neither ends nor grows nor stops serving.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from messaging import MessagingError, rpc
from messaging.drivers.zmq import frames
from messaging.wire import native
from tests.faults.conftest import Stage
from tests.faults.mutation import mutated, mutations
from tests.faults.processes import Worker, until

GROWTH = 24 * 2**20
"""How much a server may grow, in bytes: what the allocator keeps after its first busy seconds was up to 9 MB here."""

PATIENCE = 4.0
"""Seconds in which a live server has looked at 500 messages; it takes 50 ms."""


def request(method: str = "echo", **args: Any) -> bytes:
    """The body of a call."""
    return native.encode(native.RequestBody(native.VERSION, native.Kind.CALL, 0, method, None, None, {}, args))


def hello() -> bytes:
    """A greeting."""
    return frames.encode(frames.Hello("messaging", 1, 1, "stranger", "", 10_000_000))


def seeds() -> list[bytes]:
    """One valid frame of each kind, and messages of each kind."""
    bodies = [
        request("echo", value=1),
        request("work", id="stranger", seconds=0.0),
        native.encode(native.Cancel(native.VERSION, native.Kind.CANCEL, 0, ["some-id"])),
        native.encode(native.Result(native.VERSION, native.Kind.RESULT, 0, {"a": [1, 2]}, "server")),
    ]
    headers = {"message-id": "stranger-1", "traceparent": "00-1-2-01"}
    return [
        hello(),
        frames.encode(frames.Welcome(1, "someone", 1000, 1, [(1, "any", "messaging", "t", "a", "")])),
        frames.encode(frames.Table(2, [(1, "any", "messaging", "t", "a", "")])),
        frames.encode(frames.Bye(3, "closed")),
        frames.PROBE,
        frames.encode(frames.Batch([], [1, 2, 3], [(4, 0, "busy")])),
        *(
            frames.encode(frames.Batch([(number, number, 1, 5.0, headers, body)]))
            for number, body in enumerate(bodies, 1)
        ),
        frames.encode(frames.Batch([(7, 1, 1, None, headers, 1)], [], [], 1)),
    ]


def endpoint_of(stage: Stage) -> str:
    """Where the only server listens."""
    (record,) = stage.records.glob("*.record")
    found: str = json.loads(record.read_bytes())["endpoint"]
    return found


@contextmanager
def stranger(endpoint: str) -> Iterator[Callable[[list[bytes]], None]]:
    """A ZeroMQ socket that says what it is told, begins anew now and then, and reads what it is answered.

    When the block is left, the server has looked at everything that was said.
    """
    context = zmq.Context()
    opened: list[zmq.Socket[bytes]] = []
    said = 0

    def hear_out(socket: zmq.Socket[bytes]) -> None:
        # The server looks at everything in its order: when it answers this call, it has seen the rest.
        mark = f"end-{said}"
        socket.send(hello())
        socket.send(frames.encode(frames.Batch([(1, 1, 1, 5.0, {"message-id": mark}, request("echo", value=1))])))
        while socket.poll(int(PATIENCE * 1000)):
            if mark.encode() in socket.recv_multipart()[0]:
                return
        raise ConnectionError(f"no answer to a call within {PATIENCE:g} s")

    def say(parts: list[bytes]) -> None:
        nonlocal said
        if said % 500 == 0:
            if opened:
                hear_out(opened[0])
                opened.pop().close(0)
            opened.append(context.socket(zmq.DEALER))
            opened[0].connect(endpoint)
            if said % 1000 == 0:
                opened[0].send(hello())
        said += 1
        opened[0].send_multipart(parts)
        while opened[0].poll(0):
            opened[0].recv_multipart()

    try:
        yield say
        if opened:
            hear_out(opened[0])
    finally:
        for socket_ in opened:
            socket_.close(0)
        context.term()


def pester(endpoint: str, number: int, seed: int) -> None:
    """Send so many mutated messages, some with further frames, and for every hundredth a connection of other bytes."""
    chance = random.Random(seed)
    valid = seeds()
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    # A ZMTP greeting with the NULL mechanism, a READY command and a message.
    greeting = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL".ljust(64, b"\x00")
    ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    wires = [greeting + ready + b"\x00\x05hello", greeting, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"]
    with stranger(endpoint) as say:
        for count, frame in enumerate(mutations(valid, number, seed)):
            parts = [frame]
            if chance.random() < 0.2:
                parts += [mutated(chance, valid) for _ in range(chance.randrange(1, 20))]
            say(parts)
            if count % 100 == 0:
                with socket.create_connection((host, int(port)), 5) as connection:
                    try:
                        connection.sendall(mutated(chance, wires))
                    except ConnectionError:
                        # The server had enough of it.
                        pass


class Pestered:
    """A server, a caller that has its right, and what became of both."""

    def __init__(self, stage: Stage, plant: str = "", warm: int = 500) -> None:
        self.worker: Worker = stage.service("a", plant=plant)
        self.client: rpc.Client = stage.client(timeout=1)
        self.endpoint = endpoint_of(stage)
        self.wrong: list[str] = []
        self.answered = 0
        # What is made once is no growth: warm up by the same means.
        self.client.call(None, "name")
        pester(self.endpoint, warm, seed=1)
        self.before = self.worker.memory(), self.worker.descriptors(), self.worker.threads()

    def run(self, number: int, seed: int) -> list[str]:
        """Pester the server while the caller calls; return what is wrong with the server afterwards."""
        done = threading.Event()

        def call() -> None:
            while not done.is_set():
                try:
                    answer = self.client.call(None, "echo", value=self.answered)
                except MessagingError as error:
                    self.wrong.append(f"a call failed: {error!r}")
                    return
                if answer != self.answered:
                    self.wrong.append(f"call {self.answered} was answered {answer!r}")
                self.answered += 1

        caller = threading.Thread(target=call)
        caller.start()
        try:
            pester(self.endpoint, number, seed)
        except OSError as error:
            self.wrong.append(f"the server is not there any more: {error}")
        finally:
            done.set()
            caller.join()
        if not self.worker.alive:
            return [*self.wrong, "the server has ended"]
        try:
            self.client.call(None, "name")
        except MessagingError as error:
            return [*self.wrong, f"the server does not serve any more: {error}"]
        memory, descriptors, threads = self.before
        if self.worker.memory() > memory + GROWTH:
            self.wrong.append(f"the server grew by {(self.worker.memory() - memory) >> 20} MB")
        try:
            until(lambda: self.worker.descriptors() <= descriptors, "the connections are gone", within=5)
        except AssertionError:
            self.wrong.append(f"the server has {self.worker.descriptors()} descriptors open, before {descriptors}")
        # Up to 32 slots, which the strangers' requests may have filled.
        if self.worker.threads() > threads + 32:
            self.wrong.append(f"the server has {self.worker.threads()} threads, before {threads}")
        return self.wrong


def test_ten_thousand_mutated_messages_change_nothing(stage: Stage) -> None:
    """10,000 mutated messages and 100 connections of other bytes: the caller gets all its answers meanwhile, and the
    server has neither ended nor grown, and counts what it did not understand.
    """
    pestered = Pestered(stage)
    assert pestered.run(10_000, seed=2) == []
    assert pestered.answered > 100
    counts = pestered.worker.ask("stats")
    assert counts["driver.undecodable"] > 1000
    assert counts["driver.strangers"] > 100


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_mutated_messages_change_nothing(stage: Stage) -> None:
    """The same for 100,000."""
    assert Pestered(stage).run(100_000, seed=3) == []


def test_a_server_that_garbage_ends_is_found(stage: Stage) -> None:
    """Planted: the decoder lets an exception out. The server stops serving, and the check says so."""
    pestered = Pestered(stage, plant="raises_on_garbage", warm=0)
    assert any("a call failed" in wrong for wrong in pestered.run(100, seed=2))


def test_a_server_that_keeps_garbage_is_found(stage: Stage) -> None:
    """Planted: the server keeps something for everybody whom it did not understand. The check says that it grew."""
    assert any("grew by" in wrong for wrong in Pestered(stage, plant="keeps_garbage").run(2_000, seed=2))
