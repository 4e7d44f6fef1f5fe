"""The clock on the wall jumps by an hour, forwards and back: leases and deadlines do not notice."""

from __future__ import annotations

import time

import pytest

import messaging
from messaging import rpc
from tests.faults.conftest import Stage
from tests.faults.processes import Stall, until

LEASE = {"lease": 1.0, "refresh": 0.2}


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_jump_of_the_clock_ends_nobody(stage: Stage, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a server's process, and then the caller's, jumps by an hour: a running call is answered, the record
    lives through several leases, a caller that comes later finds the server, and deadlines keep their length.
    """
    service = stage.service("a", transport=LEASE)
    transport = stage.transport(**LEASE)
    client = rpc.Client(transport, messaging.Target(topic="t"), timeout=5)
    running = client.submit(None, "work", id="running", seconds=0.5)
    stage.effects(1)
    service.ask("jump", seconds=seconds)
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(seconds * 1e9))
    _newcomer(stage)
    over = time.monotonic() + 2.5
    calls = 0
    while time.monotonic() < over:
        assert client.call(None, "echo", value=calls) == calls
        calls += 1
        assert len(list(stage.records.glob("*.record"))) == 1
    assert running.result(1) == "running"
    _newcomer(stage)
    with Stall() as stall:
        begun = time.monotonic()
        with pytest.raises(messaging.DeadlineExceeded):
            client.prepare(timeout=0.2).call(None, "work", id="slow", seconds=1)
        took = time.monotonic() - begun
    assert 0.2 <= took < 0.3 + stall.worst
    until(lambda: service.ask("health")["consuming"], "the server receives")


def _newcomer(stage: Stage) -> None:
    """A caller that has seen nothing of the past finds the server."""
    client = rpc.Client(stage.transport(**LEASE), messaging.Target(topic="t"), timeout=5)
    assert client.call(None, "name") == "a"
