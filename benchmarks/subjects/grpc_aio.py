"""grpcio with asyncio on both ends: a generic handler that moves bytes. It has neither casts nor fanouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc

from benchmarks.subject import AsyncClient, Server, Subject
from benchmarks.subjects.loop import LoopThread


class _EchoServer(Server):
    def __init__(self) -> None:
        self._loop = LoopThread()
        self._server, self.address = self._loop.run(self._start())

    def stop(self) -> None:
        """Stop at once."""
        self._loop.run(self._server.stop(None))
        self._loop.stop()

    @staticmethod
    async def _start() -> tuple[Any, str]:
        async def echo(request: bytes, context: Any) -> bytes:
            return request

        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"echo": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, f"127.0.0.1:{port}"


class _Client(AsyncClient):
    def __init__(self, address: str) -> None:
        self._channel: Any = grpc.aio.insecure_channel(address)
        self._echo: Any = self._channel.unary_unary("/bench/echo")

    async def call(self, payload: bytes) -> bytes:
        """Call the stub."""
        return cast(bytes, await self._echo(payload))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class _Subject(Subject):
    title = "grpcio, grpc.aio"
    asyncio = True

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a server on a loop in a thread."""
        return _EchoServer()

    async def connect_async(self, place: str, servers: Sequence[str]) -> AsyncClient:
        """Open a channel on the running loop."""
        return _Client(servers[0])


subject = _Subject()
