"""Operations that are due at fixed times, and what each takes from when it was due.

A caller that waits for each answer before it asks again hardly notices that everything stood still for a second: it
asks less. One that has a schedule does, as the users of a service do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["p99", "paced"]

_EVERY = 0.005
_PATIENCE = 30.0


def paced(start: Callable[[int], Future[Any]], seconds: float, every: float = _EVERY) -> list[float]:
    """Start operations for so many seconds; return how long each took, in seconds. What fails is raised."""
    taken: list[float] = []
    begin = time.monotonic()
    pause = threading.Event()
    futures = []
    for number in range(int(seconds / every)):
        due = begin + number * every
        pause.wait(max(0.0, due - time.monotonic()))
        future = start(number)
        future.add_done_callback(lambda _, due=due: taken.append(time.monotonic() - due))  # type: ignore[misc]
        futures.append(future)
    for future in futures:
        future.result(_PATIENCE)
    return taken


def p99(times: list[float]) -> float:
    """The time that 99 of 100 stayed below."""
    return sorted(times)[len(times) * 99 // 100]
