"""A bounded pool for what blocks inside client libraries: resolving a name, closing a library's handle.

Daemon threads, started at the first use: a resolver that hangs must not delay the exit of the process, as a pool of
concurrent.futures would, whose threads are joined there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Offload"]


class Offload:
    """Up to `size` threads that run functions in order. Thread-safe."""

    def __init__(self, size: int = 2) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._size = size
        self._may_start = size
        self._lock = threading.Lock()

    def run(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run a function; `done(result, error)` is called on the pool's thread."""

        def job() -> None:
            try:
                result = function()
            except BaseException as error:  # whatever it was, the driver has to hear of it
                done(None, error)
            else:
                done(result, None)

        with self._lock:
            if self._may_start:
                self._may_start -= 1
                threading.Thread(target=self._work, name="messaging-offload", daemon=True).start()
        self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end when they have run what was handed over; what is handed over later may not run."""
        with self._lock:
            started, self._may_start = self._size - self._may_start, 0
        for _ in range(started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
