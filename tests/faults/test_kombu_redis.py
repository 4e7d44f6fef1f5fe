"""kombu+redis:// when processes are killed, when redis is, and when it stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Redis
from tests.faults.deaths import listeners_killed
from tests.faults.fleet import Fleet
from tests.faults.processes import Stall, until

SCHEME = "kombu+redis"
BUGS = ("settles_on_receipt", "pops_before_noting")
TIMEOUT = 3.0
QUICK = {"visibility_timeout": 1.0, "heartbeat": 1.0, "socket_timeout": 1.0}
"""What was held by the killed comes again soon enough for a test."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A redis that writes down everything before it answers."""
    with Redis(tmp_path_factory.mktemp("redis"), durable=True) as made:
        yield made


@pytest.mark.parametrize(
    ("kills", "number"),
    [(2, 600), pytest.param(50, 20_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_no_notification_is_lost_with_its_listener(tmp_path: Path, server: Redis, kills: int, number: int) -> None:
    """At least once: what a killed listener had not finished is handled by another. Planted: settled on receipt, or
    taken without being noted down, what it had in hand is lost.
    """
    fleets = {
        name: Fleet(tmp_path / name, server, SCHEME, plant="" if name == SCHEME else name, transport=QUICK)
        for name in (SCHEME, *BUGS)
    }
    histories = listeners_killed(fleets, kills, number, patience=30.0)
    sound = histories[SCHEME]
    assert sound.lost("notify", ["a"]) == []
    assert sound.failed() == []
    assert len(sound.effects) == number
    for bug in BUGS:
        assert len(histories[bug].lost("notify", ["a"])) >= kills, bug


@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_redis_may_go_and_come_back_under_load(tmp_path: Path, server: Redis, fault: str) -> None:
    """Killed, or stopped for three seconds, while calls, casts and notifications run: none that was confirmed is lost,
    what is told is true, nobody waits past his deadline, and everybody goes on by himself. Planted: who comes back and
    hears nothing more is found by what he does not get.
    """
    bug = "deaf_after_a_loss"
    fleets: dict[str, Fleet] = {}
    with Stall() as stall:
        try:
            for name, threads in ((SCHEME, 3), (bug, 1)):
                plant = "" if name == SCHEME else name
                fleets[name] = fleet = Fleet(tmp_path / name, server, SCHEME, plant=plant, transport=QUICK)
                fleet.receiver("a", pool="a")
                fleet.receiver("b", pool="b", serves=False)
                fleet.sender(timeout=TIMEOUT)
                fleet.ready()
                fleet.load.ask("start", every=0.02, notify=threads, work=threads, cast=1, fanout=1)
            for fleet in fleets.values():
                fleet.wait_for(100, "a", "b")
            if fault == "killed":
                server.kill()
                server.start()
            else:
                server.pause()
                end = time.monotonic() + 3.0
                until(lambda: time.monotonic() > end, "three seconds")
                server.resume()
            fleets[SCHEME].wait_for(200, "a", "b", since=time.monotonic())
            for fleet in fleets.values():
                fleet.load.ask("stop")
            history = fleets[SCHEME].drained(["a", "b"])
            deaf = fleets[bug].drained(["a", "b"], 1.0)
        finally:
            server.resume()
            for fleet in fleets.values():
                fleet.close()
    assert history.lost("notify", ["a", "b"]) == []
    assert history.lost("cast", ["a"]) == []
    assert history.denied() == []
    assert history.told_wrong("work") == []
    assert history.executed_twice("work") == []
    assert history.unended() == []
    assert history.late(stall.worst) == []
    assert deaf.lost("notify", ["a", "b"]) != []
