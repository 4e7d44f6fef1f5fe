"""The broker in a thread of its own, for programs that want one at hand: the example, and its tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from examples.own_driver.broker import Broker

__all__ = ["BrokerThread"]


class BrokerThread:
    """A broker on a free port of the loopback interface, while the block lasts. Any thread may call its methods."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.broker = Broker()
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine beside the broker, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    def listen(self) -> None:
        """Listen; after `stop` on the same port again."""
        self.port = self.run(self.broker.start(self.port))

    def stop(self) -> None:
        """Listen no more, and cut all clients."""
        self.run(self.broker.stop())

    def cut(self) -> None:
        """Cut all clients."""
        self._loop.call_soon_threadsafe(self.broker.cut)

    async def _finish(self) -> None:
        # What clients have begun is accepted within a turn or two of the loop: asyncio loses a connection that it is
        # accepting while its server closes.
        for _ in range(3):
            await asyncio.sleep(0)
        await self.broker.stop()
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest)
