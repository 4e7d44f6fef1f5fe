"""messaging with asyncio on both ends, over every transport that calls: the event loop owns the I/O.

Handlers are coroutines, each in a task of its own, or run inline, one after the other on the loop, which is what a
callback of nats-py does.

The settings are the defaults; casts and fanouts go through `pipeline()`, each acknowledged by the servers that took it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import messaging
from benchmarks.subject import AsyncClient, Place, Server, Subject
from benchmarks.subjects.loop import LoopThread
from benchmarks.subjects.meeting import address, meeting
from messaging.aio import Transport, open_transport, rpc


class _Echo:
    """What the servers offer."""

    def __init__(self, handled: Callable[[], None]) -> None:
        self._handled = handled

    @rpc.expose()
    async def echo(self, ctxt: object, data: bytes) -> bytes:
        """Answer with the payload."""
        return data

    @rpc.expose()
    async def note(self, ctxt: object, data: bytes) -> None:
        """Count a message that wants no answer."""
        self._handled()


class _InlineEcho:
    """The same, for handlers that never wait."""

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
    def __init__(self, place: str, index: int, handled: Callable[[], None], inline: bool) -> None:
        self._loop = LoopThread()
        self._transport, self._server = self._loop.run(self._start(place, index, handled, inline))

    def stop(self) -> None:
        """Drain and close."""
        self._loop.run(self._server.stop(grace=1))
        self._loop.run(self._transport.close())
        self._loop.stop()

    @staticmethod
    async def _start(place: str, index: int, handled: Callable[[], None], inline: bool) -> tuple[Transport, rpc.Server]:
        url, topic = address(place)
        transport = open_transport(url)
        target = messaging.Target(topic=topic, server=f"server-{index}")
        if inline:
            server = rpc.Server(transport, target, [_InlineEcho(handled)], executor="inline")
        else:
            server = rpc.Server(transport, target, [_Echo(handled)])
        await server.start()
        return transport, server


class _Client(AsyncClient):
    def __init__(self, place: str) -> None:
        url, topic = address(place)
        self._transport = open_transport(url)
        self._client = rpc.Client(self._transport, messaging.Target(topic=topic))

    async def call(self, payload: bytes) -> bytes:
        """Call by name."""
        answer: bytes = await self._client.call(None, "echo", data=payload)
        return answer

    async def cast(self, payload: bytes, count: int) -> None:
        """Cast in a pipeline, which waits until each was taken."""
        async with self._client.pipeline() as pipeline:
            for _ in range(count):
                await pipeline.cast(None, "note", data=payload)

    async def fanout(self, payload: bytes, count: int) -> None:
        """Fan out in a pipeline, which waits until every server has taken each."""
        async with self._client.pipeline() as pipeline:
            for _ in range(count):
                await pipeline.fanout(None, "note", data=payload)

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()


class _Subject(Subject):
    asyncio = True

    def __init__(self, scheme: str, inline: bool = False) -> None:
        self.title = f"messaging {scheme}, asyncio{', inline handler' if inline else ''}"
        self._inline = inline
        self.one_process = scheme == "memory"
        self._scheme = scheme
        self._topic = f"{scheme}-aio{'-inline' if inline else ''}"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Give both sides a URL of their own."""
        return meeting(self._scheme, self._topic)

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a server on a transport and a loop of its own."""
        return _EchoServer(place, index, handled, self._inline)

    async def connect_async(self, place: str, servers: Sequence[str]) -> AsyncClient:
        """Open a transport on the running loop; servers are found by their topic."""
        return _Client(place)


zmq = _Subject("zmq")
zmq_inline = _Subject("zmq", inline=True)
memory = _Subject("memory")
rabbit = _Subject("rabbit")
kombu = _Subject("kombu")
