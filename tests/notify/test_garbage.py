"""What notifications leave behind when they are over: nothing.

A circle that leads through objects which the garbage collector does not see is never freed, so it is memory that is
counted here, and not what the collector finds.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from messaging import MessagingError, Target, Transport, notify
from tests.notify.rig import LONG, TARGETS, TOPIC, until

MANY = 200
NOBODY = "nobody"


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


def sent(notifier: notify.Notifier) -> None:
    """Send one and wait."""
    notifier.info(None, "e", 1)


def submitted(notifier: notify.Notifier) -> None:
    """Send one and wait for its Future."""
    notifier.submit("info", None, "e", 1).result()


def piped(notifier: notify.Notifier) -> None:
    """Send one in a pipeline of its own."""
    with notifier.pipeline() as pipeline:
        pipeline.info(None, "e", 1)


@pytest.mark.parametrize("way", [sent, submitted, piped])
@pytest.mark.parametrize("topic", [TOPIC, NOBODY])
def test_senders_leave_nothing(transport: Transport, way: Callable[[notify.Notifier], None], topic: str) -> None:
    """Of notifications that were taken, and of those that were refused, nothing stays in memory."""
    endpoint = Forgetting()
    # What a pipeline keeps of itself, it keeps until then.
    notifier = notify.Notifier(transport, topics=[topic], timeout=1.0)

    def send() -> None:
        with contextlib.suppress(MessagingError, ExceptionGroup):
            way(notifier)
        assert topic == NOBODY or endpoint.came.acquire(timeout=LONG)

    with notify.Listener(transport, TARGETS, [endpoint]):
        leaves_nothing(send)


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
