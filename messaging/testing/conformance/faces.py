"""The two faces of the library behind one: scenarios are written once, against the blocking one.

The blocking face is used as it is. The asyncio face runs on an event loop in a thread of its own; each of its
objects is
wrapped so that a method runs on that loop and returns when what it returned has been awaited. So a scenario for both
faces reads like ordinary blocking code, and what it tests under asyncio is the real thing, on a real loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, cast

from messaging import rpc, transport
from messaging.target import Target

__all__ = ["FACES", "AsyncioFace", "Face", "SyncFace", "open_face"]

FACES = ("sync", "asyncio")
_LONGEST = 40.0
"""Seconds after which an awaitable that does not end is given up: above every deadline in the suite."""


class Face(Protocol):
    """How a scenario makes the objects of one face. They are typed as the blocking ones, and behave like them."""

    name: str

    def open(self, url: str, **options: Any) -> transport.Transport:
        """Open a transport."""

    def client(self, over: transport.Transport, target: Target, **options: Any) -> rpc.Client:
        """Make an RPC client."""

    def server(self, over: transport.Transport, target: Target, endpoints: Sequence[Any], **options: Any) -> rpc.Server:
        """Make an RPC server."""

    def notify(self, kind: str, over: transport.Transport, *args: Any, **options: Any) -> Any:
        """Make an object of the notify module by the name of its class."""

    def submit(
        self, client: rpc.Client, ctxt: Mapping[str, Any] | None, method: Any, **args: Any
    ) -> concurrent.futures.Future[Any]:
        """Start a call and return the future of its result; cancelling it cancels the call."""

    def close(self) -> None:
        """Give back what the face itself holds."""


def open_face(name: str) -> Face:
    """Return a face by its name, one of FACES."""
    return AsyncioFace() if name == "asyncio" else SyncFace()


class SyncFace:
    """The blocking face, as users have it."""

    name = "sync"

    def open(self, url: str, **options: Any) -> transport.Transport:
        return transport.open_transport(url, **options)

    def client(self, over: transport.Transport, target: Target, **options: Any) -> rpc.Client:
        return rpc.Client(over, target, **options)

    def server(self, over: transport.Transport, target: Target, endpoints: Sequence[Any], **options: Any) -> rpc.Server:
        return rpc.Server(over, target, endpoints, **options)

    def notify(self, kind: str, over: transport.Transport, *args: Any, **options: Any) -> Any:
        return getattr(importlib.import_module("messaging.notify"), kind)(over, *args, **options)

    def submit(
        self, client: rpc.Client, ctxt: Mapping[str, Any] | None, method: Any, **args: Any
    ) -> concurrent.futures.Future[Any]:
        return client.submit(ctxt, method, **args)

    def close(self) -> None:
        pass


class AsyncioFace:
    """The asyncio face, on a loop of its own."""

    name = "asyncio"

    def __init__(self) -> None:
        self._loop = LoopThread()
        self._rpc = importlib.import_module("messaging.aio.rpc")

    def open(self, url: str, **options: Any) -> transport.Transport:
        from messaging.aio import open_transport

        return cast("transport.Transport", self._make(open_transport, url, **options))

    def client(self, over: transport.Transport, target: Target, **options: Any) -> rpc.Client:
        return cast("rpc.Client", self._make(self._rpc.Client, over, target, **options))

    def server(self, over: transport.Transport, target: Target, endpoints: Sequence[Any], **options: Any) -> rpc.Server:
        return cast("rpc.Server", self._make(self._rpc.Server, over, target, endpoints, **options))

    def notify(self, kind: str, over: transport.Transport, *args: Any, **options: Any) -> Any:
        return self._make(getattr(importlib.import_module("messaging.aio.notify"), kind), over, *args, **options)

    def submit(
        self, client: rpc.Client, ctxt: Mapping[str, Any] | None, method: Any, **args: Any
    ) -> concurrent.futures.Future[Any]:
        return self._loop.start(inner(client).call, ctxt, method, **args)

    def close(self) -> None:
        self._loop.close()

    def _make(self, factory: Callable[..., Any], *args: Any, **options: Any) -> Blocking:
        return Blocking(self._loop.run(factory, *map(inner, args), **options), self._loop)


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="conformance-loop", daemon=True)
        self._thread.start()

    def _turn(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def start(self, function: Callable[..., Any], *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        """Call a function on the loop and await what it returns, in the caller's context; cancelling cancels it."""

        async def called() -> Any:
            result = function(*args, **options)
            return await result if inspect.isawaitable(result) else result

        if threading.current_thread() is self._thread:
            raise RuntimeError("a scenario's coroutine handler waited for its own loop; use the asyncio object itself")
        return asyncio.run_coroutine_threadsafe(called(), self.loop)

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The same, and wait for the result."""
        return self.start(function, *args, **options).result(_LONGEST)

    def close(self) -> None:
        """Cancel what is left on the loop, and end it."""
        if self._thread.is_alive():
            self.run(self._cancel_all)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_LONGEST)

    async def _cancel_all(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_default_executor()


class Blocking:
    """An object of the asyncio face, used from ordinary threads: each method runs on the loop, to its end."""

    def __init__(self, wrapped: Any, loop: LoopThread) -> None:
        self._wrapped = wrapped
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if not inspect.isroutine(found):
            return found

        def method(*args: Any, **options: Any) -> Any:
            return self._again(self._loop.run(found, *map(inner, args), **options))

        return method

    def _again(self, result: Any) -> Any:
        # What a method returns of its own kind (prepare) or as a block (pipeline) is of the asyncio face too.
        if isinstance(result, type(self._wrapped)) or hasattr(result, "__aenter__"):
            return self if result is self._wrapped else Blocking(result, self._loop)
        return result

    def __enter__(self) -> Self:
        self._loop.run(self._wrapped.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._wrapped.__aexit__, kind, error, trace)


def inner(value: Any) -> Any:
    """The object of the asyncio face itself, where it is wrapped."""
    return value._wrapped if isinstance(value, Blocking) else value
