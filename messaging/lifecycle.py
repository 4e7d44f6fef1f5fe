"""What everything that receives has in common: states, subscriptions, where handlers run, and the order of a drain.

A service is subscribed to one or several sources of one connection, starts when peers can reach all of them, and stops
in a fixed order: take nothing more, hand back what was not started, finish what runs, flush. `ServiceCore` says what
the steps are and never waits; `BlockingService` waits between them, and the asyncio face has its own way of waiting.
What is received, and what is done with it, is up to the subclasses.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from messaging.drivers.base import Role
from messaging.errors import (
    Cancelled,
    Closed,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    Delivered,
    Forked,
    NotStarted,
    StateError,
)
from messaging.executor import Desk, InlineExecutor, ThreadExecutor
from messaging.message import Source
from messaging.operations import Operations
from messaging.subscription import DeliveryHandler
from messaging.transport import BaseTransport, Transport, check_transport

if TYPE_CHECKING:
    from messaging.coroutines import CoroutineRunner, LoopTasks

__all__ = ["START_TIMEOUT", "BlockingService", "ServiceCore", "ServiceState"]

_log = logging.getLogger(__name__)

START_TIMEOUT = 30.0
"""Seconds for a service to become reachable."""


class ServiceState(enum.Enum):
    """Where a service is in its one life."""

    NEW = "new"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


class ServiceCore:
    """The steps of a service's life, none of which waits. Public methods are thread-safe."""

    _face: ClassVar[type[BaseTransport]]
    """The kind of transport that this face can wait for."""

    def __init__(
        self, transport: BaseTransport, role: Role, *, executor: Literal["threads", "inline"], slots: int
    ) -> None:
        check_transport(transport, self._face)
        if executor not in ("threads", "inline"):
            raise ConfigError(f"executor must be 'threads' or 'inline', not {executor!r}")
        check_count("slots", slots)
        self.transport = transport
        self._role = role
        self._inline = executor == "inline"
        self._slots = slots
        self._any_async = False
        """Whether some handler is a coroutine function."""
        self._state = ServiceState.NEW
        self._lock = threading.Lock()
        self._consuming: dict[Source, bool] = {}
        self._on_started: Callable[[Exception | None], None] | None = None
        self._on_unsubscribed: Callable[[], None] | None = None
        self._executor: ThreadExecutor | InlineExecutor = InlineExecutor()
        self._tasks: CoroutineRunner | LoopTasks | None = None
        """Where coroutines run; set by the face, which alone imports asyncio."""
        self._on_loop = False
        self._loop_thread = 0
        """The thread of the user's loop, which may own the connection or not; 0: there is none."""
        self._operations: Operations

    # What subclasses say

    def _desk(self) -> Desk | None:
        """Where the workers of this service fetch their jobs, if they do."""
        return None

    def _name(self) -> str:
        """Name the service in messages for people."""
        raise TypeError(f"{type(self).__name__} has no name")

    def __str__(self) -> str:
        return self._name()

    def __repr__(self) -> str:
        return f"<{self._name()}: {self._state.value}>"

    def _open(self, on_started: Callable[[Exception | None], None]) -> None:
        """Call `_begin_start`, prepare for receiving, and call `_subscribe`."""
        raise TypeError(f"{type(self).__name__} does not say what it receives")

    def _hand_back(self, done: Callable[[], None]) -> None:
        """Give back what was not started, then call `done`; owner only."""
        done()

    def _abandon(self) -> None:
        """Forget what did not end in time, and become STOPPED."""
        self._state = ServiceState.STOPPED

    # Steps

    def _begin_start(self, on_started: Callable[[Exception | None], None]) -> Operations:
        """Claim the one start. Raises StateError."""
        with self._lock:
            if self._state is not ServiceState.NEW:
                raise StateError(
                    f"{self._name()} is {self._state.value}; it starts once, make a new one to start again"
                )
            self._state = ServiceState.STARTING
        self._on_started = on_started
        self._operations = self.transport.operations(self._role)
        self._reactor = self._operations.reactor
        self._clock = self._reactor.clock
        return self._operations

    def _subscribe(self, sources: Sequence[Source], window: int, receive: DeliveryHandler) -> None:
        """Subscribe to all; `on_started` is called once, on the owner, when peers can reach them or will not."""
        for source in sources:
            self._consuming[source] = False
        for source in sources:
            self._reactor.subscribe(source, window, receive, functools.partial(self._subscribed, source))

    def _subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        before = self._consuming.get(source)
        self._consuming[source] = error is None
        started = self._on_started
        if isinstance(error, Cancelled):
            self._consuming.pop(source, None)
            if not self._consuming and self._on_unsubscribed is not None:
                self._on_unsubscribed()
        elif error is not None:
            if started is not None:
                self._on_started = None
                started(error)
            elif self._state is ServiceState.SERVING and isinstance(error, ConnectionLost):
                level = logging.WARNING if before else logging.DEBUG
                told = "%s: the subscription to %r is gone, and is tried again: %s"
                _log.log(level, told, self._name(), source.kind.value, error)
            elif self._state is ServiceState.SERVING:
                # Who closes the transport under a service has asked for it.
                level = logging.WARNING if isinstance(error, Closed) else logging.ERROR
                _log.log(level, "%s: the subscription to %r has ended: %s", self._name(), source.kind.value, error)
        elif started is not None and all(self._consuming.values()):
            self._on_started = None
            with self._lock:
                # A stop that came first stays.
                if self._state is ServiceState.STARTING:
                    self._state = ServiceState.SERVING
            started(None)
        elif before is False and self._state is ServiceState.SERVING:
            _log.info("%s: the subscription to %r is back", self._name(), source.kind.value)

    def _begin_drain(self) -> ServiceState:
        """Take nothing more from now on; returns the state before. Only the first caller has the draining to do."""
        with self._lock:
            previous = self._state
            if previous is ServiceState.NEW:
                self._state = ServiceState.STOPPED
            elif previous is not ServiceState.STOPPED:
                self._state = ServiceState.DRAINING
            return previous

    def _unsubscribe(self, done: Callable[[], None]) -> None:
        """Take nothing more; `done` is called on the owner when the transport has confirmed it."""
        self._on_unsubscribed = done
        for source in list(self._consuming):
            self._reactor.unsubscribe(source)
        if not self._consuming:
            done()

    def _check_fork(self) -> None:
        if self._state is ServiceState.NEW:
            return
        if self.transport._operations.get(self._role) is not self._operations:
            raise Forked(
                f"{self._name()} was started in the parent process; make and start one of its own in this child"
            )

    def _unreachable(self, timeout: float) -> DeadlineExceeded:
        cause = self._reactor.holding.cause
        why = f": {cause}" if cause is not None else ""
        error = DeadlineExceeded(
            f"{self._name()} could not be reached within {timeout:g} s{why}", phase="connect", delivered=Delivered.NO
        )
        error.__cause__ = cause
        return error

    def health(self) -> dict[str, Any]:
        """Three signals: `alive` (not stopped), `connected` (the transport), `consuming` (subscribed to all)."""
        consuming = self._state is ServiceState.SERVING and bool(self._consuming) and all(self._consuming.values())
        return {
            "alive": self._state is not ServiceState.STOPPED,
            "connected": self.transport.health()["connected"],
            "consuming": consuming,
            "state": self._state.value,
        }


class BlockingService(ServiceCore):
    """A service for callers that wait. Build it, `start()` it, and `stop()` it; or use it in a `with` block.
    Thread-safe.
    """

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
            self._executor = ThreadExecutor(self._slots, f"messaging {self._name()}", self._desk())
        if self._any_async:
            from messaging.coroutines import CoroutineRunner  # asyncio is imported by those who use it

            self._tasks = self._runner = CoroutineRunner(self._slots, f"messaging {self._name()} coroutines")
        self._stopped = threading.Event()
        self._open(started)
        try:
            in_time = told.wait(timeout)
        except BaseException:
            self.stop(0.0)
            raise
        if not in_time:
            error = self._unreachable(timeout)
            self.stop(0.0)
            raise error
        if outcome[0] is not None:
            self.stop(0.0)
            raise outcome[0]

    def stop(self, grace: float = 25.0) -> bool:
        """Drain within `grace` seconds: take nothing more, hand back what was not started, finish what runs, flush.

        True when all of it ended in time; what did not is told to stop (`current().cancelled`). Idempotent, callable
        from a handler (then it does not wait for that handler).
        """
        until = time.monotonic() + grace
        # First of all, because the parent's threads may have held this object's lock when the process was forked.
        self._check_fork()
        previous = self._begin_drain()
        if previous is ServiceState.NEW:
            return True
        if previous in (ServiceState.DRAINING, ServiceState.STOPPED):
            return self._stopped.wait(grace)
        # Where the transport went first, there is nobody to tell; what runs has its time all the same.
        with contextlib.suppress(Closed):
            self._do(self._unsubscribe, until)
            self._do(self._hand_back, until)
        clean = self._executor.close(until)
        if self._runner is not None:
            clean = self._runner.close(until) and clean
        with contextlib.suppress(Closed):
            self._do(self._reactor.after_flush, max(until, time.monotonic() + 0.2))
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
        """Wait until it has stopped; False when `timeout` seconds passed first. Raises NotStarted, Forked."""
        if self._state is ServiceState.NEW:
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


def check_count(name: str, value: object) -> None:
    """Check an option that counts something. Raises ConfigError."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
