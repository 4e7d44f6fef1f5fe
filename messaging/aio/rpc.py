"""RPC for asyncio: the names and verbs of `messaging.rpc`, with `await` and `async with`.

The same steps before and after the wait, and the same core underneath; only the waiting is written here. Cancelling a
task cancels its call: the operation is taken out of the table, the server is told, nobody else notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast, overload

from messaging.aio.lifecycle import AsyncService
from messaging.aio.transport import Transport
from messaging.around import enter_async
from messaging.errors import (
    Cancelled,
    PipelineFailed,
    Unsupported,
)
from messaging.rpc import ALL_METHODS, EXPOSED, PUBLIC_METHODS, CurrentRequest, Fanout, current, expose
from messaging.rpc.base_client import BaseClient, Kind, Operation
from messaging.rpc.base_server import ServerCore

__all__ = [
    "ALL_METHODS",
    "EXPOSED",
    "PUBLIC_METHODS",
    "Client",
    "CurrentRequest",
    "Fanout",
    "Pipeline",
    "Server",
    "current",
    "expose",
]

P = ParamSpec("P")
R = TypeVar("R")


class Client(BaseClient):
    """The asyncio client. Parameters and errors as in `messaging.rpc.Client`; use it from tasks of one loop."""

    transport: Transport
    _face = Transport

    @overload
    async def call(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def call(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def call(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> Any: ...
    async def call(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method on one server (or the prepared one) and return its result; see `messaging.rpc.Client.call`."""
        if self._around or self.transport.capabilities.pump_stall:
            return await self._wrapped("call", ctxt, method, args, kwargs)
        future, wake = self.transport.waiter()
        request = self._request("call", ctxt, method, args, kwargs, wake)
        request.session.start(request)
        try:
            await future
        except asyncio.CancelledError:
            request.session.abandon(request, Cancelled("the task was cancelled"))
            raise
        return self._value(request, method)

    @overload
    async def cast(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    async def cast(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> None: ...
    async def cast(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Hand a request to one server and return when a server or broker has taken it; to all, when prepared with
        fanout=True.
        """
        await self._run(self._plan.cast_kind, ctxt, method, args, kwargs)

    @overload
    async def fanout(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Fanout: ...
    @overload
    async def fanout(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> Fanout: ...
    async def fanout(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Fanout:
        """Hand a request to every live server; returns how many took it and how many failed, None where nobody can
        know.
        """
        if self.transport.capabilities.fanout == "none":
            raise Unsupported(f"{self.transport.url.kind}:// has no fanout")
        return cast("Fanout", await self._run("fanout", ctxt, method, args, kwargs))

    def submit(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Start a call and return a task of its result; cancelling the task cancels the call."""
        return asyncio.get_running_loop().create_task(self._run("call", ctxt, method, args, kwargs))

    async def ping(self, timeout: float = 5.0) -> str:
        """Ask a server (or the prepared one) for its name: a round trip through its handlers."""
        namespace, method, _ = self.transport.wire.ping
        return cast("str", await self.prepare(namespace=namespace, version="1.0", timeout=timeout).call(None, method))

    def pipeline(self) -> Pipeline:
        """Return a block, for `async with`, in which many operations are sent without waiting; leaving it waits for
        every outcome.
        """
        return Pipeline(self)

    async def _wrapped(self, kind: Kind, ctxt: Mapping[str, Any] | None, method: Any, args: Any, kwargs: Any) -> Any:
        operation = self._operation(kind, ctxt, method)
        async with AsyncExitStack() as stack:
            await enter_async(stack, self._around, operation)
            return await self._wait(kind, ctxt, method, args, kwargs, operation)

    async def _run(self, kind: Kind, ctxt: Mapping[str, Any] | None, method: Any, args: Any, kwargs: Any) -> Any:
        if self._around:
            return await self._wrapped(kind, ctxt, method, args, kwargs)
        return await self._wait(kind, ctxt, method, args, kwargs, None)

    async def _wait(
        self,
        kind: Kind,
        ctxt: Mapping[str, Any] | None,
        method: Any,
        args: Any,
        kwargs: Any,
        operation: Operation | None,
    ) -> Any:
        future, wake = self.transport.waiter()
        request = self._request(kind, ctxt, method, args, kwargs, wake, operation)
        session = request.session
        session.start(request)
        timer = self.transport.see_to_deadline(
            request.deadline - session.operations.reactor.clock(),
            lambda: session.abandon(request, request.expired()),
        )
        try:
            await future
        except asyncio.CancelledError:
            session.abandon(request, Cancelled("the task was cancelled"))
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self._value(request, method)


class Pipeline:
    """Many operations at once; made by `Client.pipeline()`. Use it from one task, in an `async with` block.

    The verbs are coroutines because they wait when `limit` operations are under way.
    """

    limit = 10_000

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: list[asyncio.Task[Any]] = []
        self._open = asyncio.Semaphore(self.limit)
        self._results: list[Any] = []

    async def call(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a call; its result is in `results()` after the block, at the position of this operation."""
        await self._start("call", ctxt, method, args, kwargs)

    async def cast(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a cast."""
        await self._start(self._client._plan.cast_kind, ctxt, method, args, kwargs)

    async def fanout(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a fanout."""
        await self._start("fanout", ctxt, method, args, kwargs)

    async def _start(self, kind: Kind, ctxt: Any, method: Any, args: Any, kwargs: Any) -> None:
        await self._open.acquire()
        task = asyncio.get_running_loop().create_task(self._client._run(kind, ctxt, method, args, kwargs))
        task.add_done_callback(lambda _: self._open.release())
        self._tasks.append(task)

    def results(self) -> list[Any]:
        """The values of all operations in their order; None for casts. Complete after the block."""
        return list(self._results)

    async def wait(self) -> None:
        """Wait for every outcome; each operation has its own deadline, so this ends. Raises PipelineFailed."""
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures: list[Exception] = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                outcome.index = index  # type: ignore[attr-defined]
                failures.append(outcome)
        self._results = [None if isinstance(outcome, BaseException) else outcome for outcome in outcomes]
        if failures:
            raise PipelineFailed(f"{len(failures)} of {len(outcomes)} operations failed", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.wait()
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Server(AsyncService, ServerCore):
    """The asyncio server: `async def` methods run as tasks of the user's loop, at most `slots` at a time; others on
    threads, or inline.

    Parameters and errors as in `messaging.rpc.Server`.
    """
