"""proton's engine alone: a plain selector loop on both ends, one link each way, a dynamic reply address.

Everything through proton's documented classes (Message, Connection, Transport, Collector); one call at a time on one
thread. Requests are settled when the broker has settled them, so that a refusal would be seen; replies at once. What
a driver for AMQP 1.0 has to beat.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from proton import Collector, Connection, Delivery, Endpoint, Event, Message, Transport

from benchmarks.subject import Call, Client, Place, Server, Subject
from benchmarks.subjects.meeting import shared

_ADDRESS = "bare-proton"
_CREDIT = 64
_READ = 65_536
_WITHIN = 30.0  # seconds


class _Engine:
    """A connection, and the loop that its owner turns."""

    def __init__(self, place: str) -> None:
        host, _, port = place.partition("://")[2].rstrip("/").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=_WITHIN)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self.collector = Collector()
        self.connection = Connection()
        self.connection.collect(self.collector)
        self.connection.container = f"bare-{id(self)}-{time.time()}"
        self.connection.hostname = host
        self._transport = Transport()
        sasl = self._transport.sasl()
        sasl.allowed_mechs("ANONYMOUS")
        self._transport.bind(self.connection)
        self.connection.open()
        self.session = self.connection.session()
        self.session.open()

    def turn(self, on_delivery: Callable[[Any], None]) -> None:
        """Write what is there, wait for what comes, read it, and give deliveries to a function."""
        self._write()
        for descriptor, _ in self._poll.poll(1000):
            if descriptor == self._wake.fileno():
                self._wake.recv(64)
            else:
                self._read()
        event = self.collector.peek()
        while event is not None:
            delivery = event.delivery if event.type == Event.DELIVERY else None
            if delivery is not None:
                if delivery.link.is_receiver:
                    on_delivery(delivery)
                elif delivery.settled:
                    delivery.settle()
            self.collector.pop()
            event = self.collector.peek()
        self._write()

    def until(self, done: Callable[[], object], on_delivery: Callable[[Any], None]) -> None:
        """Turn until something is so."""
        while not done():
            self.turn(on_delivery)

    def wake(self) -> None:
        """End a wait; from any thread."""
        self._waker.send(b"x")

    def close(self) -> None:
        """Drop the socket."""
        self._transport.unbind()
        for each in (self._socket, self._wake, self._waker):
            each.close()

    def _write(self) -> None:
        pending = self._transport.pending()
        while pending > 0:
            sent = self._socket.send(self._transport.peek(pending) or b"")
            self._transport.pop(sent)
            pending = self._transport.pending()

    def _read(self) -> None:
        # More than the capacity would be refused.
        capacity = self._transport.capacity()
        if capacity > 0:
            data = self._socket.recv(min(capacity, _READ))
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._transport.push(data)


def _received(delivery: Any) -> Message:
    message = Message()
    message.decode(delivery.link.recv(delivery.pending))
    delivery.link.advance()
    delivery.update(Delivery.ACCEPTED)
    delivery.settle()
    return message


class _EchoServer(Server):
    def __init__(self, place: str) -> None:
        self._engine = _Engine(place)
        session = self._engine.session
        self._receiver = session.receiver("requests")
        self._receiver.source.address = _ADDRESS
        self._receiver.open()
        self._receiver.flow(_CREDIT)
        self._sender = session.sender("replies")
        self._sender.open()
        self._sent = 0
        self._engine.until(lambda: self._sender.credit and _is_open(self._receiver), self._echo)
        self._stop = False
        self._thread = threading.Thread(target=self._serve, name="bare proton")
        self._thread.start()

    def _serve(self) -> None:
        self._engine.until(lambda: self._stop, self._echo)
        self._engine.close()

    def _echo(self, delivery: Any) -> None:
        request = _received(delivery)
        if self._receiver.credit < _CREDIT // 2:
            self._receiver.flow(_CREDIT - self._receiver.credit)
        self._sent += 1
        reply = self._sender.delivery(str(self._sent))
        self._sender.send(Message(address=request.reply_to, body=request.body, inferred=True).encode())
        self._sender.advance()
        reply.settle()

    def stop(self) -> None:
        """End the loop and its thread."""
        self._stop = True
        self._engine.wake()
        self._thread.join()


class _Client(Client):
    def __init__(self, place: str) -> None:
        self._engine = _Engine(place)
        session = self._engine.session
        self._answers: list[bytes] = []
        self._receiver = session.receiver("answers")
        self._receiver.source.dynamic = True
        self._receiver.open()
        self._receiver.flow(_CREDIT)
        self._sender = session.sender("requests")
        self._sender.target.address = _ADDRESS
        self._sender.open()
        self._engine.until(lambda: self._sender.credit and self._receiver.remote_source.address, self._take)
        self._reply_to = self._receiver.remote_source.address
        self._sent = 0

    def _take(self, delivery: Any) -> None:
        # The body is a view of the message's memory, which goes with it.
        answer: Any = _received(delivery)
        self._answers.append(bytes(answer.body))
        if self._receiver.credit < _CREDIT // 2:
            self._receiver.flow(_CREDIT - self._receiver.credit)

    def caller(self) -> Call:
        """Send, and turn the loop until the answer is there; for one thread."""
        answers, until, sender, reply_to, take = (
            self._answers,
            self._engine.until,
            self._sender,
            self._reply_to,
            self._take,
        )

        def echo(payload: bytes) -> bytes:
            self._sent += 1
            sender.delivery(str(self._sent))
            sender.send(Message(reply_to=reply_to, body=payload, inferred=True).encode())
            sender.advance()
            until(answers.__len__, take)
            return answers.pop()

        return echo

    def close(self) -> None:
        """Drop the connection."""
        self._engine.close()


def _is_open(link: Any) -> bool:
    return bool(link.state & Endpoint.REMOTE_ACTIVE)


class _Subject(Subject):
    title = "proton's engine, a plain loop"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return shared("artemis", "amqp")

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Turn the loop in a thread."""
        return _EchoServer(place)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Connect."""
        return _Client(place)


subject = _Subject()
