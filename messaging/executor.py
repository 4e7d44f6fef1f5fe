"""What runs handlers: a bounded pool of threads, or the owner itself; for coroutines see messaging.coroutines.

It knows nothing of messages: it runs functions that were handed over in batches and never lets an exception escape. A
pool of our own instead of concurrent.futures, because that makes a Future and takes two locks per job; here a batch is
one extend of a deque, and only as many sleepers are woken as there is work.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from messaging.errors import Closed

__all__ = ["Desk", "InlineExecutor", "Job", "ThreadExecutor"]

_log = logging.getLogger(__name__)

Job = Callable[[], None]

_QUICK = 0.001
"""Seconds that a quick job takes at most."""
_CONFIDENCE = 8
"""After so many quick jobs in a row the next one is expected to be quick as well."""


class Desk(Protocol):
    """Where jobs come from. A worker that is through with one fetches the next by itself, while jobs are quick and come
    one by one: that saves two switches of threads per job.
    """

    def invite(self) -> None:
        """A worker has got the only job, and will attend soon; called by whoever hands it over."""

    def attend(self, found: Callable[[], int], stay: bool) -> None:
        """Bring away what the last job has posted, and where `stay` is true wait a moment for the next one, until
        `found` counts any. Called by workers.
        """

    def employ(self, ident: int) -> None:
        """The thread of this ident attends after each of its jobs, from now on."""

    def dismiss(self, ident: int) -> None:
        """It does no more."""


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

    def __init__(self, slots: int, name: str, desk: Desk | None = None) -> None:
        self.slots = slots
        self._desk = desk
        self._quick = 0
        """Quick jobs in a row, about."""
        self._fetching: set[int] = set()
        """The workers that look for jobs next."""
        self._name = name
        self._jobs: deque[Job] = deque()
        self._sleepers: deque[Any] = deque()
        self._threads: list[threading.Thread] = []
        self._grow = threading.Lock()
        self._searching = False
        """Whether a thread was woken or started and has not looked for a job yet."""
        self._closed = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Run the jobs on the pool, in any order. Raises Closed."""
        if self._closed:
            raise Closed("the server was stopped")
        self._jobs.extend(jobs)
        if self._desk is not None and len(jobs) == 1:
            if get_ident() in self._fetching:
                return
            if self._quick >= _CONFIDENCE:
                self._desk.invite()
        self._wake_one()

    def _wake_one(self) -> None:
        # One thread at a time is on its way to the jobs. The one that takes a job while more wait wakes the next before
        # it starts, so jobs that block spread over the pool at once; quick ones are drained by a single thread, and do
        # not wake all the others for nothing (with 64 calls in flight that cost more than the calls themselves).
        if self._searching:
            return
        self._searching = True
        try:
            sleeper = self._sleepers.pop()
        except IndexError:
            if not self._start_thread():
                # All of them are busy, and look for jobs when they are done.
                self._searching = False
        else:
            sleeper.release()

    def _start_thread(self) -> bool:
        with self._grow:
            if len(self._threads) >= self.slots or self._closed:
                return False
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
        thread.start()
        return True

    def _work(self) -> None:
        ident = get_ident()
        desk = self._desk
        if desk is None:
            self._work_off(ident)
            return
        desk.employ(ident)
        try:
            self._work_off(ident)
        finally:
            desk.dismiss(ident)

    def _work_off(self, ident: int) -> None:
        jobs = self._jobs
        desk = self._desk
        clock = time.perf_counter
        sleepers = self._sleepers
        bell = allocate_lock()
        bell.acquire()
        searching = True
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                job = None
            if searching:
                # Before the next look at the jobs: whoever has posted one since then has relied on this search, or
                # finds that there is none.
                searching = self._searching = False
            if job is not None:
                if jobs:
                    self._wake_one()
                if desk is None:
                    _run(job)
                    continue
                begun = clock()
                _run(job)
                self._quick = self._quick + 1 if clock() - begun < _QUICK else 0
                self._fetching.add(ident)
                desk.attend(jobs.__len__, self._quick >= _CONFIDENCE and not jobs and not self._closed)
                self._fetching.discard(ident)
                continue
            if self._closed and not jobs:
                return
            # Lie down first, look again, then sleep: the reverse loses a job that comes in between.
            sleepers.append(bell)
            if jobs or self._closed:
                try:
                    sleepers.remove(bell)
                except ValueError:
                    # Somebody is ringing already.
                    bell.acquire()
                    searching = True
                continue
            bell.acquire()
            searching = True

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


def _run(job: Job) -> None:
    try:
        job()
    except Exception:
        # Jobs answer for their own errors; what arrives here is a bug in this library, and the worker has to live.
        _log.exception("a job failed")
