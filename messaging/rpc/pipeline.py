"""Operations that their caller does not wait for one by one: Futures of single calls, and pipelines of many operations.

Both leave the watching of deadlines to the connection's owner. `around=` wraps the sending here, since nobody waits
inside of it.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

from messaging.around import enter
from messaging.errors import Cancelled, Forked, PipelineFailed, StateError
from messaging.in_flight import OVERDUE
from messaging.rpc.base_client import BaseClient, Kind
from messaging.rpc.session import Request

__all__ = ["Pipeline", "submit"]


def begin(
    client: BaseClient,
    kind: Kind,
    ctxt: Mapping[str, Any] | None,
    method: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wake: Callable[[], object],
) -> Request:
    """Send one operation whose deadline the owner watches."""
    if not client._around:
        request = client._request(kind, ctxt, method, args, kwargs, wake)
        request.session.start(request)
        return request
    operation = client._operation(kind, ctxt, method)
    with ExitStack() as stack:
        enter(stack, client._around, operation)
        request = client._request(kind, ctxt, method, args, kwargs, wake, operation)
        request.session.start(request)
        return request


def submit(
    client: BaseClient, ctxt: Mapping[str, Any] | None, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> concurrent.futures.Future[Any]:
    """Start a call and return a Future of its result."""
    future = _CallFuture()
    future.request = begin(client, "call", ctxt, method, args, kwargs, lambda: future.finish(client, method))
    future.started()
    return future


def _nothing() -> None:
    pass


class _CallFuture(concurrent.futures.Future[Any]):
    """A Future of a call; `cancel()` cancels the call."""

    request: Request | None = None
    _early: tuple[BaseClient, Any] | None = None

    def started(self) -> None:
        """The call is on its way; an outcome that came before this is delivered now."""
        if self._early is not None:
            self.finish(*self._early)

    def finish(self, client: BaseClient, method: Any) -> None:
        """Take the outcome; on whatever thread ended the call."""
        request = self.request
        if request is None:
            # The reply overtook the assignment in submit().
            self._early = (client, method)
            if self.request is None:
                return
            request = self.request
        if type(request.error) is Forked:
            # A thread of the parent may hold the lock of this Future, and in the child nobody would release it.
            self._condition = threading.Condition()
        # The call refers to this Future by it, and there is nothing left to be woken.
        request.wake = _nothing
        if self.done():
            return
        try:
            value = client._value(request, method)
        except BaseException as error:
            with _suppress_invalid_state():
                self.set_exception(error)
        else:
            with _suppress_invalid_state():
                self.set_result(value)

    def cancel(self) -> bool:
        """Cancel the call, unless it has ended."""
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        request = self.request
        if request is not None:
            request.session.abandon(request, Cancelled("the caller cancelled"))
        return True


class _suppress_invalid_state(AbstractContextManager[None]):  # noqa: N801 - used like contextlib.suppress
    """Two threads may finish one future; the second one's outcome is the same or too late."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, concurrent.futures.InvalidStateError)


class Pipeline:
    """Many operations at once; made by `Client.pipeline()`. Use it from one thread, in a `with` block.

    At most `limit` operations are under way at a time; then the verbs wait, within the deadline of what they wait for.
    """

    limit = 10_000

    def __init__(self, client: BaseClient) -> None:
        self._client = client
        self._requests: list[tuple[Request, Any]] = []
        self._open = threading.Semaphore(self.limit)
        self._results: list[Any] = []

    def call(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a call; its result is in `results()` after the block, at the position of this operation."""
        self._start("call", ctxt, method, args, kwargs)

    def cast(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a cast."""
        self._start(self._client._plan.cast_kind, ctxt, method, args, kwargs)

    def fanout(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a fanout."""
        self._start("fanout", ctxt, method, args, kwargs)

    def _start(self, kind: Kind, ctxt: Any, method: Any, args: Any, kwargs: Any) -> None:
        client = self._client
        if not self._open.acquire(timeout=client._plan.call_timeout + OVERDUE):
            raise StateError(f"{self.limit} operations of this pipeline wait for their outcome, and none came in time")
        try:
            request = begin(client, kind, ctxt, method, args, kwargs, self._open.release)
        except BaseException:
            self._open.release()
            raise
        self._requests.append((request, method))

    def results(self) -> list[Any]:
        """The values of all operations in their order; None for casts. Complete after the block."""
        return list(self._results)

    def wait(self) -> None:
        """Wait for every outcome; each operation has its own deadline, so this ends. Raises PipelineFailed."""
        failures: list[Exception] = []
        self._await_all()
        self._results = []
        for index, (request, method) in enumerate(self._requests):
            try:
                self._results.append(self._client._value(request, method))
            except Exception as error:
                error.index = index  # type: ignore[attr-defined]
                failures.append(error)
                self._results.append(None)
        if failures:
            raise PipelineFailed(f"{len(failures)} of {len(self._requests)} operations failed", failures)

    def _await_all(self) -> None:
        if not self._requests:
            return
        reactor = self._requests[0][0].session.operations.reactor
        if self._client.transport.is_owner():
            raise StateError("a pipeline on the thread that does this transport's I/O would wait for itself")
        latest = max(request.deadline for request, _ in self._requests)
        for _ in range(self.limit):
            # All permits are back when nothing is under way. The owner ends what is overdue; this bound is for its
            # being late.
            if not self._open.acquire(timeout=max(0.0, latest - reactor.clock()) + 0.05):
                break
        for request, _ in self._requests:
            if request.error is None and request.value is None:
                request.session.abandon(request, request.expired())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:
            for request, _ in self._requests:
                request.session.abandon(request, Cancelled("the pipeline's block raised"))
