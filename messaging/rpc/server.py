"""The blocking RPC server: the core, started and stopped by callers that wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from messaging.errors import Closed, DeadlineExceeded, Delivered, NotStarted
from messaging.executor import ThreadExecutor
from messaging.rpc.base_server import START_TIMEOUT, ServerCore, ServerState
from messaging.transport import Transport

if TYPE_CHECKING:
    from messaging.coroutines import CoroutineRunner

__all__ = ["Server"]


class Server(ServerCore):
    """A blocking server. Build it, `start()` it, and `stop()` it; or use it in a `with` block. All methods are
    thread-safe.

    `endpoints`: objects whose exposed methods callers may reach; `async def` methods run on one loop in a thread of its
    own. `executor`: "threads" runs handlers on up to `slots` threads; "inline" runs them on the I/O thread, for
    handlers that never wait. `slots`: how many requests run at a time; `inbox`: how many may wait where the transport
    has no storage, before peers are told BUSY. `around`: context managers per request; `traces`: whether callers get
    the traceback of an undeclared exception as text.

    Raises InvalidTarget, ConfigError or Unsupported for what can be known now.
    """

    transport: Transport
    _face = Transport
    _runner: CoroutineRunner | None = None

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Return when peers can reach it. Raises DeadlineExceeded after `timeout` seconds, or what the transport says
        against it.
        """
        outcome: list[Exception | None] = []
        told = threading.Event()

        def started(error: Exception | None) -> None:
            outcome.append(error)
            told.set()

        if not self._inline:
            self._executor = ThreadExecutor(self._slots, f"messaging {self.target.server}")
        if self._any_async:
            from messaging.coroutines import CoroutineRunner  # asyncio is imported by those who use it

            self._tasks = self._runner = CoroutineRunner(self._slots, f"messaging {self.target.server} coroutines")
        self._stopped = threading.Event()
        self._open(started)
        try:
            in_time = told.wait(timeout)
        except BaseException:
            self.stop(0.0)
            raise
        if not in_time:
            cause = self._reactor.holding.cause
            self.stop(0.0)
            told_why = f": {cause}" if cause is not None else ""
            raise DeadlineExceeded(
                f"{self._name()} could not be reached within {timeout:g} s{told_why}",
                phase="connect",
                delivered=Delivered.NO,
            ) from cause
        if outcome[0] is not None:
            self.stop(0.0)
            raise outcome[0]

    def stop(self, grace: float = 25.0) -> bool:
        """Drain within `grace` seconds: deregister, hand back what was not started, finish what runs, flush the
        answers.

        True when all of it ended in time; what did not is told to stop (`rpc.current().cancelled`). Idempotent,
        callable from a handler (then it does not wait for that handler).
        """
        until = time.monotonic() + grace
        previous = self._begin_drain()
        if previous is ServerState.NEW:
            return True
        if previous in (ServerState.DRAINING, ServerState.STOPPED):
            return self._stopped.wait(grace)
        self._check_fork()
        try:
            self._do(self._unsubscribe, until)
            self._do(self._hand_back, until)
            clean = self._executor.close(until)
            if self._runner is not None:
                clean = self._runner.close(until) and clean
            if not self._reactor.finished:
                self._do(self._reactor.after_flush, max(until, time.monotonic() + 0.2))
        except Closed:
            # The transport went first; its close has ended what was under way.
            clean = not self._monitor.in_hand
            self._executor.close(time.monotonic())
        self._abandon()
        self._stopped.set()
        return clean

    def _do(self, action: Callable[[Callable[[], None]], Any], until: float) -> None:
        """Run an action on the owner and wait for its `done`, but not past `until`."""
        finished = threading.Event()
        self._reactor.call_soon(lambda: action(finished.set))
        if not self._reactor.is_owner():
            finished.wait(max(0.0, until - time.monotonic()))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped; False when `timeout` seconds passed first. Raises NotStarted, Forked."""
        if self._state is ServerState.NEW:
            raise NotStarted(f"{self._name()} was not started")
        self._check_fork()
        return self._stopped.wait(timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
