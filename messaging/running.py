"""Running a service until it is told to stop: SIGTERM and SIGINT drain, a second one aborts.

It knows services only by `start`, `stop` and what `str()` calls them, so servers and listeners, and whatever else has
the three, run side by side. What it does is logged at INFO: whoever watches a service start and end wants to see it.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from _thread import allocate_lock
from types import FrameType
from typing import Any, Protocol

from messaging.errors import StateError

__all__ = ["Service", "run"]

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service(Protocol):
    """What `run` needs: rpc.Server, notify.Listener and notify.BatchListener have it."""

    def start(self) -> None:
        """Return when peers can reach it."""

    def stop(self, grace: float) -> bool:
        """Drain within `grace` seconds; True when all ended in time."""


def run(*services: Service, grace: float = 25.0) -> bool:
    """Start services in order, wait for SIGTERM or SIGINT, and stop them in reverse order within `grace` seconds
    altogether.

    A second signal ends the process at once, with the exit status that the shell gives to that signal. Returns True
    when everything drained in time. Call it from the main thread, the only one that Python lets handle signals:
    StateError elsewhere.
    """
    bell = allocate_lock()
    bell.acquire()
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(128 + number)
        # A raw lock: an Event takes a lock that this very thread may hold at this moment.
        bell.release()

    previous: dict[signal.Signals, Any] = {}
    try:
        for number in _SIGNALS:
            previous[number] = signal.signal(number, handle)
    except ValueError:
        raise StateError("messaging.run works in the main thread only; elsewhere use start() and stop()") from None
    started: list[Service] = []
    try:
        for service in services:
            if received:
                break
            service.start()
            started.append(service)
            _log.info("%s can be reached", service)
        if not received:
            bell.acquire()
        _log.info("%s received: draining within %g s", signal.Signals(received[0]).name, grace)
    finally:
        until = time.monotonic() + grace
        clean = True
        for service in reversed(started):
            drained = service.stop(max(0.0, until - time.monotonic()))
            _log.info("%s has stopped%s", service, "" if drained else ", but not all it had in hand ended in time")
            clean = drained and clean
        for number, handler in previous.items():
            signal.signal(number, handler)
    return clean
