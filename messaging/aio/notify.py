"""Notifications for asyncio: the names and verbs of `messaging.notify`, with `await` and `async with`.

The same steps before and after the wait, and the same core underneath; only the waiting is written here. Cancelling a
task gives its notification up: it is taken out of the table, and not written any more if it was not yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, Unpack

from messaging.aio.deadletter import DeadLetters
from messaging.aio.lifecycle import AsyncService
from messaging.aio.transport import Transport
from messaging.around import enter_async
from messaging.errors import Cancelled, MessagingError
from messaging.notify import (
    HANDLED,
    LEVELS,
    REQUEUE,
    CurrentEvent,
    DeadLetter,
    Event,
    Filter,
    Log,
    LogHandler,
    Messaging,
    Noop,
    Recording,
    Reject,
    Result,
    Retry,
    Routing,
    Sink,
    current,
    on,
)
from messaging.notify.base_listener import BaseListener, ListenerOptions
from messaging.notify.base_notifier import BaseNotifier, Sent
from messaging.notify.base_pipeline import LIMIT, RAISED, BasePipeline
from messaging.notify.burst import Burst
from messaging.notify.listener import check_batching
from messaging.notify.verbs import Verbs

__all__ = [
    "HANDLED",
    "LEVELS",
    "REQUEUE",
    "BatchListener",
    "CurrentEvent",
    "DeadLetter",
    "DeadLetters",
    "Event",
    "Filter",
    "Listener",
    "Log",
    "LogHandler",
    "Messaging",
    "Noop",
    "Notifier",
    "Pipeline",
    "Recording",
    "Reject",
    "Result",
    "Retry",
    "Routing",
    "Sink",
    "current",
    "on",
]

_Awaited = Coroutine[Any, Any, None]


class Notifier(BaseNotifier, Verbs[_Awaited]):
    """The asyncio notifier. Parameters, verbs and errors as in `messaging.notify.Notifier`; use it from tasks of one
    loop.
    """

    transport: Transport
    _face = Transport

    async def notify(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Send a notification of a level given by name; see `messaging.notify.Notifier.notify`."""
        self.transport.bind()
        event = self._event(level, ctxt, event_type, payload, headers)
        if not self._around:
            await self._send(event, key)
            return
        async with AsyncExitStack() as stack:
            await enter_async(stack, self._around, event)
            await self._send(event, key)

    def submit(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> asyncio.Task[None]:
        """Start to send and return a task; cancelling it gives up."""
        return asyncio.get_running_loop().create_task(
            self.notify(level, ctxt, event_type, payload, key=key, headers=headers)
        )

    def pipeline(self, *, limit: int = LIMIT) -> Pipeline:
        """Return a block, for `async with`, in which many notifications are sent without waiting; leaving it waits for
        every outcome. `limit`: see `messaging.notify.Notifier.pipeline`.
        """
        return Pipeline(self, limit)

    async def _send(self, event: Event[Any], key: str | None) -> None:
        try:
            failure = self._failure(await self._wait(event, key))
        except MessagingError as error:
            if not self._reportable(error):
                raise
            failure = error
        if failure is not None:
            self._report(event, failure)

    async def _wait(self, event: Event[Any], key: str | None) -> Sent:
        future, wake = self.transport.waiter()
        sent = self._start(event, key, wake)
        if sent.sendings:
            first = sent.sendings[0]
            timer = self.transport.see_to_deadline(
                first.deadline - first.session.operations.reactor.clock(),
                lambda: self._abandon(sent, lambda sending: sending.expired()),
            )
            try:
                await future
            except asyncio.CancelledError:
                self._abandon(sent, lambda sending: Cancelled("the task was cancelled"))
                raise
            finally:
                if timer is not None:
                    timer.cancel()
        return sent


class Pipeline(BasePipeline, Verbs[_Awaited]):
    """Many notifications at once; made by `Notifier.pipeline()`. Use it from one task, in an `async with` block.

    Its verbs are coroutines because they wait when `limit` notifications are under way.
    """

    def __init__(self, notifier: Notifier, limit: int = LIMIT) -> None:
        super().__init__(notifier, limit)
        self._transport = notifier.transport
        self._under_way: deque[asyncio.Future[Any]] = deque()
        """Those on the long way."""

    async def notify(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Start to send a notification of a level given by name."""
        self._transport.bind()
        burst = self._burst if self._epoch == self._notifier.transport.epoch else self._renewed()
        if burst is not None and headers is None:
            if burst.number() >= self._limit:
                await self._wait_for(burst, self._limit // 2)
            if burst.start(self._count, level, ctxt, event_type, payload, key):
                self._count += 1
                return
        notifier = self._notifier
        event = notifier._event(level, ctxt, event_type, payload, headers)
        while len(self._under_way) >= self._limit:
            await self._under_way.popleft()
        future, wake = self._transport.waiter()
        async with AsyncExitStack() as stack:
            await enter_async(stack, notifier._around, event)
            self._sent.add(self._count, notifier._start(event, key, wake))
        self._count += 1
        self._under_way.append(future)

    async def wait(self) -> None:
        """Wait for every outcome; each has its own deadline, so this ends. Raises PipelineFailed."""
        try:
            while self._under_way:
                await self._under_way.popleft()
            for burst in self._bursts:
                await self._wait_for(burst, 0)
        except asyncio.CancelledError:
            self._cancel("the task was cancelled")
            raise
        failure = self._failure()
        if failure is not None:
            raise failure

    async def _wait_for(self, burst: Burst, few: int) -> None:
        """Wait until no more than `few` of a burst are under way."""
        future, burst.wake = self._transport.waiter()
        if not burst.is_down_to(few):
            await future

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.wait()
        else:
            self._cancel(RAISED)


class Listener(AsyncService, BaseListener):
    """The asyncio listener: `async def` handlers run as tasks of the user's loop, at most `slots` at a time; others on
    threads, or inline.

    Parameters and errors as in `messaging.notify.Listener`; `dead_letter` may be a coroutine function too.
    """

    transport: Transport


class BatchListener(Listener):
    """The asyncio listener whose handlers get lists; see `messaging.notify.BatchListener`."""

    def __init__(
        self,
        transport: Transport,
        targets: Sequence[Any],
        endpoints: Sequence[Any],
        *,
        batch_size: int = 100,
        batch_timeout: float = 1.0,
        **options: Unpack[ListenerOptions],
    ) -> None:
        self._batching = check_batching(batch_size, batch_timeout)
        super().__init__(transport, targets, endpoints, **options)
