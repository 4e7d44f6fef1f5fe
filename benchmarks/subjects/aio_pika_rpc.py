"""aio-pika's RPC pattern, as its documentation shows it: one channel, a queue for each method, pickled arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import aio_pika
from aio_pika.patterns import RPC

from benchmarks.subject import AsyncClient, Place, Server, Subject
from benchmarks.subjects.loop import LoopThread
from benchmarks.subjects.meeting import shared

_METHOD = "aio-pika-echo"


async def _echo(*, data: bytes) -> bytes:
    return data


class _EchoServer(Server):
    def __init__(self, url: str) -> None:
        self._loop = LoopThread()
        self._connection = self._loop.run(self._start(url))

    @staticmethod
    async def _start(url: str) -> Any:
        connection = await aio_pika.connect_robust(url)
        rpc = await RPC.create(await connection.channel())
        await rpc.register(_METHOD, _echo, auto_delete=True)
        return connection

    def stop(self) -> None:
        """Close the connection."""
        self._loop.run(self._connection.close())
        self._loop.stop()


class _Client(AsyncClient):
    def __init__(self, connection: Any, rpc: RPC) -> None:
        self._connection = connection
        self._rpc = rpc

    async def call(self, payload: bytes) -> bytes:
        """Call by name."""
        answer: bytes = await self._rpc.call(_METHOD, kwargs={"data": payload})
        return answer

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


class _Subject(Subject):
    title = "aio-pika, its RPC pattern"
    asyncio = True

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return shared("rabbit", "amqp")

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Serve on a loop in a thread."""
        return _EchoServer(place)

    async def connect_async(self, place: str, servers: Sequence[str]) -> AsyncClient:
        """Connect on the running loop."""
        connection = await aio_pika.connect_robust(place)
        return _Client(connection, await RPC.create(await connection.channel()))


subject = _Subject()
