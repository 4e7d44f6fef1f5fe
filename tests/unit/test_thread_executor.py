"""The pool of threads: every job runs, jobs that block run side by side, and quick ones do not wake everybody."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from messaging import Closed
from messaging.executor import ThreadExecutor

PATIENCE = 10.0


def test_jobs_that_block_run_side_by_side() -> None:
    """As many jobs as there are slots, handed over at once, all get a thread, though none ends before the others."""
    executor = ThreadExecutor(8, "test")
    meeting = threading.Barrier(8)
    met = threading.Semaphore(0)

    def job() -> None:
        meeting.wait(PATIENCE)
        met.release()

    for _ in range(3):
        executor.submit([job] * 8)
        assert all(met.acquire(timeout=PATIENCE) for _ in range(8))
    assert executor.close(time.monotonic() + PATIENCE)


def test_no_job_is_forgotten_whoever_hands_it_over() -> None:
    """Three threads hand over jobs of all lengths, in batches of all sizes; each job runs exactly once."""
    executor = ThreadExecutor(4, "test")
    ran: Counter[int] = Counter()
    lock = threading.Lock()
    done = threading.Event()
    pause = threading.Event()
    total = 3 * 400

    def job(number: int) -> None:
        if number % 7 == 0:
            pause.wait(0.001)
        with lock:
            ran[number] += 1
            if len(ran) == total:
                done.set()

    def post(base: int) -> None:
        chooser = random.Random(base)
        numbers = list(range(base, base + 400))
        while numbers:
            size = chooser.randint(1, 9)
            batch, numbers = numbers[:size], numbers[size:]
            executor.submit([lambda number=number: job(number) for number in batch])  # type: ignore[misc]
            if chooser.random() < 0.2:
                pause.wait(0.0005)

    posters = [threading.Thread(target=post, args=(base * 1000,)) for base in range(3)]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join(PATIENCE)
    assert done.wait(PATIENCE), f"{total - len(ran)} jobs never ran"
    assert set(ran.values()) == {1}
    assert executor.close(time.monotonic() + PATIENCE)


def test_quick_jobs_do_not_start_the_whole_pool() -> None:
    """A batch of quick jobs is drained by few threads, however large the pool is."""
    executor = ThreadExecutor(32, "test")
    done = threading.Semaphore(0)
    used = set()

    def job() -> None:
        used.add(threading.get_ident())
        done.release()

    executor.submit([job] * 200)
    assert all(done.acquire(timeout=PATIENCE) for _ in range(200))
    assert len(used) < 16
    assert executor.close(time.monotonic() + PATIENCE)


def test_close_lets_what_was_handed_over_end_and_refuses_more() -> None:
    """Closing runs what is queued, waits for it, and refuses new jobs with Closed."""
    executor = ThreadExecutor(2, "test")
    ran: list[int] = []
    gate = threading.Event()

    def wait() -> None:
        gate.wait(PATIENCE)

    executor.submit([wait, lambda: ran.append(1), lambda: ran.append(2)])
    gate.set()
    assert executor.close(time.monotonic() + PATIENCE)
    assert sorted(ran) == [1, 2]
    with pytest.raises(Closed):
        executor.submit([lambda: None])


def test_close_is_bounded_by_its_time() -> None:
    """A job that does not end in time is left behind, and close says so."""
    executor = ThreadExecutor(1, "test")
    gate = threading.Event()

    def wait() -> None:
        gate.wait(PATIENCE)

    executor.submit([wait])
    begun = time.monotonic()
    assert not executor.close(begun + 0.1)
    assert time.monotonic() - begun < 2.0
    gate.set()
