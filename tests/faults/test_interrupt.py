"""Ctrl-C in a process that waits for an answer in its main thread, while others of its threads call as well."""

from __future__ import annotations

import signal

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
