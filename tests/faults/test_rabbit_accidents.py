"""What a broker's objects suffer under load: queues, exchanges and bindings deleted, queues that crash, channels and
connections that the broker closes. The process has to notice by itself, declare what is missing, and go on.

One fleet for each scheme, and one for each planted bug, go through all accidents, one after the other.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import pytest

from tests.brokers import Rabbit
from tests.faults.fleet import SCHEMES, Fleet
from tests.faults.history import History
from tests.faults.processes import Stall, came_true
from tests.faults.rabbit_accidents import ACCIDENTS

TIMEOUT = 3.0
SILENT = ("exchange_deleted", "binding_deleted")
"""Of these no consumer is told, so it has to look, which it does every 5 s."""
RESUMED = 5.0
BUGS = ("swallows_no_route", "looks_away", "never_looks_again")
UNSAFE = ("pool_queue_deleted", "reply_queues_deleted")
"""They take messages with them that had been confirmed."""


@dataclass
class Episode:
    """What happened: to each fleet all the while, and after each accident."""

    histories: dict[str, History] = field(default_factory=dict)
    resumed: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """By accident and fleet: seconds until calls and notifications arrive again."""
    when: dict[str, tuple[float, float]] = field(default_factory=dict)
    stalled: float = 0.0


def allowed(accident: str) -> float:
    """Seconds until everything arrives again."""
    return RESUMED + (5.0 if accident in SILENT else 0.0)


def arrivals(fleet: Fleet, since: float) -> dict[str, float]:
    """Seconds from a time to the first call and the first notification that were sent after it and arrived."""
    history = History(entry for entry in fleet.entries() if entry.at >= since)
    first = {"work": math.inf, "notify": math.inf}
    for id, invoked in history.invoked.items():
        if invoked.operation in first and any(entry.kind == "ok" for entry in history.ended.get(id, ())):
            for effect in history.effects.get(id, ()):
                first[invoked.operation] = min(first[invoked.operation], effect.at - since)
    return first


def wait_for_arrivals(fleets: dict[str, Fleet], since: float, within: float) -> None:
    """Wait until everything arrives again at the sound fleets, or not within that time."""

    def everywhere() -> bool:
        return all(max(arrivals(fleets[scheme], since).values()) < math.inf for scheme in SCHEMES)

    came_true(everywhere, within)


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory, mistreated_rabbit: Rabbit) -> Episode:
    """Have all accidents, each after the last one is over."""
    directory = tmp_path_factory.mktemp("accidents")
    told = Episode()
    fleets: dict[str, Fleet] = {}
    broker = mistreated_rabbit
    with Stall() as stall:
        try:
            for name in (*SCHEMES, *BUGS):
                scheme, plant = (name, "") if name in SCHEMES else ("rabbit", name)
                fleets[name] = fleet = Fleet(directory / name, broker, scheme, plant=plant)
                fleet.receiver("a", pool="a")
                fleet.sender(timeout=TIMEOUT)
            for name, fleet in fleets.items():
                fleet.ready()
                threads = 3 if name in SCHEMES else 1
                fleet.load.ask("start", every=0.02, notify=threads, work=threads, cast=1, fanout=1)
            for fleet in fleets.values():
                fleet.wait_for(50, "a")
            for name, accident in ACCIDENTS.items():
                begun = time.monotonic()
                accident(broker, list(fleets.values()))
                over = time.monotonic()
                told.when[name] = begun, over
                wait_for_arrivals(fleets, over, allowed(name) + 2.0)
            for fleet in fleets.values():
                fleet.load.send("stop")
            for fleet in fleets.values():
                fleet.load.expect("did stop")
            came_true(lambda: not any(lost(fleets[scheme].history(), told) for scheme in SCHEMES), 10.0)
            for name, fleet in fleets.items():
                told.histories[name] = fleet.history()
                for happened, (_, over) in told.when.items():
                    told.resumed[happened, name] = arrivals(fleet, over)
            told.stalled = stall.worst
        finally:
            for fleet in fleets.values():
                fleet.close()
    return told


def lost(history: History, told: Episode) -> list[str]:
    """Which notifications were confirmed and never arrived, but for those that a deleted queue took with it."""
    taken = [(begun - 1.0, over) for name, (begun, over) in told.when.items() if name in UNSAFE]
    return [
        finding
        for finding in history.lost("notify", ["a"])
        if not any(begun <= history.ended[finding.split()[0]][0].at <= over for begun, over in taken)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("accident", ACCIDENTS)
def test_calls_and_notifications_arrive_again(episode: Episode, accident: str, scheme: str) -> None:
    """What is sent after an accident arrives within seconds, without anybody's help."""
    late = {what: after for what, after in episode.resumed[accident, scheme].items() if after > allowed(accident)}
    assert late == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_lost_in_silence(episode: Episode, scheme: str) -> None:
    """What was confirmed has arrived; what found no queue was told so."""
    history = episode.histories[scheme]
    assert lost(history, episode) == []
    assert history.outcomes()["ok"] > 500


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_operation_ends_in_time_and_is_told_the_truth(episode: Episode, scheme: str) -> None:
    """Within its deadline and 100 ms, once; nothing that failed with NO has run, no call twice without saying so."""
    history = episode.histories[scheme]
    assert history.late(episode.stalled) == []
    assert history.unended() == []
    assert history.told_wrong("work") == []
    assert history.denied() == []
    assert history.executed_twice("work") == []


def test_messages_that_went_nowhere_are_found(episode: Episode) -> None:
    """Planted: what the broker returns, because no queue took it, is reported as taken."""
    assert len(lost(episode.histories["swallows_no_route"], episode)) > 5


def test_consumers_that_look_away_are_found(episode: Episode) -> None:
    """Planted: what the broker says of cancelled consumers and closed channels is passed over."""
    assert max(episode.resumed["queues_crashed", "looks_away"].values()) == math.inf


def test_bindings_that_nobody_looks_at_are_found(episode: Episode) -> None:
    """Planted: what was bound once is believed to be bound for good."""
    assert episode.resumed["exchange_deleted", "never_looks_again"]["notify"] == math.inf
