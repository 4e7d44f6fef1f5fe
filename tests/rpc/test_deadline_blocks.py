"""`messaging.deadline` and `messaging.detached`: budgets that a program gives to several calls, or takes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.deadline import current_deadline
from messaging.errors import ConfigError, DeadlineExceeded
from messaging.testing.conformance.checks import punctual


class Slow:
    """Waits for a gate that nobody opens before the end of the test."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.cast_left: list[float] = []
        self.cast_ran = threading.Event()

    @rpc.expose
    def hold(self, ctxt: dict[str, Any]) -> None:
        self.gate.wait(10)

    @rpc.expose
    def left(self, ctxt: dict[str, Any]) -> float:
        return rpc.current().deadline.remaining()

    @rpc.expose
    def note(self, ctxt: dict[str, Any]) -> None:
        self.cast_left.append(rpc.current().deadline.remaining())
        self.cast_ran.set()


@pytest.fixture
def slow() -> Iterator[tuple[Slow, rpc.Client]]:
    """Return an endpoint that is served, and a client of it."""
    endpoint = Slow()
    with (
        messaging.open_transport("memory://") as transport,
        rpc.Server(transport, Target(topic="slow", server="host-1"), [endpoint]),
    ):
        yield endpoint, rpc.Client(transport, Target(topic="slow"))
        endpoint.gate.set()


def test_a_block_is_one_budget_for_all_its_calls(slow: tuple[Slow, rpc.Client]) -> None:
    """The second call has what the first one left, though its own timeout is longer."""
    _, client = slow
    began = time.monotonic()
    with punctual(0.4, "two calls"), messaging.deadline(0.4):
        with pytest.raises(DeadlineExceeded):
            client.prepare(timeout=0.25).call(None, "hold")
        with pytest.raises(DeadlineExceeded):
            client.prepare(timeout=5).call(None, "hold")
    assert time.monotonic() - began > 0.35


def test_a_block_inside_a_block_only_shortens(slow: tuple[Slow, rpc.Client]) -> None:
    """The outer budget holds within the inner block, and is what counts again after it."""
    _, client = slow
    with messaging.deadline(2.0):
        with messaging.deadline(60.0):
            assert client.call(None, "left") <= 2.05
        with messaging.deadline(1.0):
            assert client.call(None, "left") <= 1.05
        assert 1.0 < client.call(None, "left") <= 2.05
    assert current_deadline() is None
    assert client.call(None, "left") > 10


def test_detached_calls_live_longer_than_the_request(slow: tuple[Slow, rpc.Client]) -> None:
    """What a handler starts in a detached block has its own timeout again."""
    _, client = slow
    with messaging.deadline(1.0), messaging.detached():
        assert client.prepare(timeout=5).call(None, "left") > 4


def test_a_cast_carries_no_budget(slow: tuple[Slow, rpc.Client]) -> None:
    """Nobody waits for a cast, so its handler has no deadline, whatever block it was sent in."""
    endpoint, client = slow
    with messaging.deadline(0.5):
        client.cast(None, "note")
    assert endpoint.cast_ran.wait(5)
    assert endpoint.cast_left == [float("inf")]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "1", True])
def test_a_budget_is_a_number_of_seconds(seconds: Any) -> None:
    """No budget, an endless one, and what is no number are refused; an operation without an end is never meant."""
    with pytest.raises(ConfigError, match="timeout must be"):
        with messaging.deadline(seconds):
            pass
