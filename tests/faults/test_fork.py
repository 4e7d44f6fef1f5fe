"""Fork: in a process that has calls, a server and a listener under way, in every way that Python has, at any moment."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Stage
from tests.faults.processes import until


@pytest.mark.parametrize("how", ["os._exit", "sys.exit", "multiprocessing"])
def test_a_child_begins_anew_and_its_parent_does_not_notice(stage: Stage, how: str) -> None:
    """In a child, clients and notifiers connect anew and work, a server can be started, and the inherited server,
    listener and pending call raise Forked; it exits cleanly. The parent gets the answer to its pending call and goes on
    to serve, to listen and to call.
    """
    stage.service("a")
    parent = stage.worker("forker", name="parent")
    parent.expect("ready")
    parent.ask("start", threads=4)
    stage.effects(20)
    told = parent.ask("fork_and_use", how=how, child="child")
    assert told == {"wrong": "", "status": 0, "pending": "child-pending"}
    assert parent.ask("who") == "parent"
    until(lambda: any(entry.id == "child-event" for entry in stage.entries("effect")), "the parent heard the child")
    parent.ask("stop")
    until(lambda: parent.ask("stats").get("call.in_flight", 0) == 0, "all calls have ended")
    history = stage.history()
    assert history.failed() == []
    assert history.told_wrong() == []
    assert history.executed_twice() == []


def test_fifty_forks_at_random_moments(stage: Stage) -> None:
    """Fifty forks with eight calls under way: no child hangs, and no answer reaches another process or call."""
    stage.service("a")
    parent = stage.worker("forker", name="parent")
    parent.expect("ready")
    parent.ask("start", threads=8)
    assert parent.ask("fork_at_random", within=50, forks=50, seed=5) == []
    parent.ask("stop")
    until(lambda: parent.ask("stats").get("call.in_flight", 0) == 0, "all calls have ended")
    # A call has ended a moment before its thread writes that down.
    until(lambda: not stage.history().unended(), "the end of each call is written down")
    history = stage.history()
    assert history.failed() == []
    assert history.told_wrong() == []
    assert history.executed_twice() == []
    assert history.outcomes()["ok"] > 150


def test_a_child_does_not_wait_for_locks_of_threads_that_it_does_not_have(stage: Stage) -> None:
    """A fork at the moment in which another thread holds the lock of a pending Future: the child gets Forked from it
    and ends, the parent gets its answer.
    """
    stage.service("a")
    parent = stage.worker("forker", name="parent")
    parent.expect("ready")
    assert parent.ask("fork_while_locked") == {"status": 0, "pending": "pending"}


def test_a_transport_that_does_not_notice_forks_is_found(stage: Stage) -> None:
    """Planted: a child goes on with what it has inherited. Its calls do not come back, and it does not end well."""
    stage.service("a")
    parent = stage.worker("forker", plant="ignores_forks", name="parent", timeout=0.5)
    parent.expect("ready")
    parent.ask("start", threads=2)
    assert parent.ask("fork_at_random", forks=1, seed=5) == ["child 0 ended with 1"]
