"""Deploying: three servers are replaced one by one while callers call, and nobody notices."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from tests.faults.conftest import Stage
from tests.faults.history import History
from tests.faults.processes import Stall, until

TIMEOUT = 5.0
CALLERS = 6


def replaced_one_by_one(stage: Stage, background: Callable[..., Any], plant: str = "") -> tuple[History, float]:
    """Replace three servers by SIGTERM under load; returns what happened, and how long this process was stalled."""
    servers = [stage.service(f"s{number}", plant=plant, wait=False, grace=5) for number in range(3)]
    for server in servers:
        server.expect("ready")
    client = stage.client(timeout=TIMEOUT)
    stop = threading.Event()
    ended: list[str] = []

    def call(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            id = f"{thread}-{number}"
            stage.call(client, TIMEOUT, "work", id, seconds=0.005)
            ended.append(id)

    with Stall() as stall:
        callers = [background(call, thread) for thread in range(CALLERS)]
        try:
            for number, server in enumerate(servers):
                seen = len(ended)
                until(lambda: len(ended) > seen + 50, "calls are answered")  # noqa: B023
                server.signal(signal.SIGTERM)
                assert server.wait() == 0
                stage.service(f"s{number + 3}", grace=5)
        finally:
            stop.set()
        for caller in callers:
            caller.join(TIMEOUT + 5)
    return stage.history(), stall.worst


def test_a_rolling_restart_costs_no_call(stage: Stage, background: Callable[..., Any]) -> None:
    """Three servers drained and replaced under six callers: every call is answered, by one handler, in time."""
    history, stalled = replaced_one_by_one(stage, background)
    assert history.failed() == []
    assert history.executed_twice() == []
    assert history.told_wrong() == []
    assert history.unended() == []
    assert history.late(stalled) == []
    assert history.outcomes()["ok"] > 150


def test_a_server_that_does_not_drain_is_found(stage: Stage, background: Callable[..., Any]) -> None:
    """Planted: the servers end at SIGTERM with what they have in hand. Calls fail, and the history shows it."""
    history, _ = replaced_one_by_one(stage, background, plant="stops_without_draining")
    assert history.failed() != []
