"""pyzmq alone: what ZeroMQ costs when nothing is promised. No discovery, acknowledgement, reconnection or deadline.

Calls go from a DEALER to a ROUTER that sends every message back, casts from PUSH to PULL, fanouts from XPUB to SUB.
Each socket of the server has a thread of its own, so that none pays for polling the others. High-water marks are off:
PUB drops beyond them.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence

import zmq
import zmq.asyncio

from benchmarks.subject import AsyncClient, Call, Client, Server, Subject


class _EchoServer(Server):
    """A ROUTER that echoes, a PULL and a SUB that count, each in its thread."""

    def __init__(self, handled: Callable[[], None]) -> None:
        self._context = zmq.Context()
        self._threads: list[threading.Thread] = []
        addresses = [
            self._listen(zmq.ROUTER, _echo),
            self._listen(zmq.PULL, lambda socket: _count(socket, handled)),
            self._listen(zmq.SUB, lambda socket: _count(socket, handled)),
        ]
        self.address = " ".join(addresses)

    def stop(self) -> None:
        """End the threads: terminating the context interrupts their receive."""
        self._context.term()
        for thread in self._threads:
            thread.join()

    def _listen(self, kind: int, serve: Callable[[zmq.Socket[bytes]], None]) -> str:
        socket = _socket(self._context, kind)
        socket.bind("tcp://127.0.0.1:*")
        if kind == zmq.SUB:
            socket.subscribe(b"")
        address = socket.get_string(zmq.LAST_ENDPOINT)
        # The start of a thread is the full barrier that a socket needs to change hands.
        thread = threading.Thread(target=_until_terminated, args=(socket, serve))
        thread.start()
        self._threads.append(thread)
        return address


class _ThreadsClient(Client):
    """One DEALER per calling thread, one PUSH, one XPUB to all servers."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._context = zmq.Context()
        self._router, puller, _ = servers[0].split()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._push = self._connect(zmq.PUSH, puller)
        self._publisher = self._connect(zmq.XPUB, *(server.split()[2] for server in servers))
        for _ in servers:
            self._publisher.recv()  # a subscription; what is published before it is lost

    def caller(self) -> Call:
        """Return the round trip of a DEALER of its own."""
        socket = self._connect(zmq.DEALER, self._router)
        send, receive = socket.send, socket.recv

        def call(payload: bytes) -> bytes:
            send(payload)
            return receive()

        return call

    def cast(self, payload: bytes, count: int) -> None:
        """Hand over to the socket."""
        for _ in range(count):
            self._push.send(payload)

    def fanout(self, payload: bytes, count: int) -> None:
        """Hand over to the socket."""
        for _ in range(count):
            self._publisher.send(payload)

    def close(self) -> None:
        """Close every socket; the threads that used them have ended."""
        for socket in self._sockets:
            socket.close()
        self._context.term()

    def _connect(self, kind: int, *addresses: str) -> zmq.Socket[bytes]:
        socket = _socket(self._context, kind)
        if kind == zmq.XPUB:
            socket.set(zmq.XPUB_VERBOSE, 1)  # each server's subscription is told, though all ask for the same
        for address in addresses:
            socket.connect(address)
        self._sockets.append(socket)
        return socket


class _AsyncioClient(AsyncClient):
    """One zmq.asyncio DEALER; a number before each payload finds its future."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set_hwm(0)
        self._socket.connect(servers[0].split()[0])
        self._numbers = itertools.count()
        self._pending: dict[bytes, asyncio.Future[bytes]] = {}
        self._reader = asyncio.create_task(self._read())

    async def call(self, payload: bytes) -> bytes:
        """Send and wait for the future that the reader resolves."""
        number = b"%d" % next(self._numbers)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        await self._socket.send_multipart([number, payload])
        return await future

    async def close(self) -> None:
        """End the reader and the socket."""
        self._reader.cancel()
        self._socket.close()
        self._context.term()

    async def _read(self) -> None:
        while True:
            number, payload = await self._socket.recv_multipart()
            self._pending.pop(number).set_result(payload)


class _Subject(Subject):
    def __init__(self, title: str, asyncio: bool) -> None:
        self.title = title
        self.asyncio = asyncio

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Bind three sockets."""
        return _EchoServer(handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Connect to the servers' sockets."""
        return _ThreadsClient(servers)

    async def connect_async(self, place: str, servers: Sequence[str]) -> AsyncClient:
        """Connect to the first server's ROUTER."""
        return _AsyncioClient(servers)


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.set(zmq.LINGER, 0)
    socket.set_hwm(0)
    return socket


def _until_terminated(socket: zmq.Socket[bytes], serve: Callable[[zmq.Socket[bytes]], None]) -> None:
    try:
        serve(socket)
    except zmq.ContextTerminated:
        socket.close()


def _echo(socket: zmq.Socket[bytes]) -> None:
    receive, send = socket.recv_multipart, socket.send_multipart
    while True:
        send(receive())


def _count(socket: zmq.Socket[bytes], handled: Callable[[], None]) -> None:
    receive = socket.recv
    while True:
        receive()
        handled()


with_threads = _Subject("bare pyzmq, DEALER/ROUTER", asyncio=False)
with_asyncio = _Subject("bare pyzmq, zmq.asyncio", asyncio=True)
