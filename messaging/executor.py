"""What runs handlers: a bounded pool of threads, the owner itself, or one loop for coroutines.

It knows nothing of messages: it runs functions that were handed over in batches and never lets an exception escape. A
pool of our own instead of concurrent.futures, because that makes a Future and takes two locks per job; here a batch is
one extend of a deque, and only as many sleepers are woken as there is work.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from messaging.errors import Closed

__all__ = ["CoroutineJob", "CoroutineRunner", "InlineExecutor", "Job", "LoopTasks", "ThreadExecutor"]

_log = logging.getLogger(__name__)

Job = Callable[[], None]


class InlineExecutor:
    """Runs each job at once, on the thread that hands it over: the connection's owner. For handlers that are quick and
    never wait.
    """

    slots = 1

    def submit(self, jobs: Iterable[Job]) -> None:
        """Run the jobs, one after the other."""
        for job in jobs:
            _run(job)

    def close(self, until: float) -> bool:
        """Nothing runs between two calls, so there is nothing to wait for."""
        return True


class ThreadExecutor:
    """Up to `slots` threads, started when they are first needed, kept until close. Thread-safe."""

    def __init__(self, slots: int, name: str) -> None:
        self.slots = slots
        self._name = name
        self._jobs: deque[Job] = deque()
        self._sleepers: deque[Any] = deque()
        self._threads: list[threading.Thread] = []
        self._grow = threading.Lock()
        self._closed = False

    def submit(self, jobs: Iterable[Job]) -> None:
        """Run the jobs on the pool, in any order. Raises Closed."""
        if self._closed:
            raise Closed("the server was stopped")
        self._jobs.extend(jobs)
        self._wake_one()

    def _wake_one(self) -> None:
        # Wakes at most one thread: a worker that takes a job while more wait wakes the next one before it starts. Jobs
        # that block thus spread over the pool at once, and quick ones are drained by a single thread without switching.
        try:
            sleeper = self._sleepers.pop()
        except IndexError:
            if len(self._threads) < self.slots:
                self._start_thread()
        else:
            sleeper.release()

    def _start_thread(self) -> None:
        with self._grow:
            if len(self._threads) >= self.slots or self._closed:
                return
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        jobs = self._jobs
        sleepers = self._sleepers
        bell = allocate_lock()
        bell.acquire()
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                if self._closed:
                    return
                # Lie down first, look again, then sleep: the reverse loses a job that comes in between.
                sleepers.append(bell)
                if jobs or self._closed:
                    try:
                        sleepers.remove(bell)
                    except ValueError:
                        # Somebody is ringing already.
                        bell.acquire()
                    continue
                bell.acquire()
                continue
            if jobs:
                self._wake_one()
            _run(job)

    def close(self, until: float) -> bool:
        """Refuse new jobs, let the running ones end, and wait for that until the monotonic time `until`; True when all
        ended.
        """
        self._closed = True
        while self._sleepers:
            try:
                self._sleepers.pop().release()
            except IndexError:
                break
        me = threading.current_thread()
        for thread in self._threads:
            if thread is not me:
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads if thread is not me)


class LoopTasks:
    """Coroutines on one event loop, at most `slots` at a time; the others wait in order. `start` is thread-safe, `end`
    is not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: int) -> None:
        self._loop = loop
        self._slots = slots
        self._parked: deque[CoroutineJob] = deque()
        self._tasks: dict[CoroutineJob, asyncio.Task[None]] = {}

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

    def start(self, job: CoroutineJob) -> None:
        """Run a job's coroutine as soon as there is a slot."""
        self._started().start(job)

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


def _run(job: Job) -> None:
    try:
        job()
    except Exception:
        # Jobs answer for their own errors; what arrives here is a bug in this library, and the worker has to live.
        _log.exception("a job failed")
