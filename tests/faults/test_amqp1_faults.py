"""AMQP 1.0 on an Artemis that is killed, restarted and frozen under load, and consumers that are killed while it lives.

One accident is had by several fleets at a time: sound ones, and one for each planted bug, which must be found by the
checks that the sound ones pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import messaging
from messaging import rpc
from messaging.drivers.amqp1.connection import Amqp1Connection
from tests.brokers.artemis import Artemis
from tests.faults.deaths import callers_of_killed_servers, listeners_killed
from tests.faults.fleet import Fleet
from tests.faults.history import History
from tests.faults.processes import Stall, came_true, until

TIMEOUT = 3.0
RESUMED = 5.0
"""Seconds after the broker is back within which every consumer has its next message."""
POOLS = ("a", "b")
SOUND = ("threads", "asyncio")
BUGS = ("deaf_after_a_loss", "overstays", "not durable")
ENOUGH = 100


@pytest.fixture(scope="module")
def artemis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artemis]:
    """A broker that tests may kill and freeze, if they leave it running."""
    with Artemis(tmp_path_factory.mktemp("mistreated-artemis")) as broker:
        yield broker


def _fleet(directory: Path, broker: Artemis, name: str) -> Fleet:
    plant = name if name not in (*SOUND, "not durable") else ""
    options = {"durable": False} if name == "not durable" else {}
    return Fleet(directory / name, broker, "amqp1", plant=plant, transport=options, asyncio=name == "asyncio")


@dataclass
class Outage:
    """What the end of the broker did to each fleet, by its name."""

    histories: dict[str, History]
    resumed: dict[str, dict[str, float]]
    stalled: float


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory, artemis: Artemis) -> Outage:
    """Kill the broker under load, while its second pool has nobody who reads, and start it again."""
    directory = tmp_path_factory.mktemp("outage")
    fleets: dict[str, Fleet] = {}
    with Stall() as stall:
        try:
            for name in (*SOUND, *BUGS):
                fleet = fleets[name] = _fleet(directory, artemis, name)
                fleet.receiver("a", pool="a")
                fleet.receiver("b.0", pool="b", serves=False)
                fleet.sender(timeout=TIMEOUT)
            for fleet in fleets.values():
                fleet.ready()
                fleet.load.ask("start", every=0.05, notify=3, work=2, cast=1, fanout=1)
            for fleet in fleets.values():
                fleet.wait_for(ENOUGH // 2, "a", "b.0")
                fleet.receivers.pop("b.0").kill()
            for fleet in fleets.values():
                fleet.wait_for(fleet.count("a") + ENOUGH, "a")
            artemis.kill()
            gone = time.monotonic()
            until(lambda: time.monotonic() > gone + TIMEOUT + 1.0, "the outage is longer than any operation may take")
            artemis.start()
            back = time.monotonic()
            for fleet in fleets.values():
                fleet.receiver("b.1", pool="b", serves=False)
            came_true(lambda: all(fleets[name].resumed(back)["a"] < RESUMED for name in SOUND), RESUMED + 3.0)
            resumed = {name: fleet.resumed(back) for name, fleet in fleets.items()}
            for name in SOUND:
                fleets[name].wait_for(ENOUGH, "a", "b.1", since=back)
            for fleet in fleets.values():
                fleet.load.send("stop")
            for fleet in fleets.values():
                fleet.load.expect("did stop")
            histories = {name: fleet.drained(POOLS, 15.0 if name in SOUND else 1.0) for name, fleet in fleets.items()}
        finally:
            for fleet in fleets.values():
                fleet.close()
    return Outage(histories, resumed, stall.worst)


@pytest.mark.parametrize("name", SOUND)
def test_consumers_resume(outage: Outage, name: str) -> None:
    """Servers and listeners have their next message within 5 s after the broker is back."""
    assert outage.resumed[name]["a"] <= RESUMED + outage.stalled


@pytest.mark.parametrize("name", SOUND)
def test_no_confirmed_notification_is_lost(outage: Outage, name: str) -> None:
    """Every notification that was confirmed has reached both pools, those included that lay in the broker."""
    history = outage.histories[name]
    assert history.lost("notify", POOLS) == []
    assert sum(entry.operation == "notify" for entry in history.invoked.values()) > ENOUGH


@pytest.mark.parametrize("name", SOUND)
def test_no_operation_passes_its_deadline(outage: Outage, name: str) -> None:
    """What the outage met ends within its deadline and 100 ms, and ends once."""
    history = outage.histories[name]
    assert history.late(outage.stalled) == []
    assert history.unended() == []
    assert history.outcomes()["fail"] + history.outcomes()["info"] > 0, "no operation met the outage"


@pytest.mark.parametrize("name", SOUND)
def test_what_callers_are_told_is_true(outage: Outage, name: str) -> None:
    """What was answered has run, what failed with NO has not, and no request has run twice without saying so."""
    history = outage.histories[name]
    assert history.told_wrong("work") == []
    assert history.told_wrong("notify") == []
    assert history.denied() == []
    assert history.executed_twice("work") == []
    assert history.executed_twice("cast") == []


def test_a_consumer_that_stays_silent_is_found(outage: Outage) -> None:
    """Planted: the connection comes back, and hands over nothing more."""
    assert outage.resumed["deaf_after_a_loss"]["a"] > RESUMED


def test_notifications_that_were_not_stored_are_found(outage: Outage) -> None:
    """Planted: notifications are not written to the broker's disk. Those that waited for the second pool are lost."""
    assert len(outage.histories["not durable"].lost("notify", POOLS)) > 10


def test_operations_past_their_deadlines_are_found(outage: Outage) -> None:
    """Planted: every operation takes seconds more than it was given."""
    assert outage.histories["overstays"].late(outage.stalled) != []


def test_no_notification_is_lost_with_its_listener(tmp_path: Path, artemis: Artemis) -> None:
    """At least once: whatever a killed listener had not finished is handled by the next. Planted: settled at once on
    receipt, what it had in hand is lost.
    """
    fleets = {name: _fleet(tmp_path, artemis, name) for name in ("threads", "settles_on_receipt")}
    histories = listeners_killed(fleets, kills=3, number=800, patience=30.0)
    assert histories["threads"].lost("notify", ["a"]) == []
    assert histories["threads"].failed() == []
    assert len(histories["settles_on_receipt"].lost("notify", ["a"])) >= 1


def test_callers_of_a_killed_server_are_told(tmp_path: Path, artemis: Artemis) -> None:
    """Each of 20 callers whose handlers run in a server that is killed gets ServerLost, MAYBE, within four seconds.
    Planted: where nobody looks for signs of life, callers wait for their deadlines.
    """
    fleets = {name: _fleet(tmp_path, artemis, name) for name in SOUND[:1]}
    wrong = callers_of_killed_servers(fleets, deaf=Fleet(tmp_path / "deaf", artemis, "amqp1"))
    assert wrong["threads"] == []
    assert len(wrong["deaf"]) == 20


class _Frozen:
    """A broker stands still while calls are made: how long the loss stays unnoticed."""

    def __init__(self, broker: Artemis) -> None:
        self.noticed = float("inf")
        with messaging.open_transport(broker.url, heartbeat=0.5) as transport:
            client = rpc.Client(transport, messaging.Target(topic="nobody"), timeout=0.2)
            with pytest.raises(messaging.DeadlineExceeded):
                client.call(None, "work")
            broker.pause()
            try:
                begun = time.monotonic()
                while time.monotonic() < begun + 3.0:
                    with pytest.raises(messaging.MessagingError):
                        client.call(None, "work")
                    if not transport.health()["connected"]:
                        self.noticed = time.monotonic() - begun
                        break
            finally:
                broker.resume()
            until(lambda: transport.health()["connected"], "connected again")


def test_a_frozen_broker_is_noticed(artemis: Artemis) -> None:
    """No bytes and no end of the connection: it is lost within two heartbeats, and comes back with the broker."""
    with Stall() as stall:
        found = _Frozen(artemis)
    assert found.noticed < 1.0 + 0.2 + 0.2 + stall.worst


def test_a_frozen_broker_that_is_trusted_is_found(artemis: Artemis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: nobody looks at the clock, so a silent broker is believed to be well."""

    def trusting(self: Amqp1Connection, now: float) -> None:
        self._heard = now
        self._due = now + 1.0

    monkeypatch.setattr(Amqp1Connection, "_run", trusting)
    monkeypatch.setattr(Amqp1Connection, "_tick", lambda self, engine, now: setattr(self, "_tick_at", now + 1.0))
    assert _Frozen(artemis).noticed == float("inf")
