"""More than a server can take: what it refuses goes to another one, or comes back as proven not done."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait

from messaging import rpc
from tests.faults.conftest import Stage
from tests.faults.history import History
from tests.faults.processes import Stall, until

TIMEOUT = 1.5
SMALL = {"slots": 1, "inbox": 4}


def flooded(stage: Stage, servers: set[str], number: int, seconds: float) -> tuple[History, float]:
    """Make so many calls at once, each of which takes so long; returns what happened and how long this was stalled."""
    client: rpc.Client = stage.client(timeout=TIMEOUT)
    until(lambda: {client.call(None, "name") for _ in servers} == servers, "all servers are connected")
    with Stall() as stall:
        futures = [stage.submit(client, TIMEOUT, "work", f"id-{count}", seconds=seconds) for count in range(number)]
        wait(futures, TIMEOUT + 5)
    return stage.history(), stall.worst


def test_what_a_busy_server_refuses_is_told_as_not_done(stage: Stage) -> None:
    """A server with one slot and an inbox of four gets 40 calls of 0.2 s: some are answered, the rest end in time, and
    what is said not to have run has not.
    """
    service = stage.service("a", options=SMALL)
    history, stalled = flooded(stage, {"a"}, 40, 0.2)
    assert history.unended() == []
    assert history.told_wrong() == []
    assert history.executed_twice() == []
    assert history.late(stalled) == []
    outcomes = history.outcomes()
    assert outcomes["ok"] >= 4
    assert outcomes["fail"] > 20
    errors = Counter(str(entry.detail).partition(":")[0] for entry in stage.entries("fail"))
    assert set(errors) <= {"Overloaded", "DeadlineExceeded"}
    assert errors["Overloaded"] > 0
    counts = service.ask("stats")
    assert counts["server.busy"] + counts["driver.busy"] > 0


def test_what_a_busy_server_refuses_is_done_by_another_one(stage: Stage) -> None:
    """The same load on a small server and on a large one: every call is answered, by the large one if need be."""
    small = stage.service("small", options=SMALL)
    stage.service("large", options={"slots": 32})
    history, _ = flooded(stage, {"small", "large"}, 40, 0.2)
    assert history.failed() == []
    assert history.executed_twice() == []
    counts = small.ask("stats")
    assert counts["server.busy"] + counts["driver.busy"] > 0


def test_a_server_that_refuses_and_runs_is_found(stage: Stage) -> None:
    """Planted: servers answer BUSY and run the request nevertheless. The history shows calls that ran twice, or were
    said not to have run.
    """
    for name in ("a", "b"):
        stage.service(name, plant="refuses_but_runs")
    history, _ = flooded(stage, {"a", "b"}, 10, 0.1)
    assert history.executed_twice() + history.told_wrong() != []
