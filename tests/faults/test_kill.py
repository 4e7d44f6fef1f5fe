"""SIGKILL: of a server with calls in its handlers, of servers at random moments, and of a caller with a thousand open
calls.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import messaging
from messaging import Delivered, MessagingError, ServerLost
from messaging.rpc.session import Request
from tests.faults.conftest import Stage
from tests.faults.deaths import caller_killed
from tests.faults.history import History
from tests.faults.processes import Stall, until

LEARN = 3.0
"""Seconds within which the callers of a dead server are told."""
NOTICED = 1.5
"""Seconds within which handlers hear of a dead caller: they give a sign of life each second."""
LEASE = 2.0

Told = list[tuple[str, float, Any]]
"""The id of a call, seconds from the kill to its end, and what it ended with."""


def killed_under_calls(stage: Stage, *, settled: bool, timeout: float = LEARN + 0.5) -> Told:
    """Kill a server while 20 calls are in its handlers, before or after it has told that it has them."""
    worker = stage.service("a")
    client = stage.client(timeout=timeout)
    told: Told = []

    def ended(id: str, future: Future[Any]) -> None:
        told.append((id, time.monotonic(), future.exception() or future.result()))

    for number in range(20):
        id = f"id-{number}"
        future = client.submit(None, "hold", id=id, seconds=30)
        future.add_done_callback(lambda future, id=id: ended(id, future))  # type: ignore[misc]
    stage.effects(20)
    if settled:
        until(lambda: len(client._session._monitored) == 20, "the server has told that it has the calls")
    begun = time.monotonic()
    worker.kill()
    until(lambda: len(told) == 20, "20 outcomes")
    return [(id, at - begun, outcome) for id, at, outcome in told]


def wrong(told: Told) -> list[str]:
    """What callers of a killed server must not be told."""
    return [
        f"{id}: {outcome!r} after {after:.3f} s"
        for id, after, outcome in told
        if not isinstance(outcome, ServerLost) or outcome.delivered is not Delivered.MAYBE or after > LEARN
    ]


@pytest.mark.parametrize("settled", [False, True])
def test_callers_of_a_killed_server_are_told_within_3_s(stage: Stage, settled: bool) -> None:
    """Each of 20 callers whose handlers run in a server that is killed gets ServerLost, delivered MAYBE."""
    assert wrong(killed_under_calls(stage, settled=settled)) == []


@pytest.mark.parametrize("settled", [False, True])
def test_a_loss_that_is_swallowed_is_found(stage: Stage, settled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the caller's side does not act on the loss of a server. Then callers wait for their deadlines, and the
    check of the test above says so.
    """
    sent = Request.sent

    def deaf(self: Request, outgoing: Any, stage: Any, error: Exception | None, taker: Any) -> None:
        if not isinstance(error, ServerLost):
            sent(self, outgoing, stage, error, taker)

    monkeypatch.setattr(Request, "sent", deaf)
    assert len(wrong(killed_under_calls(stage, settled=settled, timeout=1.0))) == 20


def test_a_killed_server_leaves_discovery_and_the_other_one_serves_at_once(stage: Stage) -> None:
    """The record of a killed server is gone within its lease, new calls go to the other one without a failure (from the
    first on those that may be repeated, and all others when its end was noticed), and a call to the dead one by name is
    refused at once.
    """
    doomed, other = (stage.service(name, transport={"lease": LEASE}) for name in ("a", "b"))
    client = stage.client(timeout=5)
    until(lambda: {client.call(None, "name") for _ in range(4)} == {"a", "b"}, "both servers are in use")

    def recorded() -> set[int]:
        return {json.loads(path.read_bytes())["pid"] for path in stage.records.glob("*.record")}

    assert recorded() == {doomed.pid, other.pid}
    doomed.kill()
    with Stall() as stall:
        begun = time.monotonic()
        for each in (client.prepare(idempotent=True), client):
            assert [each.call(None, "name") for _ in range(20)] == ["b"] * 20
        took = time.monotonic() - begun
    assert took < 1.0 + stall.worst
    until(lambda: recorded() == {other.pid}, "the record of the dead server is gone", within=LEASE)
    begun = time.monotonic()
    with pytest.raises(messaging.TransportError) as refused:
        client.prepare(server="a").call(None, "name")
    assert refused.value.delivered is Delivered.NO
    # Without waiting for the deadline of 5 s.
    assert time.monotonic() - begun < 4.0


def kills_at_random(stage: Stage, kills: int, background: Callable[..., Any], *, plant: str = "") -> History:
    """Kill and replace two servers in turn while eight threads call, and return what happened."""
    timeout = 3.0
    stop = threading.Event()
    client = stage.client(timeout=timeout)
    servers = [stage.service(f"s{number}", plant=plant) for number in range(2)]
    ended: list[str] = []

    def call(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            id = f"{thread}-{number}"
            stage.call(client, timeout, "work", id, seconds=0.005)
            ended.append(id)

    callers = [background(call, thread) for thread in range(8)]
    chance = random.Random(11)
    try:
        for kill in range(kills):
            at = kill % 2
            enough = len(ended) + chance.randrange(20, 100)
            until(lambda: len(ended) > enough, "calls are answered")  # noqa: B023
            servers[at].kill()
            servers[at] = stage.service(f"s{kill + 2}", plant=plant)
    finally:
        stop.set()
    for caller in callers:
        caller.join(timeout + 5)
    return stage.history()


def run_kills(stage: Stage, kills: int, background: Callable[..., Any]) -> None:
    """Judge what happens under kills."""
    with Stall() as stall:
        history = kills_at_random(stage, kills, background)
    assert history.executed_twice() == []
    assert history.told_wrong() == []
    assert history.unended() == []
    assert history.late(stall.worst) == []
    outcomes = history.outcomes()
    assert outcomes["ok"] > 10 * kills
    assert outcomes["info"] > 0, "no call was under way in a server that was killed"


def test_calls_run_at_most_once_while_servers_are_killed(stage: Stage, background: Callable[..., Any]) -> None:
    """Eight callers, servers killed four times: no id has two effects, what failed as NO has none, what was answered
    has one and its own answer, and every call ends in time.
    """
    run_kills(stage, 4, background)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_calls_run_at_most_once_under_a_hundred_kills(stage: Stage, background: Callable[..., Any]) -> None:
    """The same for a hundred kills."""
    run_kills(stage, 100, background)


def test_a_server_that_runs_a_request_twice_is_found(stage: Stage, background: Callable[..., Any]) -> None:
    """Planted: the server runs each request twice. The history shows it for nearly every call."""
    assert len(kills_at_random(stage, 1, background, plant="runs_twice").executed_twice()) > 5


def test_sending_again_what_may_have_run_is_found(
    stage: Stage, background: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the client sends again what may have run. Calls that were in a killed server run in the other one
    too.
    """
    again = Request._again

    def careless(self: Request, error: Exception) -> bool:
        if isinstance(error, MessagingError) and error.delivered is Delivered.MAYBE:
            error.delivered = Delivered.NO
        return again(self, error)

    monkeypatch.setattr(Request, "_again", careless)
    assert kills_at_random(stage, 3, background).executed_twice() != []


def test_a_killed_caller_harms_nobody(stage: Stage) -> None:
    """A caller is killed with 1,000 calls open in coroutines of a server: others get their own answers all the while,
    and the server gives back what the dead one held.
    """
    caller_killed(stage, "t")


def test_handlers_hear_of_a_killed_caller(stage: Stage) -> None:
    """Handlers whose caller is killed are cancelled at the next sign of life, in threads and in coroutines; those of
    others go on.
    """
    service = stage.service("a", coroutines=True)
    caller = stage.worker("caller", name="doomed", topic="t", timeout=60)
    caller.expect("ready")
    for method, namespace in (("hold", None), ("work", "coroutines")):
        assert caller.ask("open_calls", number=2, method=method, namespace=namespace, seconds=60) == 2
    stage.effects(4)
    other = stage.client(timeout=30).submit(None, "hold", id="other", seconds=2 * NOTICED)
    stage.effects(5)
    with Stall() as stall:
        begun = time.monotonic()
        caller.kill()
        told = {service.expect("cancelled")["id"] for _ in range(2)}
        until(lambda: service.ask("stats")["in_hand"] == 1, "the coroutines are cancelled")
        took = time.monotonic() - begun
    assert told == {"doomed-open-0", "doomed-open-1"}
    assert took < NOTICED + stall.worst
    assert other.result(30) == "other"


@pytest.mark.parametrize("patient", [False, True])
def test_repeating_does_not_forget_that_an_earlier_attempt_may_have_run(stage: Stage, patient: bool) -> None:
    """An idempotent call runs in a server that is killed, and is sent again to nobody: its caller is told MAYBE, not
    the NO of the last attempt.
    """
    worker = stage.service("a")
    client = stage.client(timeout=1.0, idempotent=True, wait_for_ready=patient)
    # Connected: the time of the next call is for the call alone.
    client.prepare(timeout=10.0).call(None, "name")
    future = client.submit(None, "hold", id="held", seconds=30)
    stage.effects(1)
    worker.kill()
    error = future.exception(3)
    assert isinstance(error, messaging.DeadlineExceeded | messaging.NoRoute)
    assert error.delivered is Delivered.MAYBE
    assert isinstance(error.__cause__, ServerLost)


def test_an_idempotent_call_is_answered_by_the_next_server(stage: Stage) -> None:
    """An idempotent call runs in a server that is killed: it is sent again to the other one, and its caller gets the
    answer.
    """
    servers = {name: stage.service(name) for name in ("a", "b")}
    client = stage.client(timeout=10.0, idempotent=True)
    future = client.submit(None, "work", id="work", seconds=2)
    stage.effects(1)
    (first,) = stage.entries("effect")
    servers.pop(first.process).kill()
    assert future.result(10) == "work"
    assert [entry.process for entry in stage.entries("effect")] == [first.process, *servers]
