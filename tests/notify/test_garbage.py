"""What notifications leave behind when they are over: nothing.

A circle that leads through objects which the garbage collector does not see is never freed, so it is memory that is
counted here, and not what the collector finds.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from messaging import Target, Transport, notify
from tests.notify.rig import LONG, TARGETS, until

MANY = 200


class Forgetting:
    """An endpoint that keeps nothing, but says when something has come."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)

    @notify.on("*")
    def take(self, event: notify.Event[Any]) -> None:
        """Let it go."""
        self.came.release()


class Refusing:
    """An endpoint that wants nothing."""

    @notify.on("*")
    def take(self, event: notify.Event[Any]) -> None:
        """Refuse it."""
        raise notify.Reject("of no use")


def leaves_nothing(act: Callable[[], object]) -> None:
    """Assert that less than one block of memory stays allocated for each operation, when the last are over."""
    for _ in range(MANY // 10):
        act()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(MANY):
        act()

    def freed() -> bool:
        gc.collect()
        return sys.getallocatedblocks() - before < MANY

    until(freed)


def test_log_records_leave_nothing(transport: Transport) -> None:
    """Of log records that were sent nothing stays in memory."""
    endpoint = Forgetting()
    record = logging.makeLogRecord({"msg": "sent", "levelno": logging.INFO})
    handler = notify.LogHandler(transport)

    def log() -> None:
        handler.emit(record)
        assert endpoint.came.acquire(timeout=LONG)

    with notify.Listener(transport, TARGETS, [endpoint]):
        leaves_nothing(log)


def test_letters_leave_nothing(transport: Transport) -> None:
    """Of dead letters that a notifier has buried nothing stays in memory."""
    grave = Forgetting()
    notifier = notify.Notifier(transport)

    def bury() -> None:
        notifier.info(None, "e", 1)
        assert grave.came.acquire(timeout=LONG)

    with (
        notify.Listener(transport, TARGETS, [Refusing()], dead_letter=notifier.prepare(topics=["graves"])),
        notify.Listener(transport, [Target(topic="graves")], [grave]),
    ):
        leaves_nothing(bury)
