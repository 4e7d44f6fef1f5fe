"""A broker that stands still: out of memory, stopped without an end of its connections; and handlers that work for
longer than a heartbeat while their process has to keep its connection.

As with an outage, every scheme and every planted bug goes through it at the same time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from messaging import rpc
from tests.brokers import Rabbit
from tests.faults.fleet import SCHEMES, Fleet
from tests.faults.history import History
from tests.faults.processes import Stall, came_true, until

HEARTBEAT = 1
TIMEOUT = 1.5


@contextmanager
def loaded(directory: Path, broker: Rabbit, bug: str) -> Iterator[dict[str, Fleet]]:
    """A fleet for each scheme, and one with a bug, all of them busy."""
    fleets: dict[str, Fleet] = {}
    try:
        for name in (*SCHEMES, bug):
            scheme, plant = (name, "") if name in SCHEMES else ("rabbit", name)
            fleets[name] = fleet = Fleet(
                directory / name, broker, scheme, plant=plant, transport={"heartbeat": HEARTBEAT}
            )
            fleet.receiver("a", pool="a")
            fleet.sender(timeout=TIMEOUT)
        for fleet in fleets.values():
            fleet.ready()
            fleet.load.ask("start", every=0.02, notify=3, work=3, cast=1, fanout=1)
        for fleet in fleets.values():
            fleet.wait_for(60, "a")
        yield fleets
    finally:
        for fleet in fleets.values():
            fleet.close()


def stopped(fleets: dict[str, Fleet]) -> dict[str, History]:
    """Send nothing more, and return what happened when everything that was confirmed has arrived, or never will."""
    for fleet in fleets.values():
        fleet.load.send("stop")
    for fleet in fleets.values():
        fleet.load.expect("did stop")
    return {name: fleet.drained(["a"], 10.0 if name in SCHEMES else 0.5) for name, fleet in fleets.items()}


def arrives(fleets: dict[str, Fleet], since: float, within: float) -> dict[str, float]:
    """Seconds from a time to the next message of every kind at the sound fleets."""

    def slowest(scheme: str) -> float:
        return max(fleets[scheme].resumed(since, operation)["a"] for operation in ("work", "notify"))

    came_true(lambda: all(slowest(scheme) < math.inf for scheme in SCHEMES), within)
    return {scheme: slowest(scheme) for scheme in SCHEMES}


def assert_honest(history: History, stalled: float) -> None:
    """What must hold whatever the broker does."""
    assert history.late(stalled) == []
    assert history.unended() == []
    assert history.told_wrong("work") == []
    assert history.told_wrong("notify") == []
    assert history.denied() == []
    assert history.lost("notify", ["a"]) == []
    assert history.executed_twice("work") == []


def states(fleet: Fleet) -> set[str]:
    """The states of the sender's connections."""
    return {connection["state"] for connection in fleet.load.ask("health")["connections"].values()}


def doubtful(history: History, since: float, until: float) -> list[str]:
    """What was begun and ended in a time and is not proven undelivered."""
    return [
        f"{id} ended as {entry.kind}: {entry.detail}"
        for id, invoked in history.invoked.items()
        if since <= invoked.at
        for entry in history.ended[id]
        if entry.at <= until and entry.kind != "fail"
    ]


def test_a_broker_out_of_memory(tmp_path: Path, mistreated_rabbit: Rabbit) -> None:
    """While the alarm is up everything ends at its deadline, proven not delivered, no connection is lost, and what was
    confirmed arrives; a second after its end everything passes. Planted: a driver that does not listen to the alarm
    writes on, and nobody knows what becomes of it.
    """
    bug = "hides_blocked"
    with Stall() as stall, loaded(tmp_path, mistreated_rabbit, bug) as fleets:
        mistreated_rabbit.block()
        try:
            for scheme in SCHEMES:
                until(lambda: states(fleets[scheme]) == {"blocked"}, f"{scheme} is told")  # noqa: B023
            told = time.monotonic()
            until(lambda: time.monotonic() > told + 2 * TIMEOUT + 0.3, "an operation of every thread has ended")
        finally:
            cleared = time.monotonic()
            mistreated_rabbit.unblock()
        over = time.monotonic()
        resumed = arrives(fleets, over, 5.0)
        reconnects = {scheme: fleets[scheme].load.ask("stats")["driver.reconnects"] for scheme in SCHEMES}
        histories = stopped(fleets)
    assert {scheme: after for scheme, after in resumed.items() if after > 1.0 + stall.worst} == {}
    assert reconnects == dict.fromkeys(SCHEMES, 0)
    for scheme in SCHEMES:
        assert_honest(histories[scheme], stall.worst)
        assert doubtful(histories[scheme], told, cleared) == []
    assert doubtful(histories[bug], told, cleared) != []


def test_a_stalled_broker(tmp_path: Path, mistreated_rabbit: Rabbit) -> None:
    """A broker that is stopped, its connections open, is noticed within two heartbeats, in every process; when it goes
    on everything passes again. Planted: a driver that trusts the network notices nothing.
    """
    bug = "trusts_the_network"
    noticed: dict[str, float] = {}
    with Stall() as stall, loaded(tmp_path, mistreated_rabbit, bug) as fleets:
        workers = {
            f"{name} {what}": worker
            for name, fleet in fleets.items()
            for what, worker in (("sends", fleet.load), ("receives", fleet.receivers["a"]))
        }
        for worker in workers.values():
            worker.ask("watch")
        begun = time.monotonic()
        mistreated_rabbit.pause()
        try:
            for name, worker in workers.items():
                if bug not in name:
                    noticed[name] = worker.expect("disconnected")["at"] - begun
            until(lambda: time.monotonic() > begun + 2 * HEARTBEAT + 1.0, "everybody could have noticed")
            trusting = {name for name, worker in workers.items() if bug in name and worker.ask("health")["connected"]}
        finally:
            mistreated_rabbit.resume()
        back = time.monotonic()
        resumed = arrives(fleets, back, 8.0)
        histories = stopped(fleets)
    assert {name: after for name, after in noticed.items() if after > 2 * HEARTBEAT + 0.3 + stall.worst} == {}
    assert trusting == {f"{bug} sends", f"{bug} receives"}
    assert {scheme: after for scheme, after in resumed.items() if after > 5.0 + stall.worst} == {}
    for scheme in SCHEMES:
        assert_honest(histories[scheme], stall.worst)


def test_a_handler_that_is_busy_for_three_heartbeats(tmp_path: Path, mistreated_rabbit: Rabbit) -> None:
    """A handler that computes for that long costs its process no connection, and its caller gets its answer. Planted: a
    handler on the thread that keeps the connection, which the broker then closes.
    """
    busy = 3.5 * HEARTBEAT
    fleets: dict[str, Fleet] = {}
    calls: dict[str, Callable[[], object]] = {}
    try:
        for name in (*SCHEMES, "inline"):
            scheme = name if name in SCHEMES else "rabbit"
            fleets[name] = fleet = Fleet(tmp_path / name, mistreated_rabbit, scheme, transport={"heartbeat": HEARTBEAT})
            options = {} if name in SCHEMES else {"executor": "inline"}
            fleet.worker("service", server=name, topic=fleet.topic, transport=fleet.options, options=options)
        workers = {name: fleet._workers[0] for name, fleet in fleets.items()}
        for name, fleet in fleets.items():
            workers[name].expect("ready")
            client: rpc.Client = fleet.client(timeout=15)
            operation = "spin" if name in SCHEMES else "hold"
            calls[name] = fleet.submit(client, 15, operation, name, seconds=busy).result
        assert {scheme: calls[scheme]() for scheme in SCHEMES} == {scheme: scheme for scheme in SCHEMES}
        counts = {scheme: workers[scheme].ask("stats") for scheme in SCHEMES}
        assert {scheme: count["driver.reconnects"] for scheme, count in counts.items()} == dict.fromkeys(SCHEMES, 0)
        until(lambda: workers["inline"].ask("stats")["driver.reconnects"] > 0, "the broker has closed a connection", 10)
    finally:
        for fleet in fleets.values():
            fleet.close()
