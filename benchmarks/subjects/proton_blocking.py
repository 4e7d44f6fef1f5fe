"""proton's own blocking request/response (BlockingConnection, SyncRequestResponse) and its blocking sends.

A blocking connection belongs to one thread, so each caller has one. The server is proton's reactor, as in its examples.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from proton import Event, Message
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection, SyncRequestResponse

from benchmarks.subject import Call, Client, Place, Server, Subject
from benchmarks.subjects.meeting import shared

_CALLS = "proton-blocking-calls"
_CASTS = "proton-blocking-casts"
_WITHIN = 30.0  # seconds


class _Handler(MessagingHandler):
    """Answers calls and counts casts."""

    def __init__(self, url: str, handled: Callable[[], None]) -> None:
        super().__init__(prefetch=64)
        self._url = url
        self._handled = handled
        self._open = 0
        self.ready = threading.Event()
        self.connection: Any = None

    def on_start(self, event: Event) -> None:
        self.connection = event.container.connect(self._url, allowed_mechs="ANONYMOUS")
        event.container.create_receiver(self.connection, _CALLS)
        event.container.create_receiver(self.connection, _CASTS)
        self._sender = event.container.create_sender(self.connection, None)

    def on_link_opened(self, event: Event) -> None:
        self._open += 1
        if self._open == 3:
            self.ready.set()

    def on_message(self, event: Event) -> None:
        receiver: Any = event.receiver
        if receiver.source.address == _CALLS:
            request = event.message
            self._sender.send(
                Message(address=request.reply_to, correlation_id=request.correlation_id, body=request.body)
            )
        else:
            self._handled()


class _EchoServer(Server):
    def __init__(self, url: str, handled: Callable[[], None]) -> None:
        self._handler = _Handler(url, handled)
        self._container = Container(self._handler)
        self._thread = threading.Thread(target=self._container.run, name="proton's reactor", daemon=True)
        self._thread.start()
        if not self._handler.ready.wait(_WITHIN):
            raise OSError(f"no links within {_WITHIN:g} s")

    def stop(self) -> None:
        """Stop the reactor."""
        self._container.stop()
        self._thread.join(5)


class _Client(Client):
    def __init__(self, url: str) -> None:
        self._url = url
        self._connections: list[BlockingConnection] = []
        self._caster = self._connect().create_sender(_CASTS)

    def _connect(self) -> BlockingConnection:
        connection = BlockingConnection(self._url, timeout=_WITHIN, allowed_mechs="ANONYMOUS")
        self._connections.append(connection)
        return connection

    def caller(self) -> Call:
        """Make a connection for this thread."""
        requests = SyncRequestResponse(self._connect(), _CALLS)

        def echo(payload: bytes) -> bytes:
            # The body is a view of the message's memory, which goes with it.
            answer: Any = requests.call(Message(body=payload))
            return bytes(answer.body)

        return echo

    def cast(self, payload: bytes, count: int) -> None:
        """Send; each returns when the broker has accepted it."""
        send = self._caster.send
        for _ in range(count):
            send(Message(body=payload))

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


class _Subject(Subject):
    title = "proton, blocking request/response"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return shared("artemis", "amqp")

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Run a container in a thread."""
        return _EchoServer(place, handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Connect."""
        return _Client(place)


subject = _Subject()
