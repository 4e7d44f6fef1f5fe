"""A broker that is killed, and one that is restarted as its operator would, under 500 messages a second.

One outage is had by several fleets at a time: one for each scheme, and one for each planted bug, which must be found by
the checks that the sound ones pass.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import pytest

from tests.brokers import Rabbit
from tests.faults.fleet import SCHEMES, Fleet
from tests.faults.history import History
from tests.faults.processes import Stall, came_true

TIMEOUT = 3.0
RESUMED = 5.0
"""Seconds after the broker is back within which every consumer has its next message."""
POOLS = ("a", "b")
SOUND = (*SCHEMES, "asyncio")
"""The last is rabbit:// on an event loop, and with every other choice that its options leave: quorum queues, answers by
direct reply-to, the library's own codec.
"""
BEFORE, AFTER = 250, 250
"""Messages that each consumer has had before the outage, and has after it."""
BUGS = ("deaf_after_a_loss", "forgets_to_persist", "overstays")


@dataclass
class Outage:
    """What an outage did to each fleet, by the name of its scheme or bug."""

    histories: dict[str, History]
    resumed: dict[str, dict[str, float]]
    stalled: float


def start(fleet: Fleet) -> None:
    """Start a sender, a server that listens too, and a listener."""
    fleet.receiver("a", pool="a")
    fleet.receiver("b", pool="b", serves=False)
    fleet.sender(timeout=TIMEOUT)


@pytest.fixture(scope="module", params=["killed", "restarted"])
def outage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mistreated_rabbit: Rabbit
) -> Outage:
    """Let the broker go under load, while one listener stands still and its queue fills, and have it back."""
    directory = tmp_path_factory.mktemp(f"outage-{request.param}")
    fleets: dict[str, Fleet] = {}
    broker = mistreated_rabbit
    with Stall() as stall:
        try:
            for scheme in SCHEMES:
                fleets[scheme] = Fleet(directory / scheme, broker, scheme)
            options = {"queue_type": "quorum", "replies": "direct", "codec": "library"}
            fleets["asyncio"] = Fleet(directory / "asyncio", broker, transport=options, asyncio=True)
            for bug in BUGS:
                fleets[bug] = Fleet(directory / bug, broker, plant=bug)
            for fleet in fleets.values():
                start(fleet)
            for name, fleet in fleets.items():
                fleet.ready()
                threads = 5 if name in SOUND else 1
                fleet.load.ask("start", every=0.02, notify=threads, work=threads, cast=1, fanout=1)
            for name, fleet in fleets.items():
                fleet.wait_for(BEFORE if name in SOUND else 30, *POOLS)
                fleet.receivers["b"].signal(signal.SIGSTOP)
            for name, fleet in fleets.items():
                fleet.wait_for(fleet.count("a") + (BEFORE if name in SOUND else 60), "a")
            if request.param == "killed":
                broker.kill()
            else:
                broker.stop()
            for fleet in fleets.values():
                fleet.receivers["b"].signal(signal.SIGCONT)
            broker.start()
            back = time.monotonic()
            came_true(lambda: all(max(fleets[name].resumed(back).values()) < RESUMED for name in SOUND), RESUMED + 3.0)
            resumed = {name: fleet.resumed(back) for name, fleet in fleets.items()}
            for scheme in SOUND:
                fleets[scheme].wait_for(AFTER, *POOLS, since=back)
            for fleet in fleets.values():
                fleet.load.send("stop")
            for fleet in fleets.values():
                fleet.load.expect("did stop")
            histories = {
                name: fleet.drained(POOLS, within=15.0 if name in SOUND else 1.0) for name, fleet in fleets.items()
            }
        finally:
            for fleet in fleets.values():
                fleet.close()
    return Outage(histories, resumed, stall.worst)


@pytest.mark.parametrize("scheme", SOUND)
@pytest.mark.timeout(180)
def test_consumers_resume(outage: Outage, scheme: str) -> None:
    """Servers and listeners have their next message within 5 s after the broker is back."""
    late = {name: after for name, after in outage.resumed[scheme].items() if after > RESUMED + outage.stalled}
    assert late == {}


@pytest.mark.parametrize("scheme", SOUND)
@pytest.mark.timeout(180)
def test_no_confirmed_message_is_lost(outage: Outage, scheme: str) -> None:
    """Every notification that was confirmed has reached both pools, those included that lay in the broker."""
    history = outage.histories[scheme]
    assert history.lost("notify", POOLS) == []
    assert sum(entry.operation == "notify" for entry in history.invoked.values()) > BEFORE + AFTER


@pytest.mark.parametrize("scheme", SOUND)
@pytest.mark.timeout(180)
def test_no_operation_passes_its_deadline(outage: Outage, scheme: str) -> None:
    """Calls and notifications that the outage met end within their deadlines and 100 ms, each once."""
    history = outage.histories[scheme]
    assert history.late(outage.stalled) == []
    assert history.unended() == []
    assert history.outcomes()["fail"] + history.outcomes()["info"] > 0, "no operation met the outage"


@pytest.mark.parametrize("scheme", SOUND)
@pytest.mark.timeout(180)
def test_what_callers_are_told_is_true(outage: Outage, scheme: str) -> None:
    """What was answered has run, what failed with NO has not, and no call has run twice without saying so."""
    history = outage.histories[scheme]
    assert history.told_wrong("work") == []
    assert history.told_wrong("notify") == []
    assert history.denied() == []
    assert history.executed_twice("work") == []
    assert history.executed_twice("cast") == []


@pytest.mark.timeout(180)
def test_a_consumer_that_stays_silent_is_found(outage: Outage) -> None:
    """Planted: the connection comes back, and hands over nothing more."""
    assert min(outage.resumed["deaf_after_a_loss"].values()) > RESUMED


@pytest.mark.timeout(180)
def test_messages_that_were_not_stored_are_found(outage: Outage) -> None:
    """Planted: notifications are not written to the broker's disk. Those that waited for the second pool are lost."""
    assert len(outage.histories["forgets_to_persist"].lost("notify", POOLS)) > 10


@pytest.mark.timeout(180)
def test_operations_past_their_deadlines_are_found(outage: Outage) -> None:
    """Planted: every operation takes a second more than it was given."""
    assert outage.histories["overstays"].late(outage.stalled) != []
