"""pika alone: a loop that its caller steps, on both ends, with direct reply-to. What a driver for pika has to reach.

One call at a time on one thread: no correlation, no deadline, no window, no confirms, no reconnect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pika

from benchmarks.subject import Call, Client, Place, Server, Subject
from benchmarks.subjects.meeting import shared

_QUEUE = "bare-pika"
_DIRECT = "amq.rabbitmq.reply-to"
_WINDOW = 64


class _Stepped:
    """A connection whose loop is stepped by hand."""

    def __init__(self, url: str) -> None:
        self.channel: Any = None
        # A URL without a virtual host means the default one, which pika writes as %2F.
        self.connection = pika.SelectConnection(
            pika.URLParameters(url + "%2F" if url.endswith("/") else url),
            on_open_callback=self._connected,
        )
        self.loop = self.connection.ioloop
        self.loop.activate_poller()
        self.until(lambda: self.channel is not None)

    def _connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._opened)

    def _opened(self, channel: Any) -> None:
        self.channel = channel

    def until(self, done: Callable[[], object]) -> None:
        """Step until something is so."""
        poll, timeouts = self.loop.poll, self.loop.process_timeouts
        while not done():
            timeouts()
            poll()

    def rpc(self, method: Callable[..., Any], **arguments: Any) -> None:
        """A method of the channel that the broker answers."""
        answers: list[Any] = []
        method(callback=answers.append, **arguments)
        self.until(lambda: bool(answers))

    def close(self) -> None:
        """Close and step until it is."""
        self.connection.close()
        self.until(lambda: self.connection.is_closed)
        self.loop.deactivate_poller()


class _EchoServer(Server):
    def __init__(self, url: str) -> None:
        self._stop = False
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(url, started), name="bare pika")
        self._thread.start()
        started.wait(30)

    def _serve(self, url: str, started: threading.Event) -> None:
        stepped = self._stepped = _Stepped(url)
        stepped.rpc(stepped.channel.queue_declare, queue=_QUEUE, exclusive=True)
        stepped.rpc(stepped.channel.basic_qos, prefetch_count=_WINDOW)
        stepped.rpc(stepped.channel.basic_consume, queue=_QUEUE, on_message_callback=self._echo)
        started.set()
        stepped.until(lambda: self._stop)
        stepped.close()

    def _echo(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        channel.basic_publish("", properties.reply_to, body)

    def stop(self) -> None:
        """End the loop and its thread."""
        self._stepped.loop.add_callback_threadsafe(self._end)
        self._thread.join()

    def _end(self) -> None:
        self._stop = True


class _Client(Client):
    def __init__(self, url: str) -> None:
        self._stepped = _Stepped(url)
        self._answers: list[bytes] = []
        self._stepped.rpc(
            self._stepped.channel.basic_consume,
            queue=_DIRECT,
            on_message_callback=lambda channel, method, properties, body: self._answers.append(body),
            auto_ack=True,
        )
        self._properties: Any = pika.BasicProperties(reply_to=_DIRECT)  # type: ignore[no-untyped-call]

    def caller(self) -> Call:
        """Publish, and step until the answer is there; for one thread."""
        answers, until, properties = self._answers, self._stepped.until, self._properties
        publish = self._stepped.channel.basic_publish

        def echo(payload: bytes) -> bytes:
            publish("", _QUEUE, payload, properties)
            until(answers.__len__)
            return answers.pop()

        return echo

    def close(self) -> None:
        """Close the connection."""
        self._stepped.close()


class _Subject(Subject):
    title = "pika, stepped by hand, direct reply-to"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return shared("rabbit", "amqp")

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Consume in a thread."""
        return _EchoServer(place)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Connect."""
        return _Client(place)


subject = _Subject()
