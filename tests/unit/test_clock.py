"""The virtual clock."""

from __future__ import annotations

import gc

import pytest

from messaging.clock import VirtualClock


class Sleeper:
    """Counts how often it was woken, and writes down when."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.woken: list[float] = []

    def wake(self) -> None:
        self.woken.append(self._clock())


def test_it_moves_only_when_told() -> None:
    """The time is what was told, and whoever is registered is woken after each step, when it is that late already."""
    clock = VirtualClock(start=100.0)
    sleeper = Sleeper(clock)
    clock.register(sleeper.wake)
    assert clock() == clock() == 100.0
    clock.advance(2.5)
    clock.advance(0.0)
    assert sleeper.woken == [102.5, 102.5]


def test_it_does_not_go_back() -> None:
    """A step back is refused: the clock is monotonic."""
    with pytest.raises(ValueError, match="does not go back"):
        VirtualClock().advance(-1.0)


def test_it_keeps_nobody_alive() -> None:
    """Who is gone is not woken, and not kept."""
    clock = VirtualClock()
    sleeper = Sleeper(clock)
    woken = sleeper.woken
    clock.register(sleeper.wake)
    del sleeper
    gc.collect()
    clock.advance(1.0)
    assert woken == []
