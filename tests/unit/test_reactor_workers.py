"""Workers of a server that fetch their next request by themselves: nothing may lie between them and our thread.

Every step of the hand-over is slowed at random, and the thread that looks after each period of parking looks so rarely
that what was forgotten stays forgotten. The same rounds find planted bugs.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from messaging import DeadlineExceeded, ServerLost, Target, executor, open_transport, rpc
from messaging.drivers.base import Connection, ConnectionEvents, Role, Services
from messaging.reactor import Reactor
from messaging.transport import Transport
from tests.unit.test_reactor_visits import Visited

_IN_TIME = 5.0
"""Seconds for a call of slowed steps; what is forgotten waits for the long period instead."""


class Slowly(Transport):
    """A transport whose reactor is slowed, or broken on purpose."""

    kind: type[Visited]

    def _reactor(self, connect: Callable[[ConnectionEvents, Services], Connection], role: Role) -> Reactor:
        return self.kind(connect)


class ForgetsToAttend(Visited):
    """Planted: a worker does not fetch what it has posted without a ring."""

    def attend(self, found: Callable[[], int], stay: bool) -> None:
        pass


class PumpsWithoutLooking(Visited):
    """Planted: a worker waits for the next request before it has sent the answer to the last one."""

    def _pump_until(self, found: Callable[[], int]) -> None:
        end = self.clock() + self.period
        while not found() and (wait := end - self.clock()) > 0.0:
            self._sleeping = True
            self._connection.pump(wait)


class Echo:
    """Answers with what it got, or later."""

    def __init__(self) -> None:
        self.inner: rpc.Client | None = None
        self.gate = threading.Event()
        self.threads: set[str] = set()

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value."""
        self.threads.add(threading.current_thread().name)
        return value

    @rpc.expose
    def hold(self, ctxt: dict[str, Any]) -> None:
        """Return when the gate is open."""
        self.gate.wait(10)

    @rpc.expose
    def nested(self, ctxt: dict[str, Any], value: int) -> int:
        """Ask the same server by the same connection."""
        assert self.inner is not None
        answer: int = self.inner.call(ctxt, "echo", value=value)
        return answer


def late_calls(kind: type[Visited], url: str, rounds: int) -> tuple[int, int]:
    """Make calls one by one, and now and then two at a time; return how many were late, and how often a worker or a
    caller has pumped for itself.
    """
    random.seed(5)
    serving = Slowly(url)
    serving.kind = kind
    late: list[int] = []
    with serving, open_transport(url) as transport:
        server = rpc.Server(serving, Target(topic="t", server="s"), [Echo()], slots=3)
        with server:
            client = rpc.Client(transport, Target(topic="t"), timeout=_IN_TIME)
            pairs = threading.Barrier(2)
            plan = [random.random() < 0.2 for _ in range(rounds)]

            def call(number: int) -> None:
                try:
                    assert client.call(None, "echo", value=number) == number
                except (DeadlineExceeded, ServerLost):
                    # The server counts as lost when no sign of life has come for 3 s.
                    late.append(number)

            def second() -> None:
                for number, both in enumerate(plan):
                    pairs.wait(30)
                    if late:
                        return
                    if both:
                        call(-number)

            other = threading.Thread(target=second)
            other.start()
            for number in range(rounds):
                pairs.wait(30)
                if late:
                    break
                call(number)
            other.join()
            serving._reactors()[0]._ring()  # type: ignore[attr-defined]
        parked = sum(reactor._visits for reactor in serving._reactors())  # type: ignore[attr-defined]
    return len(late), parked


@pytest.fixture
def all_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are so slow that no job would look quick."""
    monkeypatch.setattr(executor, "_QUICK", 10.0)


@pytest.mark.parametrize("scheme", ["memory", "zmq"])
def test_no_request_and_no_answer_is_forgotten_when_workers_attend(scheme: str, tmp_path: Any, all_quick: None) -> None:
    """With every step slowed at random, each call is answered in time."""
    url = f"zmq+local://{tmp_path}" if scheme == "zmq" else f"memory://{tmp_path.name}"
    late, visits = late_calls(Visited, url, 100)
    assert late == 0
    assert visits > 10


@pytest.mark.parametrize("kind", [ForgetsToAttend, PumpsWithoutLooking])
def test_the_rounds_find_a_planted_bug(kind: type[Visited], tmp_path: Any, all_quick: None) -> None:
    """The same rounds have late calls when a hand-over is broken on purpose."""
    late, _ = late_calls(kind, f"zmq+local://{tmp_path}", 2_000)
    assert late > 0


def test_a_worker_that_stays_away_does_not_keep_others_waiting(tmp_path: Any) -> None:
    """While a handler that was expected to be quick is not, our thread goes on within two periods."""
    url = f"zmq+local://{tmp_path}"
    echo = Echo()
    with (
        open_transport(url) as serving,
        open_transport(url) as transport,
        open_transport(url) as another,
        rpc.Server(serving, Target(topic="t", server="s"), [echo]),
    ):
        client = rpc.Client(transport, Target(topic="t"), timeout=10)
        quick = rpc.Client(another, Target(topic="t"), timeout=10)
        for value in range(100):
            assert client.call(None, "echo", value=value) == value
        assert quick.call(None, "echo", value=1) == 1
        for value in range(100):
            assert client.call(None, "echo", value=value) == value
        held = client.submit(None, "hold")
        begun = time.monotonic()
        assert quick.call(None, "echo", value=1) == 1
        assert time.monotonic() - begun < 5.0
        assert not held.done()
        echo.gate.set()
        held.result(5)


def test_a_handler_may_call_over_the_connection_that_it_serves(tmp_path: Any) -> None:
    """A nested call of a worker on its own server's connection is sent at once, and answered by another worker."""
    url = f"zmq+local://{tmp_path}"
    echo = Echo()
    with (
        open_transport(url) as serving,
        open_transport(url) as transport,
        rpc.Server(serving, Target(topic="t", server="s"), [echo]),
    ):
        echo.inner = rpc.Client(serving, Target(topic="t"), timeout=5)
        client = rpc.Client(transport, Target(topic="t"), timeout=5)
        for value in range(100):
            assert client.call(None, "echo", value=value) == value
        begun = time.monotonic()
        for value in range(20):
            assert client.call(None, "nested", value=value) == value
        assert time.monotonic() - begun < 2.0


@pytest.mark.parametrize("scheme", ["memory", "zmq"])
def test_a_server_with_one_slot_runs_one_at_a_time(scheme: str, tmp_path: Any) -> None:
    """Slots bound what runs, whoever fetches the requests; handlers run on the pool's threads only."""
    url = f"zmq+local://{tmp_path}" if scheme == "zmq" else f"memory://{tmp_path.name}"
    running: list[int] = []
    most: list[int] = []

    class Counted(Echo):
        @rpc.expose
        def echo(self, ctxt: dict[str, Any], value: int) -> int:
            running.append(value)
            most.append(len(running))
            running.remove(value)
            return super().echo(ctxt, value)

    echo = Counted()
    with (
        open_transport(url) as serving,
        open_transport(url) as transport,
        rpc.Server(serving, Target(topic="t", server="s"), [echo], slots=1),
    ):
        client = rpc.Client(transport, Target(topic="t"), timeout=5)

        def several(base: int) -> None:
            for value in range(base, base + 150):
                assert client.call(None, "echo", value=value) == value

        several(0)
        threads = [threading.Thread(target=several, args=(base,)) for base in (1000, 2000, 3000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        several(4000)
    assert max(most) == 1
    assert len(echo.threads) == 1
