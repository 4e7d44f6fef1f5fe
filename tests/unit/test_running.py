"""`messaging.run`, with services that only write down what is done with them; what it does to real ones and to whole
processes is tested with processes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

import messaging
from messaging.errors import ConnectFailed


class Noted:
    """A service that writes down what happens to it."""

    def __init__(self, name: str, notes: list[str], **does: Callable[[], object]) -> None:
        self._name = name
        self._notes = notes
        self._does = does
        self.graces: list[float] = []

    def start(self) -> None:
        """See Service."""
        self._notes.append(f"start {self._name}")
        self._does.get("start", bool)()

    def stop(self, grace: float) -> bool:
        """See Service."""
        self._notes.append(f"stop {self._name}")
        self.graces.append(grace)
        return bool(self._does["stop"]()) if "stop" in self._does else True


def end() -> None:
    """Tell this process to end."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_services_start_in_order_and_stop_in_reverse() -> None:
    """The first that starts is the last that stops, and the handlers of before are back."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    notes: list[str] = []
    services = [Noted("a", notes), Noted("b", notes), Noted("c", notes, start=end)]
    assert messaging.run(*services, grace=5) is True
    assert notes == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_while_starting_starts_nothing_more() -> None:
    """What has not started by then never does, and what has is stopped."""
    notes: list[str] = []
    assert messaging.run(Noted("a", notes, start=end), Noted("b", notes), grace=5) is True
    assert notes == ["start a", "stop a"]


def test_a_service_that_does_not_start_ends_the_others() -> None:
    """Its error is raised when everything that had started is stopped."""
    before = signal.getsignal(signal.SIGTERM)
    notes: list[str] = []

    def refuse() -> None:
        raise ConnectFailed("no port is free")

    with pytest.raises(ConnectFailed, match="no port is free"):
        messaging.run(Noted("a", notes), Noted("b", notes, start=refuse), Noted("c", notes), grace=5)
    assert notes == ["start a", "start b", "stop a"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_grace_is_one_budget_for_all() -> None:
    """What one service takes to stop is missing for those after it; none is given less than nothing."""
    notes: list[str] = []
    pause = threading.Event()
    quick = Noted("quick", notes)
    slow = Noted("slow", notes, start=end, stop=lambda: pause.wait(0.3) or True)
    assert messaging.run(quick, slow, grace=0.2)
    assert 0.1 < slow.graces[0] <= 0.2
    assert quick.graces == [0.0]


def test_one_that_does_not_stop_in_time_makes_the_result_false() -> None:
    """The others are stopped nevertheless."""
    notes: list[str] = []
    assert messaging.run(Noted("a", notes), Noted("b", notes, start=end, stop=lambda: False), grace=1) is False
    assert notes[-1] == "stop a"


def test_it_waits_for_the_signal() -> None:
    """It returns when the signal has come, from a thread of somebody else too."""
    notes: list[str] = []
    begun = time.monotonic()
    timer = threading.Timer(0.2, end)
    assert messaging.run(Noted("a", notes, start=timer.start), grace=1) is True
    assert time.monotonic() - begun >= 0.2
    timer.join(5)
