"""Callers who give up: by Ctrl-C in the main thread while other threads call as well, and by cancelling."""

from __future__ import annotations

import signal

from messaging import rpc
from messaging.target import Target
from tests.faults.conftest import Stage
from tests.faults.processes import until


def test_ctrl_c_ends_the_waiting_call_and_no_other_thread_notices(stage: Stage) -> None:
    """SIGINT raises KeyboardInterrupt out of the waiting call at once, its handler is told, and four other threads go
    on with their own answers.
    """
    service = stage.service("a")
    caller = stage.worker("caller", name="c", topic="t", interruptible=True)
    caller.expect("ready")
    caller.ask("start", threads=4)
    stage.effects(50)
    until(lambda: any(entry.id == "c-main" for entry in stage.entries("effect")), "the main thread's call is running")
    caller.signal(signal.SIGINT)
    caller.expect("interrupted", within=2)
    assert service.expect("cancelled", within=2)["id"] == "c-main"
    counts = caller.ask("counts")
    until(lambda: all(count > counts[name] + 20 for name, count in caller.ask("counts").items()), "the others go on")
    caller.ask("stop")
    until(lambda: caller.ask("stats").get("call.in_flight", 0) == 0, "all calls have ended")
    history = stage.history()
    assert history.failed() == []
    assert history.told_wrong() == []
    assert history.executed_twice() == []
    assert caller.ask("stats")["call.cancelled"] == 1


def test_a_request_that_is_cancelled_before_it_starts_never_does(stage: Stage) -> None:
    """One slot, taken by a handler that waits; a second request is cancelled while it waits for the slot. When the slot
    is free the second one is passed over and counted.
    """
    service = stage.service("a", options={"slots": 1})
    client = rpc.Client(stage.transport(), Target(topic="t"), timeout=10)
    running = client.submit(None, "hold", id="running", seconds=10)
    stage.effects(1)
    queued = client.submit(None, "work", id="queued")
    until(lambda: service.ask("stats")["in_hand"] == 2, "both are in hand")
    assert queued.cancel()
    assert running.cancel()
    assert service.expect("cancelled")["id"] == "running"
    until(lambda: service.ask("stats")["in_hand"] == 0, "nothing is in hand")
    assert [entry.id for entry in stage.entries("effect")] == ["running"]
    assert service.ask("stats")["server.expired"] == 1
