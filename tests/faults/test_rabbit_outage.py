"""A broker that is killed, and one that is restarted as its operator would, under 500 messages a second and more.

Each sound fleet offers 600 a second: twelve senders with 50 each. A sender waits for the outcome of one before it sends
the next, so what is achieved is less where six fleets share two processors: it is awaited before the outage and after
it, and judged from the history, of what ended well.

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
from tests.faults.processes import Stall, came_true, until

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
RATE, SHARE = 500, 100
"""What all sound fleets together achieve in a second, and each of them at least, right before the outage and again
after it: the broker is what has to be under load, and none of the fleets may be idle.
"""
BUGS = ("deaf_after_a_loss", "forgets_to_persist", "overstays")


@dataclass
class Outage:
    """What an outage did to each fleet, by the name of its scheme or bug."""

    histories: dict[str, History]
    resumed: dict[str, dict[str, float]]
    stalled: float
    gone: float
    """When the broker was told to go."""
    back: float
    ended: float
    """When the senders were told to stop."""


def start(fleet: Fleet) -> None:
    """Start a sender, a server that listens too, and a listener."""
    fleet.receiver("a", pool="a")
    fleet.receiver("b", pool="b", serves=False)
    fleet.sender(timeout=TIMEOUT)


def achieved(histories: dict[str, History], until: float) -> dict[str, int]:
    """How many operations of each sound fleet ended well in the second before a time."""
    return {name: histories[name].done(until - 1.0, until) for name in SOUND}


def wait_for_load(fleets: dict[str, Fleet]) -> float:
    """Wait until a second has gone by under load, and return its end."""
    end = 0.0

    def loaded() -> bool:
        nonlocal end
        end = time.monotonic()
        return enough(achieved({name: fleets[name].history() for name in SOUND}, end))

    until(loaded, f"{RATE} operations a second", every=0.1)
    return end


def enough(rates: dict[str, int]) -> bool:
    """Whether the broker is under load."""
    return sum(rates.values()) >= RATE and min(rates.values()) >= SHARE


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
            gone = wait_for_load(fleets)
            if request.param == "killed":
                broker.kill()
            else:
                broker.stop()
            for fleet in fleets.values():
                fleet.receivers["b"].signal(signal.SIGCONT)
            until(lambda: time.monotonic() > gone + TIMEOUT + 1.0, "the outage is longer than any operation may take")
            broker.start()
            back = time.monotonic()
            came_true(lambda: all(max(fleets[name].resumed(back).values()) < RESUMED for name in SOUND), RESUMED + 3.0)
            resumed = {name: fleet.resumed(back) for name, fleet in fleets.items()}
            for scheme in SOUND:
                fleets[scheme].wait_for(AFTER, *POOLS, since=back)
            ended = wait_for_load(fleets)
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
    return Outage(histories, resumed, stall.worst, gone, back, ended)


def test_the_broker_is_under_load(outage: Outage) -> None:
    """It carries 500 messages a second and more when it goes, for every scheme, and again when it is back; between
    the two nothing passes.
    """
    before, after = achieved(outage.histories, outage.gone), achieved(outage.histories, outage.ended)
    assert enough(before), before
    assert enough(after), after
    assert outage.ended - 1.0 > outage.back
    down = [outage.histories[name].done(outage.back - 1.0, outage.back) for name in SOUND]
    assert max(down) < SHARE, "the broker was not away"


@pytest.mark.parametrize("scheme", SOUND)
def test_consumers_resume(outage: Outage, scheme: str) -> None:
    """Servers and listeners have their next message within 5 s after the broker is back."""
    late = {name: after for name, after in outage.resumed[scheme].items() if after > RESUMED + outage.stalled}
    assert late == {}


@pytest.mark.parametrize("scheme", SOUND)
def test_no_confirmed_message_is_lost(outage: Outage, scheme: str) -> None:
    """Every notification that was confirmed has reached both pools, those included that lay in the broker."""
    history = outage.histories[scheme]
    assert history.lost("notify", POOLS) == []
    assert sum(entry.operation == "notify" for entry in history.invoked.values()) > BEFORE + AFTER


@pytest.mark.parametrize("scheme", SOUND)
def test_no_operation_passes_its_deadline(outage: Outage, scheme: str) -> None:
    """Calls and notifications that the outage met end within their deadlines and 100 ms, each once."""
    history = outage.histories[scheme]
    assert history.late(outage.stalled) == []
    assert history.unended() == []
    assert history.outcomes()["fail"] + history.outcomes()["info"] > 0, "no operation met the outage"


@pytest.mark.parametrize("scheme", SOUND)
def test_what_callers_are_told_is_true(outage: Outage, scheme: str) -> None:
    """What was answered has run, what failed with NO has not, and no call has run twice without saying so."""
    history = outage.histories[scheme]
    assert history.told_wrong("work") == []
    assert history.told_wrong("notify") == []
    assert history.denied() == []
    assert history.executed_twice("work") == []
    assert history.executed_twice("cast") == []


def test_a_consumer_that_stays_silent_is_found(outage: Outage) -> None:
    """Planted: the connection comes back, and hands over nothing more."""
    assert min(outage.resumed["deaf_after_a_loss"].values()) > RESUMED


def test_messages_that_were_not_stored_are_found(outage: Outage) -> None:
    """Planted: notifications are not written to the broker's disk. Those that waited for the second pool are lost."""
    assert len(outage.histories["forgets_to_persist"].lost("notify", POOLS)) > 10


def test_operations_past_their_deadlines_are_found(outage: Outage) -> None:
    """Planted: every operation takes seconds more than it was given."""
    assert outage.histories["overstays"].late(outage.stalled) != []
