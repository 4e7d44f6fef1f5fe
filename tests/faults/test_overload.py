"""More than a server can take: what it refuses goes to another one, or comes back as proven not done."""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import wait

import messaging
from messaging import rpc
from tests.brokers.ports import free_port
from tests.faults.conftest import Stage
from tests.faults.history import History
from tests.faults.processes import Stall, until

TIMEOUT = 1.5
BOUND = 0.1
"""Seconds that an operation may take beyond its deadline."""
SMALL = {"slots": 1, "inbox": 4}


def flooded(stage: Stage, servers: set[str], number: int, seconds: float) -> tuple[History, float]:
    """Make so many calls at once, each of which takes so long; returns what happened and how long this was stalled."""
    client: rpc.Client = stage.client(timeout=TIMEOUT)
    until(lambda: {client.call(None, "name") for _ in servers} == servers, "all servers are connected")
    with Stall() as stall:
        futures = [stage.submit(client, TIMEOUT, "work", f"id-{count}", seconds=seconds) for count in range(number)]
        wait(futures, TIMEOUT + 5)
    return stage.history(), stall.worst


def test_what_a_busy_server_refuses_is_told_as_not_done(stage: Stage) -> None:
    """A server with one slot and an inbox of four gets 40 calls of 0.2 s: some are answered, the rest end in time, and
    what is said not to have run has not.
    """
    service = stage.service("a", options=SMALL)
    history, stalled = flooded(stage, {"a"}, 40, 0.2)
    assert history.unended() == []
    assert history.told_wrong() == []
    assert history.executed_twice() == []
    assert history.late(stalled) == []
    outcomes = history.outcomes()
    assert outcomes["ok"] >= 4
    # The slower the machine, the more are under way when their deadline comes, and in doubt.
    assert outcomes["fail"] > 0
    errors = Counter(str(entry.detail).partition(":")[0] for entry in stage.entries("fail"))
    assert set(errors) <= {"Overloaded", "DeadlineExceeded"}
    assert errors["Overloaded"] > 0
    counts = service.ask("stats")
    assert counts["server.busy"] + counts["driver.busy"] > 0


def test_what_a_busy_server_refuses_is_done_by_another_one(stage: Stage) -> None:
    """The same load on a small server and on a large one: every call is answered, by the large one if need be."""
    small = stage.service("small", options=SMALL)
    stage.service("large", options={"slots": 32})
    history, _ = flooded(stage, {"small", "large"}, 40, 0.2)
    assert history.failed() == []
    assert history.executed_twice() == []
    counts = small.ask("stats")
    assert counts["server.busy"] + counts["driver.busy"] > 0


def test_a_server_that_refuses_and_runs_is_found(stage: Stage) -> None:
    """Planted: servers answer BUSY and run the request nevertheless. The history shows calls that ran twice, or were
    said not to have run.
    """
    for name in ("a", "b"):
        stage.service(name, plant="refuses_but_runs")
    history, _ = flooded(stage, {"a", "b"}, 10, 0.1)
    assert history.executed_twice() + history.told_wrong() != []


class Here:
    """What a peer serves once it speaks."""

    @rpc.expose
    def work(self, ctxt: object, task: bytes) -> int:
        """Return the length of the argument."""
        return len(task)


def test_who_publishes_too_much_is_held_back_and_told_the_truth() -> None:
    """Calls of 70 MiB wait for a peer that takes connections and says nothing: health() tells that the connection
    is blocked, what comes then ends at its own deadline, proven not done, as do those that wait. When the peer speaks,
    calls are answered again.
    """
    with socket.socket() as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mute.bind(("127.0.0.1", free_port()))
        mute.listen()
        url = f"zmq+static://127.0.0.1:{mute.getsockname()[1]}/"
        transport = messaging.open_transport(url, connect_timeout=60.0)
        client = rpc.Client(transport, messaging.Target(topic="t"), timeout=4.0, retry=0)
        begun = time.monotonic()
        with Stall() as stall:
            futures = [client.submit(None, "work", task=bytes(2**20)) for _ in range(70)]
            made = time.monotonic() - begun
            until(lambda: states(transport) == {"blocked"}, "the connection is blocked")
            late = client.prepare(timeout=0.3).submit(None, "work", task=b"late")
            wait([late], 0.3 + BOUND + 5.0)
            # Those before it still wait; what is held has ended at its own deadline.
            error = late.exception(0)
            wait(futures, made + 4.0 + 5.0)
            took = time.monotonic() - begun
        assert isinstance(error, messaging.DeadlineExceeded)
        assert error.delivered is messaging.Delivered.NO
        assert "blocked" in str(error)
        outcomes = Counter(type(future.exception(0)).__name__ for future in futures)
        assert outcomes == {"DeadlineExceeded": 70}
        assert {getattr(future.exception(0), "delivered", None) for future in futures} == {messaging.Delivered.NO}
        assert took <= made + 4.0 + BOUND + stall.worst
    with transport, messaging.open_transport(url) as other:
        server = rpc.Server(other, messaging.Target(topic="t", server="here"), [Here()])
        server.start(5.0)
        assert client.prepare(wait_for_ready=True, retry=None).call(None, "work", task=b"now") == 3
        assert states(transport) == {"ready"}
        server.stop(1.0)


def states(transport: messaging.Transport) -> set[str]:
    """What health() tells of the connections of a transport."""
    return {told["state"] for told in transport.health()["connections"].values()}
