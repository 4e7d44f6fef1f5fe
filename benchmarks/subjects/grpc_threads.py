"""grpcio with threads: a generic handler that moves bytes, so that no generated code and no protobuf is measured.

It has neither casts nor fanouts, and is not asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import grpc

from benchmarks.subject import Call, Client, Server, Subject

_WORKERS = 32  # as many as messaging has slots


class _EchoServer(Server):
    def __init__(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(_WORKERS))
        echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"echo": echo}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Stop at once."""
        self._server.stop(None).wait()


class _Client(Client):
    """One channel for all threads, as its documentation advises."""

    def __init__(self, address: str) -> None:
        self._channel: Any = grpc.insecure_channel(address)
        self._echo: Call = self._channel.unary_unary("/bench/echo")

    def caller(self) -> Call:
        """Return the stub; it is thread-safe."""
        return self._echo

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class _Subject(Subject):
    title = "grpcio, thread pool"

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a server with a pool of threads."""
        return _EchoServer()

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Open a channel."""
        return _Client(servers[0])


subject = _Subject()
