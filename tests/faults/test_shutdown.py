"""SIGTERM and SIGINT to a service under messaging.run, while it is busy."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future
from typing import Any

import pytest

from messaging import MessagingError, NoRoute, ServerLost
from tests.faults.conftest import Stage
from tests.faults.processes import Stall, Worker


def busy(stage: Stage, operation: str, seconds: float, grace: float) -> tuple[Worker, Future[Any]]:
    """A service with a call in its hands."""
    worker = stage.service("a", grace=grace)
    client = stage.client(timeout=10)
    future = stage.submit(client, 10, operation, "busy", seconds=seconds)
    stage.effects(1)
    return worker, future


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(stage: Stage, number: signal.Signals) -> None:
    """What runs is finished and answered, nobody new is taken, the record goes, and the process ends with 0."""
    worker, future = busy(stage, "work", 2.0, grace=10)
    worker.signal(number)
    worker.expect("stopping")
    with pytest.raises(NoRoute):
        stage.client(timeout=5).call(None, "name")
    assert not future.done()
    assert future.result(20) == "busy"
    assert worker.expect("ran") == {"event": "ran", "clean": True}
    assert worker.wait() == 0
    assert list(stage.records.glob("*.record")) == []
    assert stage.history().failed() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_aborts(stage: Stage, number: signal.Signals, status: int) -> None:
    """The second signal ends the process at once, with the status that a shell gives to that signal; the caller gets
    ServerLost.
    """
    worker, future = busy(stage, "work", 20, grace=25)
    worker.signal(number)
    worker.expect("stopping")
    with Stall() as stall:
        begun = time.monotonic()
        worker.signal(number)
        assert worker.wait() == status
        took = time.monotonic() - begun
    assert took < 1.0 + stall.worst
    assert isinstance(future.exception(20), ServerLost)


def test_draining_is_bounded(stage: Stage) -> None:
    """A handler that takes longer than the grace is told that nobody waits, the service ends as not clean, and in
    time; the caller is told that the outcome is in doubt.
    """
    worker, future = busy(stage, "hold", 20, grace=0.5)
    with Stall() as stall:
        begun = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.expect("cancelled")["id"] == "busy"
        assert worker.expect("ran")["clean"] is False
        assert worker.wait() == 0
        took = time.monotonic() - begun
    # The grace, closing the transport, and the end of an interpreter.
    assert took < 2.5 + stall.worst
    error = future.exception(20)
    assert error is None or isinstance(error, MessagingError)
    assert stage.history().told_wrong() == []
