"""Listeners, servers and callers that are killed while they work, the same over every transport: what is done to them,
and what became of it. What has to be so is the test's business, where it is not the same everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from messaging import Delivered, ServerLost, rpc
from tests.faults.conftest import Stage
from tests.faults.fleet import Fleet
from tests.faults.history import History
from tests.faults.processes import Stall, until

__all__ = ["LEARN", "caller_killed", "callers_of_killed_servers", "listeners_killed"]

LEARN = 4.0
"""Seconds within which callers hear of a dead server: three signs that are missed, and a look every half second."""
_SLOW = {"serves": False, "seconds": 0.01, "listener_options": {"slots": 4}}
_CALLS = 20


def listeners_killed(fleets: Mapping[str, Fleet], kills: int, number: int, patience: float) -> dict[str, History]:
    """Send notifications, and kill the listener of each fleet again and again while it handles them.

    Returns what happened, when everything was handled or after `patience` seconds. The fleets are closed.
    """
    try:
        for fleet in fleets.values():
            fleet.receiver("a.0", pool="a", **_SLOW)
            fleet.sender(timeout=30)
        for fleet in fleets.values():
            fleet.ready()
            assert fleet.load.ask("burst", number=number) == number
        for kill in range(kills):
            for fleet in fleets.values():
                # With a bug everything may be handed over at once, so there may be nothing left after the first kill.
                fleet.wait_for(10 if not fleet.plant or kill == 0 else 0, f"a.{kill}")
                fleet.receivers.pop(f"a.{kill}").kill()
                fleet.receiver(f"a.{kill + 1}", pool="a", **_SLOW)
            for fleet in fleets.values():
                fleet.receivers[f"a.{kill + 1}"].expect("ready")
        return {name: fleet.drained(["a"], 2.0 if fleet.plant else patience) for name, fleet in fleets.items()}
    finally:
        for fleet in fleets.values():
            fleet.close()


def callers_of_killed_servers(fleets: Mapping[str, Fleet], deaf: Fleet) -> dict[str, list[str]]:
    """Kill a server of each fleet with 20 calls in its handlers; what is wrong with what their callers are told.

    Wrong is anything but ServerLost, MAYBE, in time. `deaf`: one more, whose callers do not look for signs of life; it
    is found under "deaf". The fleets are closed.
    """
    everybody = {**fleets, "deaf": deaf}
    ends: dict[str, list[tuple[float, Any]]] = {name: [] for name in everybody}
    killed: dict[str, float] = {}
    try:
        with Stall() as stall:
            for name, fleet in everybody.items():
                worker = fleet.service("a")
                options: dict[str, Any] = {"timeout": 5, "call_monitor_timeout": 0} if fleet is deaf else {}
                _call(fleet, fleet.client(**options), ends[name])
                killed[name] = time.monotonic()
                worker.kill()
            until(lambda: all(len(end) == _CALLS for end in ends.values()), f"{_CALLS} outcomes everywhere")
    finally:
        for fleet in everybody.values():
            fleet.close()
    return {
        name: [
            f"{outcome!r} after {at - killed[name]:.3f} s"
            for at, outcome in end
            if not isinstance(outcome, ServerLost)
            or outcome.delivered is not Delivered.MAYBE
            or at - killed[name] > LEARN + stall.worst
        ]
        for name, end in ends.items()
    }


def _call(fleet: Fleet, client: rpc.Client, ends: list[tuple[float, Any]]) -> None:
    """Have calls in the handlers of a server that has accepted them; their ends go into a list, with the time."""

    def ended(future: Future[Any]) -> None:
        ends.append((time.monotonic(), future.exception() or future.result()))

    for number in range(_CALLS):
        client.submit(None, "hold", id=f"id-{number}", seconds=30).add_done_callback(ended)
    fleet.effects(_CALLS)
    under_way: Any = client._session.operations.pending.everything
    until(lambda: all(call.outgoing.taker or call.address for call in under_way()), "all calls are accepted")


def caller_killed(stage: Stage, topic: str) -> None:
    """Kill a caller with 1,000 calls open in coroutines of a server, while another one calls; judge what both saw."""
    service = stage.service("a", coroutines=True, options={"slots": 2000})
    client = stage.client(timeout=5)
    # The first coroutine opens a loop, which stays.
    client.prepare(namespace="coroutines").call(None, "work", id="first")
    before = service.descriptors()
    caller = stage.worker("caller", name="doomed", topic=topic, timeout=20)
    caller.expect("ready")
    assert caller.ask("open_calls", number=1000, method="work", namespace="coroutines", seconds=2.0) == 1000
    stage.effects(1001)
    with Stall() as stall:
        for number in range(50):
            stage.call(client, 5.0, "work", f"a-{number}")
        caller.kill()
        for number in range(200):
            stage.call(client, 5.0, "work", f"b-{number}")
    history = stage.history()
    assert history.failed() == []
    assert history.told_wrong() == []
    assert history.executed_twice() == []
    assert history.late(stall.worst) == []
    until(lambda: service.ask("stats")["in_hand"] == 0, "the server has nothing in hand", within=10)
    until(lambda: service.descriptors() <= before, f"no more than {before} descriptors", within=10)
    assert client.call(None, "echo", value="still here") == "still here"
