"""The broker of examples/own_driver in a thread of its own, and peers that are connected to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from examples.own_driver.broker import Broker
from examples.own_driver.driver import Driver, Settings
from messaging.drivers.asyncio_connection import AsyncioConnection
from messaging.drivers.base import Role
from messaging.url import parse_url
from tests.unit.pumping import Peer, Recorder, Services


class TcpService:
    """A real server process's worth of broker, on a free port; all methods may be called from the test's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.broker = Broker()
        self.port = 0
        self.start()
        self._peers: list[Peer] = []

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine beside the broker, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    def start(self) -> None:
        """Listen, the second time on the same port."""
        self.port = self.run(self.broker.start(self.port))

    def stop(self) -> None:
        """Listen no more, and cut everybody."""
        self.run(self.broker.stop())

    def cut(self) -> None:
        """Cut everybody."""
        self._loop.call_soon_threadsafe(self.broker.cut)

    def connection(self, hosts: str = "", **options: Any) -> Peer:
        """A connection that was not pumped, to the broker or to other hosts."""
        events = Recorder()
        url = parse_url(f"tcp://{hosts or f'127.0.0.1:{self.port}'}/")
        settings = Settings(url=url, **options)
        peer = Peer(Driver().connect(settings, Role.ALL, events, Services()), events)
        self._peers.append(peer)
        return peer

    def peer(self, *sources: Any, window: int = 10) -> Peer:
        """A connection that is READY and subscribed."""
        peer = self.connection()
        for source in sources:
            peer.connection.subscribe(source, window)
        peer.until(lambda: len(peer.events.addresses) == len(sources) and "READY" in peer.events.log)
        return peer

    def close(self) -> None:
        """Close all peers and the broker."""
        for peer in self._peers:
            peer.connection.close(0.0)
            assert isinstance(peer.connection, AsyncioConnection)
            peer.until(lambda peer=peer: peer.events.log[-1:] == ["CLOSED"])  # type: ignore[misc]
        self.run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    async def _finish(self) -> None:
        # All peers are closed, and what they have begun is accepted within a turn or two of the loop: asyncio loses
        # a connection that it is accepting while its server closes.
        for _ in range(3):
            await asyncio.sleep(0)
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest)
        await self.broker.stop()
