"""Listeners that have just come, and listeners that stand still."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future
from typing import Any

import pytest

from messaging import MessagingError, notify, rpc
from messaging.target import Target
from tests.faults.conftest import Stage
from tests.faults.processes import Stall, Worker, until

TIMEOUT = 1.0


def listening(stage: Stage, name: str, pool: str) -> Worker:
    """A process that listens."""
    worker = stage.worker("listener", name=name, topic="events", pool=pool, transport={"heartbeat": 0.4})
    worker.expect("ready")
    return worker


def heard(stage: Stage, name: str) -> list[str]:
    """The ids that a listener has written down."""
    return [entry.id for entry in stage.entries("effect") if entry.process == name]


def test_what_is_sent_right_after_a_start_reaches_who_has_started(stage: Stage) -> None:
    """Five pools come one by one: each gets every notification that is sent after its start() returned, and a fanout
    reaches every server that has started.
    """
    transport = stage.transport()
    notifier = notify.Notifier(transport, "test", topics=["events"], timeout=5)
    client = rpc.Client(transport, Target(topic="t"), timeout=5)
    for number in range(5):
        listening(stage, f"pool{number}", f"pool{number}")
        notifier.info(None, "x", {"id": f"event-{number}"})
        stage.service(f"s{number}")
        assert client.fanout(None, "work", id=f"fanout-{number}") == (number + 1, 0)
    for number in range(5):
        expected = [f"event-{later}" for later in range(number, 5)]
        until(lambda: heard(stage, f"pool{number}") == expected, "all that was sent after its start")  # noqa: B023
        fanned = [f"fanout-{later}" for later in range(number, 5)]
        until(lambda: heard(stage, f"s{number}") == fanned, "all that was fanned out after its start")  # noqa: B023


@pytest.mark.parametrize("long", [False, True], ids=["shorter than the heartbeats", "longer"])
def test_a_listener_that_stands_still_harms_no_other_pool(stage: Stage, long: bool) -> None:
    """One of two pools is stopped by SIGSTOP while 200 notifications are sent: the other one gets each of them once,
    and whoever sent them is told in time that not every pool has them. When it goes on it is served again.
    """
    stuck, other = listening(stage, "stuck", "stuck"), listening(stage, "other", "other")
    transport = stage.transport(heartbeat=0.4, send_hwm=10)
    notifier = notify.Notifier(transport, "test", topics=["events"], timeout=TIMEOUT)
    notifier.info(None, "x", {"id": "before"})
    stuck.signal(signal.SIGSTOP)
    futures: list[tuple[float, Future[Any]]] = []
    took: list[float] = []
    with Stall() as stall:
        for number in range(200):
            begun = time.monotonic()
            future = notifier.submit("info", None, "x", {"id": f"event-{number}", "ballast": "x" * 10_000})
            future.add_done_callback(lambda _, begun=begun: took.append(time.monotonic() - begun))  # type: ignore[misc]
            futures.append((begun, future))
        if not long:
            until(lambda: len(heard(stage, "other")) == 201, "the other pool has everything")
            stuck.signal(signal.SIGCONT)
        errors = [future.exception(TIMEOUT + 5) for _, future in futures]
    until(lambda: len(heard(stage, "other")) >= 201, "the other pool has everything")
    assert sorted(heard(stage, "other")) == sorted(["before", *(f"event-{number}" for number in range(200))])
    assert max(took) <= TIMEOUT + 0.1 + stall.worst
    if long:
        assert all(isinstance(error, MessagingError) for error in errors)
        stuck.signal(signal.SIGCONT)
    assert other.alive
    # One that failed may have reached a pool all the same, so each has a name of its own.
    after = until(lambda: _sent(notifier, f"after-{time.monotonic()}"), "both pools are served")
    until(lambda: after in heard(stage, "stuck"), "the stopped one is served again")
    ids = heard(stage, "stuck")
    assert len(ids) == len(set(ids)), "nothing came twice"


def _sent(notifier: notify.Notifier, id: str) -> str:
    """Send a notification; returns its name, or nothing where somebody may not have it."""
    try:
        notifier.info(None, "x", {"id": id})
    except MessagingError:
        return ""
    return id
