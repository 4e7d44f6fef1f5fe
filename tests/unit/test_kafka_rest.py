"""How the owner of a Kafka connection rests: whoever calls ends it, whenever he does, and calls once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from messaging.drivers.kafka.rest import Rest

LONG = 10.0
"""Seconds that a rest would take if nobody ended it."""


def rested(rest: Rest, seconds: float, wanted: Callable[[], object] = bool) -> float:
    """How long a rest took."""
    begun = time.monotonic()
    rest.rest(seconds, wanted)
    return time.monotonic() - begun


def test_a_call_ends_one_rest() -> None:
    """Before or during the rest, once or many times; the one after that takes its time."""
    rest = Rest()
    for calls in (1, 100):
        for _ in range(calls):
            rest.wake()
        assert rested(rest, LONG) < LONG / 2
        assert rested(rest, 0.02) >= 0.02
    timer = threading.Timer(0.02, rest.wake)
    timer.start()
    assert rested(rest, LONG) < LONG / 2
    timer.join()
    assert rested(rest, 0.02) >= 0.02


def test_what_is_wanted_already_is_not_waited_for() -> None:
    """The look before the wait sees it, so nobody has to call."""
    assert rested(Rest(), LONG, lambda: True) < LONG / 2


def test_a_call_is_told_once() -> None:
    """Also one that ended a rest is not told again."""
    rest = Rest()
    rest.wake()
    assert [rest.called(), rest.called()] == [True, False]
    rest.wake()
    rest.rest(LONG)
    assert not rest.called()


def test_a_pause_is_not_ended_by_a_call() -> None:
    """It lets calls come together; the next rest hears of them."""
    rest = Rest()
    timer = threading.Timer(0.01, rest.wake)
    timer.start()
    begun = time.monotonic()
    rest.pause(0.1)
    assert time.monotonic() - begun >= 0.1
    timer.join()
    assert rest.called()


def misses_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is heard by who rests already, and by nobody else."""

    def wake(rest: Rest) -> None:
        if rest._resting:
            rest._wakeup.ring()

    monkeypatch.setattr(Rest, "wake", wake)


@pytest.mark.parametrize("planted", [False, True])
def test_no_call_is_lost(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two owners that call each other 2,000 times, each right before it rests, never rest for long."""
    if planted:
        misses_calls(monkeypatch)
    rests = Rest(), Rest()
    over = threading.Event()
    within = 0.5 if planted else LONG
    longest = 0.0

    def play(mine: Rest, other: Rest) -> None:
        nonlocal longest
        for _ in range(2_000):
            other.wake()
            longest = max(longest, rested(mine, within, over.is_set))
            if over.is_set() or longest > within / 2:
                break
        over.set()
        other.wake()

    threads = [threading.Thread(target=play, args=each) for each in (rests, rests[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    over.set()
    assert (longest < within / 2) is not planted
