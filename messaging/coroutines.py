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

__all__ = ["CoroutineJob", "CoroutineRunner", "LoopTasks"]


class LoopTasks:
    """Coroutines on one event loop, at most `slots` at a time; the others wait in order. `start` is thread-safe, `end`
    is not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: int) -> None:
        self._loop = loop
        self._slots = slots
        self._parked: deque[CoroutineJob] = deque()
        self._tasks: dict[CoroutineJob, asyncio.Task[None]] = {}

    def job(self, make: Callable[[], Coroutine[Any, Any, None]]) -> CoroutineJob:
        """Wrap what makes a coroutine, to be started and cancelled."""
        return CoroutineJob(make)

    def start(self, job: CoroutineJob) -> None:
        """Run a job's coroutine as soon as there is a slot."""
        self._loop.call_soon_threadsafe(self.start_here, job)

    def start_here(self, job: CoroutineJob) -> None:
        """The same, for callers on the loop itself: no wake-up."""
        if job.cancelled:
            return
        if len(self._tasks) >= self._slots:
            self._parked.append(job)
            return
        task = self._loop.create_task(job.run(), context=job.context)
        self._tasks[job] = task
        task.add_done_callback(lambda _: self._ended(job))

    def _ended(self, job: CoroutineJob) -> None:
        self._tasks.pop(job, None)
        if self._parked and len(self._tasks) < self._slots:
            self.start_here(self._parked.popleft())

    def cancel(self, job: CoroutineJob) -> None:
        """Cancel a job, started or not; thread-safe."""
        job.cancelled = True
        self._loop.call_soon_threadsafe(self._cancel_here, job)

    def _cancel_here(self, job: CoroutineJob) -> None:
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()

    async def end(self, until: float) -> bool:
        """Let what runs end until the monotonic time `until`, then cancel it; True when nothing had to be cancelled."""
        left: set[asyncio.Task[None]] = set()
        while self._tasks:
            _, left = await asyncio.wait(list(self._tasks.values()), timeout=max(0.0, until - time.monotonic()))
            if left:
                break
        self._parked.clear()
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
        return not left


class CoroutineJob:
    """One coroutine to run, in a context of its own."""

    __slots__ = ("_make", "cancelled", "context")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self.context = contextvars.copy_context()
        self.cancelled = False

    def run(self) -> Coroutine[Any, Any, None]:
        """Make the coroutine; it is made late, so that one that never starts is never left unawaited."""
        return self._make()


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

    def job(self, make: Callable[[], Coroutine[Any, Any, None]]) -> CoroutineJob:
        """Wrap what makes a coroutine, to be started and cancelled."""
        return CoroutineJob(make)

    def start(self, job: CoroutineJob) -> None:
        """Run a job's coroutine as soon as there is a slot."""
        self._started().start(job)

    start_here = start

    def cancel(self, job: CoroutineJob) -> None:
        """Cancel a job, started or not."""
        self._started().cancel(job)

    def _started(self) -> LoopTasks:
        with self._lock:
            if self._tasks is None:
                self._loop = asyncio.new_event_loop()
                self._tasks = LoopTasks(self._loop, self._slots)
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
