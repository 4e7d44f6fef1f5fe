"""What runs `async def` handlers: one event loop, the user's or one in a thread of its own, with a bound on how many
run.

Like the executors it knows nothing of messages. A module of its own because importing asyncio takes 20 ms, which
services without coroutines need not pay.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

__all__ = ["CoroutineJob", "CoroutineRunner", "LoopTasks"]


class CoroutineJob(msgspec.Struct, eq=False):
    """A coroutine to run: made late, so that one that never starts is never left unawaited.

    The coroutine calls `begun` first, and `LoopTasks.ended` as the last thing that it does. That is told by the
    coroutine itself because a callback of its task costs one more turn of the loop per job. A struct, as all that is
    made once per call.
    """

    make: Callable[[], Coroutine[Any, Any, None]]
    started: bool = False
    cancelled: bool = False

    def begun(self) -> bool:
        """Say that it runs; False when it was cancelled before, and has nothing to do."""
        self.started = True
        return not self.cancelled


def _plain_job(tasks: LoopTasks | CoroutineRunner, make: Callable[[], Coroutine[Any, Any, None]]) -> CoroutineJob:
    async def told() -> None:
        try:
            if job.begun():
                await make()
        finally:
            tasks.ended(job)

    job = CoroutineJob(told)
    return job


class LoopTasks:
    """Coroutines on one event loop, at most `slots` at a time; the others wait in order. `start` and `cancel` are
    thread-safe.

    Each runs in a copy of the context in which this object was made, so that none sees the variables of the task that
    happened to be running when its request came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: int, name: str) -> None:
        self._loop = loop
        self._name = name
        """Of all its tasks: to number each one costs 0.2 us."""
        self._slots = slots
        self._context = contextvars.copy_context()
        self._parked: deque[CoroutineJob] = deque()
        self._tasks: dict[CoroutineJob, asyncio.Task[None]] = {}

    job = CoroutineJob
    """Wraps what makes a coroutine, to be started and cancelled; it calls `begun` and `ended` itself."""

    def plain_job(self, make: Callable[[], Coroutine[Any, Any, None]]) -> CoroutineJob:
        """The same for a coroutine that knows nothing of its job, for one more frame."""
        return _plain_job(self, make)

    def start(self, job: CoroutineJob) -> None:
        """Run a job's coroutine as soon as there is a slot."""
        self._loop.call_soon_threadsafe(self.start_here, job)

    def start_here(self, job: CoroutineJob) -> None:
        """The same, for callers on the loop itself: no wake-up."""
        if len(self._tasks) >= self._slots:
            self._parked.append(job)
        else:
            self._tasks[job] = self._loop.create_task(job.make(), name=self._name, context=self._context.copy())

    def ended(self, job: CoroutineJob) -> None:
        """A coroutine is done: the next one may start. On the loop."""
        self._tasks.pop(job, None)
        if self._parked and len(self._tasks) < self._slots:
            self.start_here(self._parked.popleft())

    def cancel(self, job: CoroutineJob) -> None:
        """Cancel a job, started or not."""
        job.cancelled = True
        self._loop.call_soon_threadsafe(self._cancel_here, job)

    def _cancel_here(self, job: CoroutineJob) -> None:
        task = self._tasks.get(job)
        # A task that is cancelled before its first step never runs, not even to say that it has ended.
        if task is not None and job.started:
            task.cancel()

    async def end(self, until: float) -> bool:
        """Let what runs end until the monotonic time `until`, then cancel it; True when nothing had to be cancelled."""
        while self._tasks:
            remaining = until - time.monotonic()
            if remaining <= 0.0:
                break
            await asyncio.wait(list(self._tasks.values()), timeout=remaining)
        left = dict(self._tasks)
        for job in [*left, *self._parked]:
            job.cancelled = True
            self._cancel_here(job)
        if left:
            await asyncio.wait(left.values(), timeout=1.0)
        return not left


class CoroutineRunner:
    """An event loop in a thread of its own, for `async def` handlers of servers that are not on a loop already.
    Thread-safe.
    """

    def __init__(self, slots: int, name: str) -> None:
        self._slots = slots
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._tasks: LoopTasks | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    job = CoroutineJob
    """Wraps what makes a coroutine, to be started and cancelled; it calls `begun` and `ended` itself."""

    def plain_job(self, make: Callable[[], Coroutine[Any, Any, None]]) -> CoroutineJob:
        """The same for a coroutine that knows nothing of its job, for one more frame."""
        return _plain_job(self, make)

    def start(self, job: CoroutineJob) -> None:
        """Run a job's coroutine as soon as there is a slot."""
        self._started().start(job)

    start_here = start

    def ended(self, job: CoroutineJob) -> None:
        """A coroutine is done; on the loop."""
        self._started().ended(job)

    def cancel(self, job: CoroutineJob) -> None:
        """Cancel a job, started or not."""
        self._started().cancel(job)

    def _started(self) -> LoopTasks:
        with self._lock:
            if self._tasks is None:
                self._loop = asyncio.new_event_loop()
                self._tasks = LoopTasks(self._loop, self._slots, self._name)
                self._thread = threading.Thread(target=self._turn, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._tasks

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def close(self, until: float) -> bool:
        """Let what runs end until the monotonic time `until`, then cancel it and stop the loop; True when nothing was
        cancelled.
        """
        with self._lock:
            loop, thread, tasks = self._loop, self._thread, self._tasks
        if loop is None or thread is None or tasks is None or not thread.is_alive():
            return True
        ended = asyncio.run_coroutine_threadsafe(tasks.end(until), loop)
        try:
            return ended.result(max(0.0, until - time.monotonic()) + 2.0)
        except TimeoutError:
            return False
        finally:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(1.0)
