"""SIGSTOP and SIGCONT: a server that stands still looks like a slow one, until it goes on and finds old requests."""

from __future__ import annotations

import signal
import time
from concurrent.futures import wait

import messaging
from messaging import Delivered, ServerLost, rpc
from tests.faults.conftest import Stage
from tests.faults.history import History
from tests.faults.processes import Stall, until

TIMEOUT, RUNNING = 1.2, 0.8
"""Seconds until callers give up, and those of a handler that must not end before its process is stopped."""


def asked_while_stopped(stage: Stage, plant: str = "") -> tuple[History, float, dict[str, int]]:
    """Ask a server that stands still, give up, and let it go on 0.4 s later.

    Returns what happened, how long this process was stalled, and the counts of both sides.
    """
    worker = stage.service("a", plant=plant)
    transport = stage.transport()
    client = rpc.Client(transport, messaging.Target(topic="t"), timeout=TIMEOUT)
    with Stall() as stall:
        assert client.call(None, "name") == "a"
        futures = [stage.submit(client, TIMEOUT, "work", "running", seconds=RUNNING)]
        stage.effects(1)
        worker.signal(signal.SIGSTOP)
        futures += [stage.submit(client, TIMEOUT, "work", f"unseen-{number}") for number in range(20)]
        wait(futures, TIMEOUT + 5)
    goes_on = time.monotonic() + 0.4
    until(lambda: time.monotonic() > goes_on, "callers have given up for a while")
    worker.signal(signal.SIGCONT)
    # What lay there was read before these calls.
    for number in range(20):
        assert client.call(None, "echo", value=number) == number
    until(lambda: worker.ask("stats")["in_hand"] == 0, "the server has nothing in hand")
    return stage.history(), stall.worst, {**worker.ask("stats"), **transport.stats()}


def test_requests_that_lay_in_a_stopped_server_are_not_run(stage: Stage) -> None:
    """Callers end at their deadlines; when the server goes on it runs nothing that nobody waits for, and counts it, and
    the answer to what was running goes to nobody.
    """
    history, stalled, counts = asked_while_stopped(stage)
    assert history.ran_too_late() == []
    assert history.unended() == []
    assert history.told_wrong() == []
    assert history.late(stalled) == []
    assert history.outcomes() == {"info": 21}
    assert counts["call.expired"] == 21
    assert counts["server.expired"] == 20
    assert counts["server.undelivered_replies"] + counts["call.late_replies"] == 1


def test_an_answer_that_comes_too_late_goes_to_nobody(stage: Stage) -> None:
    """A server that stands still when its caller gives up answers when it goes on: the answer is counted, and the next
    callers get their own.
    """
    worker = stage.service("a")
    transport = stage.transport()
    client = rpc.Client(transport, messaging.Target(topic="t"), timeout=10)
    given_up = client.submit(None, "work", id="given-up", seconds=RUNNING)
    stage.effects(1)
    worker.signal(signal.SIGSTOP)
    assert given_up.cancel()
    waiting = [client.submit(None, "echo", value=number) for number in range(20)]
    worker.signal(signal.SIGCONT)
    assert [future.result(5) for future in waiting] == list(range(20))
    until(lambda: transport.stats()["call.late_replies"] == 1, "the answer that nobody waits for")


def test_a_server_that_ignores_the_budget_is_found(stage: Stage) -> None:
    """Planted: the server does not look at the budget. The history shows handlers that ran for nobody."""
    history, _, _ = asked_while_stopped(stage, plant="ignores_budget")
    assert len(history.ran_too_late()) == 20


def test_a_stalled_server_is_noticed_and_used_again_when_it_goes_on(stage: Stage) -> None:
    """With heartbeats every 0.4 s, callers of a server that stands still get ServerLost(MAYBE) long before their
    deadlines, and the server is called again after SIGCONT.
    """
    worker = stage.service("a", transport={"heartbeat": 0.4})
    transport = stage.transport(heartbeat=0.4)
    client = rpc.Client(transport, messaging.Target(topic="t"), timeout=10, wait_for_ready=True)
    held = client.submit(None, "hold", id="held", seconds=10)
    stage.effects(1)
    worker.signal(signal.SIGSTOP)
    with Stall() as stall:
        begun = time.monotonic()
        error = held.exception(10)
        took = time.monotonic() - begun
    assert isinstance(error, ServerLost)
    assert error.delivered is Delivered.MAYBE
    # Two heartbeats, and as long again for a machine that has other things to do.
    assert took < 1.6 + stall.worst
    worker.signal(signal.SIGCONT)
    assert client.call(None, "name") == "a"
