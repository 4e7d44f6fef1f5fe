"""A service for asyncio: the steps of `messaging.lifecycle`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from messaging.aio.transport import Transport
from messaging.coroutines import LoopTasks
from messaging.errors import Closed, NotStarted
from messaging.executor import ThreadExecutor
from messaging.lifecycle import START_TIMEOUT, ServiceCore, ServiceState

__all__ = ["AsyncService"]


class AsyncService(ServiceCore):
    """A service on the user's loop: `async def` handlers run as its tasks, at most `slots` at a time; others on
    threads, or inline.
    """

    transport: Transport
    _face = Transport
    _stopped: asyncio.Event | None = None

    async def start(self, timeout: float = START_TIMEOUT) -> None:
        """Return when peers can reach it. Raises DeadlineExceeded after `timeout` seconds, or what the transport says
        against it.
        """
        loop = self.transport.bind()
        future, wake = self.transport.waiter()
        outcome: list[Exception | None] = []

        def started(error: Exception | None) -> None:
            outcome.append(error)
            wake()

        self._tasks = LoopTasks(loop, self._slots, f"messaging {self._name()}")
        self._on_loop = True
        self._loop_thread = threading.get_ident()
        if not self._inline:
            self._executor = ThreadExecutor(self._slots, f"messaging {self._name()}")
        self._stopped = asyncio.Event()
        self._open(started)
        try:
            await asyncio.wait_for(asyncio.shield(future), timeout)
        except TimeoutError:
            error = self._unreachable(timeout)
            await self.stop(0.0)
            raise error from error.__cause__
        except BaseException:
            await self.stop(0.0)
            raise
        if outcome[0] is not None:
            await self.stop(0.0)
            raise outcome[0]

    async def stop(self, grace: float = 25.0) -> bool:
        """Drain within `grace` seconds; as in the blocking face. Idempotent."""
        until = time.monotonic() + grace
        self._check_fork()
        previous = self._begin_drain()
        stopped = self._stopped
        if previous is ServiceState.NEW or stopped is None:
            return True
        if previous in (ServiceState.DRAINING, ServiceState.STOPPED):
            return await self.wait(grace)
        # Where the transport went first, there is nobody to tell; what runs has its time all the same.
        with contextlib.suppress(Closed):
            await self._do(self._unsubscribe, until)
            await self._do(self._hand_back, until)
        clean = await self._tasks.end(until) if isinstance(self._tasks, LoopTasks) else True
        clean = await asyncio.to_thread(self._executor.close, until) and clean
        with contextlib.suppress(Closed):
            await self._do(self._reactor.after_flush, max(until, time.monotonic() + 0.2))
        self._abandon()
        stopped.set()
        return clean

    async def _do(self, action: Callable[[Callable[[], None]], None], until: float) -> None:
        """Run an action on the owner and wait for its `done`, but not past `until`."""
        future, wake = self.transport.waiter()
        self._reactor.call_soon(lambda: action(wake))
        await asyncio.wait([future], timeout=max(0.0, until - time.monotonic()))

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped; False when `timeout` seconds passed first. Raises NotStarted, Forked."""
        if self._stopped is None:
            raise NotStarted(f"{self._name()} was not started")
        self._check_fork()
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
