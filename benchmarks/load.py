"""The loops that are timed: what a client process does for one row in one round. They know no subject and no process.

Each returns raw figures of that one round; medians are taken by whoever asked. Loads with an open end run for a
number of seconds, because subjects differ by a factor of fifty; bursts of one-way messages have a count, because
their servers must know when the last one is there.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

from benchmarks.subject import AsyncClient, Client

Figures = dict[str, float]

THREADS = 16
TASKS = 64


class Tally:
    """Counts what a server handled, from any thread, and notes when the last expected message was there."""

    def __init__(self) -> None:
        self._next: Callable[[], int] = itertools.count().__next__
        self._last = -1
        self._done = threading.Event()
        self._at = 0.0

    def expect(self, count: int) -> None:
        """Start counting from nothing; nothing may be under way."""
        self._done.clear()
        self._last = count - 1
        self._next = itertools.count().__next__

    def handled(self) -> None:
        """Count one message. Taking the next number is one step of C code: no lock is needed."""
        if self._next() == self._last:
            self._at = time.monotonic()
            self._done.set()

    def wait(self, timeout: float) -> Figures:
        """Wait for the last expected message; TimeoutError says how many were missing."""
        if not self._done.wait(timeout):
            raise TimeoutError(
                f"{self._last + 1 - self._next()} of {self._last + 1} messages did not arrive in {timeout} s"
            )
        return {"at": self._at}


def sequential(client: Client, payload: bytes, seconds: float) -> Figures:
    """One caller, one call after the other."""
    call = client.caller()
    _check(call(payload), payload)
    clock, times = time.perf_counter_ns, list[int]()
    start = now = clock()
    end = start + int(seconds * 1e9)
    while now < end:
        before = now
        call(payload)
        now = clock()
        times.append(now - before)
    return _latencies(times, now - start)


async def sequential_async(client: AsyncClient, payload: bytes, seconds: float) -> Figures:
    """One caller, one call after the other."""
    _check(await client.call(payload), payload)
    clock, times = time.perf_counter_ns, list[int]()
    start = now = clock()
    end = start + int(seconds * 1e9)
    while now < end:
        before = now
        await client.call(payload)
        now = clock()
        times.append(now - before)
    return _latencies(times, now - start)


def threads(client: Client, payload: bytes, seconds: float) -> Figures:
    """Sixteen threads, each one call after the other."""
    clock, counts, ends, failures = time.perf_counter, list[int](), list[float](), list[BaseException]()
    deadline = start = 0.0

    def set_off() -> None:
        nonlocal start, deadline
        start = clock()
        deadline = start + seconds

    barrier = threading.Barrier(THREADS, action=set_off)

    def run() -> None:
        try:
            call = client.caller()
            _check(call(payload), payload)
            barrier.wait()
            count = 0
            while not count or clock() < deadline:
                call(payload)
                count += 1
            counts.append(count)
            ends.append(clock())
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    callers = [threading.Thread(target=run) for _ in range(THREADS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    return _rate(sum(counts), max(ends) - start)


async def tasks(client: AsyncClient, payload: bytes, seconds: float) -> Figures:
    """Sixty-four calls in flight on one event loop, each followed by the next."""
    clock = time.perf_counter
    _check(await client.call(payload), payload)
    start = clock()
    deadline = start + seconds

    async def run() -> int:
        count = 0
        while clock() < deadline:
            await client.call(payload)
            count += 1
        return count

    counts = await asyncio.gather(*(run() for _ in range(TASKS)))
    return _rate(sum(counts), clock() - start)


async def in_flight(client: AsyncClient, payload: bytes, count: int) -> Figures:
    """Start this many calls before the first answer is read; each must get its own answer."""

    async def run(number: int) -> bool:
        question = b"%d " % number + payload
        return await client.call(question) == question

    start = time.perf_counter()
    own = await asyncio.gather(*(run(number) for number in range(count)))
    figures = _rate(count, time.perf_counter() - start)
    if not all(own):
        raise ValueError(f"{own.count(False)} of {count} calls got an answer that was not theirs")
    return figures


def burst(send: Callable[[bytes, int], None], payload: bytes, count: int) -> Figures:
    """Send a number of one-way messages; when they were handled is the servers' business."""
    start = time.monotonic()
    send(payload, count)
    return {"start": start, "sent": time.monotonic()}


async def burst_async(client: AsyncClient, kind: str, payload: bytes, count: int) -> Figures:
    """Send a number of one-way messages; when they were handled is the servers' business."""
    start = time.monotonic()
    await (client.fanout if kind == "fanout" else client.cast)(payload, count)
    return {"start": start, "sent": time.monotonic()}


def _check(answer: bytes, payload: bytes) -> None:
    if answer != payload:
        raise ValueError(f"the echo of {payload[:20]!r}… is {answer[:20]!r}…")


def _latencies(times: list[int], elapsed_ns: int) -> Figures:
    times.sort()
    return {
        **_rate(len(times), elapsed_ns / 1e9),
        "p50_us": times[len(times) // 2] / 1e3,
        "p99_us": times[len(times) * 99 // 100] / 1e3,
    }


def _rate(count: int, seconds: float) -> Figures:
    return {"count": count, "per_s": count / seconds}
