"""What runs handlers: every job once, on no more threads than slots, nothing forgotten while threads sleep, and an end
that is bounded.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable

import pytest

from messaging.errors import Closed
from messaging.executor import InlineExecutor, Job, ThreadExecutor

PATIENCE = 10.0


class Count:
    """Counts what has run, and tells when enough has."""

    def __init__(self, enough: int) -> None:
        self._lock = threading.Lock()
        self._enough = enough
        self.ran = 0
        self.threads: set[int] = set()
        self.reached = threading.Event()

    def __call__(self) -> None:
        with self._lock:
            self.ran += 1
            self.threads.add(threading.get_ident())
            if self.ran == self._enough:
                self.reached.set()


def job(*steps: Callable[[], object]) -> Job:
    """One job of several steps, whose results mean nothing."""

    def run() -> None:
        for step in steps:
            step()

    return run


def test_inline_jobs_run_at_once_in_their_order() -> None:
    """On the thread that hands them over, also after one that raised; there is nothing to close."""
    ran: list[int] = []
    executor = InlineExecutor()
    executor.submit([job(lambda: ran.append(1)), job(lambda: 1 // 0), job(lambda: ran.append(2))])
    assert ran == [1, 2]
    assert executor.close(0.0)


def test_every_job_runs_once() -> None:
    """Batches from four threads, with pauses in which the pool falls asleep: none is lost, none runs twice."""
    executor = ThreadExecutor(4, "test")
    count = Count(4 * 300 * 3)
    chance = random.Random(3)

    def post(pauses: list[float]) -> None:
        pause = threading.Event()
        for seconds in pauses:
            executor.submit([count, count, count])
            if seconds:
                pause.wait(seconds)

    posters = [
        threading.Thread(target=post, args=([chance.choice((0, 0, 0, 0.0002, 0.001)) for _ in range(300)],))
        for _ in range(4)
    ]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join(PATIENCE)
    assert count.reached.wait(PATIENCE)
    assert executor.close(time.monotonic() + PATIENCE)
    assert count.ran == 3600
    assert len(count.threads) <= 4


def test_jobs_that_wait_for_each_other_get_as_many_threads_as_there_are_slots() -> None:
    """Eight jobs of one batch meet, which they can only while all run; a ninth waits for a slot."""
    executor = ThreadExecutor(8, "test")
    meeting = threading.Barrier(9)
    ninth = threading.Event()
    executor.submit([job(lambda: meeting.wait(PATIENCE)) for _ in range(8)])
    executor.submit([ninth.set])
    assert not ninth.wait(0.05)
    meeting.wait(PATIENCE)
    assert ninth.wait(PATIENCE)
    assert executor.close(time.monotonic() + PATIENCE)


def test_a_busy_pool_takes_up_what_waits() -> None:
    """With one slot jobs run one after the other, in their order, however they were handed over."""
    executor = ThreadExecutor(1, "test")
    ran: list[int] = []
    done = threading.Event()
    executor.submit([job(functools.partial(ran.append, number)) for number in range(10)])
    for number in range(10, 20):
        executor.submit([job(functools.partial(ran.append, number))])
    executor.submit([done.set])
    assert done.wait(PATIENCE)
    assert ran == list(range(20))
    assert executor.close(time.monotonic() + PATIENCE)


def test_quick_jobs_one_by_one_use_one_thread() -> None:
    """A pool does not grow while a thread of it sleeps."""
    executor = ThreadExecutor(32, "test")
    threads: set[int] = set()
    for _ in range(50):
        done = threading.Event()
        executor.submit([job(lambda: threads.add(threading.get_ident()), done.set)])
        assert done.wait(PATIENCE)
    # The thread may not have lain down yet when the next job comes.
    assert len(threads) <= 2
    assert executor.close(time.monotonic() + PATIENCE)


def test_a_job_that_raises_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and its thread goes on."""
    executor = ThreadExecutor(1, "test")
    count = Count(1)
    executor.submit([job(lambda: 1 // 0), count])
    assert count.reached.wait(PATIENCE)
    assert "a job failed" in caplog.text
    assert executor.close(time.monotonic() + PATIENCE)


def test_close_lets_end_what_runs_and_what_waits() -> None:
    """Everything that was handed over before is done when close returns, and nothing is taken after."""
    executor = ThreadExecutor(2, "test")
    count = Count(50)
    pause = threading.Event()
    executor.submit([job(lambda: pause.wait(0.002), count) for _ in range(50)])
    assert executor.close(time.monotonic() + PATIENCE)
    assert count.ran == 50
    with pytest.raises(Closed):
        executor.submit([count])
    assert executor.close(time.monotonic())


def test_close_is_bounded() -> None:
    """A job that does not end makes close say so at its time, and not wait for it."""
    executor = ThreadExecutor(2, "test")
    release, running = threading.Event(), threading.Event()
    executor.submit([job(running.set, lambda: release.wait(PATIENCE))])
    assert running.wait(PATIENCE)
    begun = time.monotonic()
    assert not executor.close(begun + 0.1)
    assert 0.1 <= time.monotonic() - begun < PATIENCE / 2
    release.set()
    assert executor.close(time.monotonic() + PATIENCE)


def test_a_job_may_close_its_own_pool() -> None:
    """It does not wait for itself."""
    executor = ThreadExecutor(2, "test")
    closed: list[bool] = []
    done = threading.Event()
    executor.submit([job(lambda: closed.append(executor.close(time.monotonic() + PATIENCE)), done.set)])
    assert done.wait(PATIENCE)
    assert closed == [True]


def test_an_idle_pool_has_no_threads() -> None:
    """They are started by the first job, not before."""
    executor = ThreadExecutor(8, "nobody has this name")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nobody has this name")]
    assert executor.close(time.monotonic())
