"""messaging with threads, over every transport that calls: handlers on a worker pool, or inline on the I/O thread.

The settings are the defaults; casts and fanouts go through `pipeline()`, each acknowledged by the servers that took it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import messaging
from benchmarks.subject import Call, Client, Place, Server, Subject
from benchmarks.subjects.meeting import address, meeting
from messaging import rpc


class _Echo:
    """What the servers offer."""

    def __init__(self, handled: Callable[[], None]) -> None:
        self._handled = handled

    @rpc.expose()
    def echo(self, ctxt: object, data: bytes) -> bytes:
        """Answer with the payload."""
        return data

    @rpc.expose()
    def note(self, ctxt: object, data: bytes) -> None:
        """Count a message that wants no answer."""
        self._handled()


class _EchoServer(Server):
    def __init__(
        self, place: str, index: int, executor: Literal["threads", "inline"], handled: Callable[[], None]
    ) -> None:
        url, topic = address(place)
        self._transport = messaging.open_transport(url)
        target = messaging.Target(topic=topic, server=f"server-{index}")
        self._server = rpc.Server(self._transport, target, [_Echo(handled)], executor=executor)
        self._server.start()

    def stop(self) -> None:
        """Drain and close."""
        self._server.stop(grace=1)
        self._transport.close()


class _Client(Client):
    def __init__(self, place: str) -> None:
        url, topic = address(place)
        self._transport = messaging.open_transport(url)
        self._client = rpc.Client(self._transport, messaging.Target(topic=topic))

    def caller(self) -> Call:
        """Return a call by name; the client is thread-safe."""
        call = self._client.call

        def echo(payload: bytes) -> bytes:
            answer: bytes = call(None, "echo", data=payload)
            return answer

        return echo

    def cast(self, payload: bytes, count: int) -> None:
        """Cast in a pipeline, which waits until each was taken."""
        with self._client.pipeline() as pipeline:
            for _ in range(count):
                pipeline.cast(None, "note", data=payload)

    def fanout(self, payload: bytes, count: int) -> None:
        """Fan out in a pipeline, which waits until every server has taken each."""
        with self._client.pipeline() as pipeline:
            for _ in range(count):
                pipeline.fanout(None, "note", data=payload)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


class _Subject(Subject):
    def __init__(self, scheme: str, executor: Literal["threads", "inline"]) -> None:
        self.title = f"messaging {scheme}, {'worker pool' if executor == 'threads' else 'inline handler'}"
        self.one_process = scheme == "memory"
        self._scheme = scheme
        self._topic = f"{scheme}-{executor}"
        self._executor = executor

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Give both sides a URL of their own."""
        return meeting(self._scheme, self._topic)

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a server on a transport of its own."""
        return _EchoServer(place, index, self._executor, handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Open a transport; servers are found by their topic."""
        return _Client(place)


zmq_pool = _Subject("zmq", "threads")
zmq_inline = _Subject("zmq", "inline")
memory_pool = _Subject("memory", "threads")
memory_inline = _Subject("memory", "inline")
rabbit_pool = _Subject("rabbit", "threads")
rabbit_inline = _Subject("rabbit", "inline")
kombu_pool = _Subject("kombu", "threads")
kombu_redis_pool = _Subject("kombu+redis", "threads")
amqp1_pool = _Subject("amqp1", "threads")
