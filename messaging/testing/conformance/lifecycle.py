"""Servers and transports from their start to their end: bounds, drains, closes, and what is delivered again."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from messaging import rpc
from messaging.errors import Closed, Delivered, MessagingError, Rejected, Unsupported
from messaging.target import Target
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import (
    PATIENCE,
    Log,
    check,
    equal,
    eventually,
    once_each,
    punctual,
    raises,
)
from messaging.testing.conformance.scenario import Group

__all__ = ["lifecycle"]

lifecycle = Group("lifecycle", needs=("rpc",))


class Gated:
    """Handlers that wait for a gate, with a count of how many are in there."""

    def __init__(self, gate: threading.Event, name: str = "a") -> None:
        self.gate = gate
        self.name = name
        self.started: Log[Any] = Log()
        self.ended: Log[Any] = Log()
        self.most = 0
        self._inside: set[Any] = set()
        self._lock = threading.Lock()

    def _run(self, task: Any) -> str:
        with self._lock:
            self._inside.add(task)
            self.most = max(self.most, len(self._inside))
        self.started.add(task)
        self.gate.wait(30)
        with self._lock:
            self._inside.discard(task)
        self.ended.add(task)
        return self.name

    @rpc.expose
    def run(self, ctxt: dict[str, Any], task: Any = None) -> str:
        """Wait for the gate."""
        return self._run(task)

    @rpc.expose(delivery="strict")
    def strictly(self, ctxt: dict[str, Any], task: Any = None) -> str:
        """The same; refused when it may have run before."""
        return self._run(task)

    @rpc.expose
    def stubborn(self, ctxt: dict[str, Any]) -> bool:
        """Go on until the server wants it to stop."""
        self.started.add("stubborn")
        request = rpc.current()
        eventually(lambda: request.cancelled, "the request is cancelled")
        self.ended.add("stubborn")
        return True


class Surviving(Gated):
    """Settled after the handler."""

    @rpc.expose(delivery="at_least_once")
    def at_least_once(self, ctxt: dict[str, Any], task: Any = None) -> list[Any]:
        """Wait for the gate, and tell which attempt it was."""
        self._run(task)
        request = rpc.current()
        return [self.name, request.attempt, request.redelivered]


def _submit(case: Case, client: rpc.Client, method: str, count: int) -> list[Future[Any]]:
    return [case.submit(client, method, task=number) for number in range(count)]


@lifecycle.add("Never more handlers run than the server has slots.")
def slots_bound_what_runs(case: Case) -> None:
    """Of 20 calls 3 run at a time; the others wait, and all are answered."""
    gate = case.gate()
    gated = Gated(gate)
    case.server(gated, slots=3)
    futures = _submit(case, case.client(), "run", 20)
    gated.started.wait(3, "handlers that fill the slots")
    _, left = wait(futures, timeout=0.2)
    equal((len(gated.started), len(left)), (3, 20), "handlers that run, calls that wait")
    gate.set()
    equal([future.result(PATIENCE) for future in futures], ["a"] * 20, "the answers")
    check(gated.most <= 3, f"{gated.most} handlers ran at a time in 3 slots")


@lifecycle.add("A server that stops finishes what runs; what it has not started goes to another.")
def stop_drains(case: Case) -> None:
    """One slot is busy and more calls are waiting when it stops: each is run once, and every caller gets its answer."""
    gate = case.gate()
    leaving = Gated(gate, "leaving")
    server = case.server(leaving, name="leaving", slots=1)
    futures = _submit(case, case.client(), "run", 6)
    leaving.started.wait(1, "a handler at the server that will stop")
    opened = case.gate()
    opened.set()
    staying = Gated(opened, "staying")
    case.server(staying, name="staying")
    stopped: Log[bool] = Log()
    stopping = threading.Thread(target=lambda: stopped.add(server.stop(PATIENCE)), daemon=True)
    stopping.start()
    moved = 5 if case.capabilities.acceptance == "backend" else 0
    staying.ended.wait(moved, "calls that moved to the other server")
    equal(len(stopped), 0, "the server has stopped while a handler runs")
    gate.set()
    equal(stopped.wait(1, "the end of stop()"), [True], "stop() says that all ended in time")
    answers = [future.result(PATIENCE) for future in futures]
    once_each([*leaving.ended.items, *staying.ended.items], range(6), "calls that were run")
    check("leaving" in answers, "the handler that was running was not finished")
    equal(server.health()["alive"], False, "the stopped server is alive")


@lifecycle.add("stop() is bounded: a handler that does not end is told, and no longer waited for.")
def stop_is_bounded(case: Case) -> None:
    """It returns False within its grace, and sets `rpc.current().cancelled`."""
    gated = Gated(case.gate())
    server = case.server(gated)
    future = case.submit(case.client().prepare(timeout=1.5), "stubborn")
    gated.started.wait(1, "the stubborn handler")
    with punctual(0.3, "stop()", tolerance=0.5):
        clean = server.stop(0.3)
    equal(clean, False, "stop() says that all ended in time")
    gated.ended.wait(1, "the handler hears of it", 3.0)
    wait([future], timeout=PATIENCE)
    check(future.done(), "the caller of the stubborn handler waits for ever")
    equal(server.stop(0.1), server.stop(0.1), "stop() called again, twice")


@lifecycle.add("close() ends every waiter with an error within its bound.")
def close_unblocks(case: Case) -> None:
    """Thirty calls wait for a handler that never ends; nobody waits on after the transport has closed."""
    gated = Gated(case.gate())
    case.server(gated)
    over = case.transport()
    client = case.client(over=over, timeout=30)
    futures = _submit(case, client, "run", 30)
    gated.started.wait(30, "calls under way")
    with punctual(0.5, "close()", tolerance=1.0):
        over.close(0.5)
    _, left = wait(futures, timeout=1.0)
    check(not left, f"{len(left)} of 30 callers still wait after close()")
    kinds = {type(future.exception()) for future in futures}
    equal(kinds, {Closed}, "what the waiters ended with")
    known = {getattr(future.exception(), "delivered", None) for future in futures}
    equal(known, {Delivered.MAYBE}, "delivered of calls that were running")
    equal(over.stats().get("call.closed"), 30, "calls counted as closed")


@lifecycle.add("What is used after close() raises Closed, at once; closing again is no error.")
def use_after_close(case: Case) -> None:
    """Clients, new servers, and what is built afterwards on the closed transport."""
    gated = Gated(case.gate())
    case.server(gated)
    over = case.transport()
    client = case.client(over=over)
    client.ping()
    over.close()
    over.close()
    for attempt in (
        lambda: client.call({}, "run"),
        lambda: client.cast({}, "run"),
        lambda: case.submit(client, "run").result(PATIENCE),
        lambda: case.server(gated, over=over),
    ):
        with punctual(0.5, "the use of what is closed"), raises(Closed, what="use after close"):
            attempt()
    equal(over.health()["alive"], False, "the closed transport is alive")


@lifecycle.add("Closing gives everything back: no thread and no descriptor is left.")
def nothing_is_left_behind(case: Case) -> None:
    """Ten rounds of open, serve, call and close end with the threads and descriptors of the first."""

    def one_round(number: int) -> None:
        # Made without the case, which would hold on to everything until its end.
        face = case.face
        target = Target(topic=f"{case.topic}-{number}", server="a")
        over, serving = (face.open(case.url, **case.subject.options) for _ in range(2))
        gate = threading.Event()
        gate.set()
        server = face.server(serving, target, [Gated(gate)])
        server.start(PATIENCE)
        equal(face.client(over, target, timeout=PATIENCE).call({}, "run"), "a", "the answer")
        server.stop(1.0)
        serving.close()
        over.close()

    one_round(0)
    one_round(1)
    threads, descriptors = _held()
    for number in range(2, 10):
        one_round(number)

    def nothing_more() -> bool:
        now = _held()
        return now[0] <= threads and now[1] <= descriptors

    eventually(
        nothing_more,
        lambda: (
            f"{threads} threads and {descriptors} descriptors again, now {_held()}: "
            f"{[thread.name for thread in threading.enumerate()]}"
        ),
        5.0,
    )


def _held() -> tuple[int, int]:
    """How many threads and descriptors this process has, once the garbage is gone that may still hold some.

    But for the threads of asyncio's own pool: it starts another one while the last has not yet said that it is idle.
    """
    gc.collect()
    place = Path("/proc/self/fd")
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return len(threads), len(os.listdir(place)) if place.exists() else 0


@lifecycle.add("health() tells apart alive, connected and consuming.")
def health(case: Case) -> None:
    """Before start, while serving, and after stop."""
    gated = Gated(case.gate())
    server = case.server(gated, start=False)
    equal(server.health()["consuming"], False, "a server that was not started consumes")
    server.start(PATIENCE)
    told = server.health()
    equal((told["alive"], told["connected"], told["consuming"]), (True, True, True), "a server that serves")
    case.client().ping()
    told = case.calling.health()
    equal((told["alive"], told["connected"]), (True, True), "a transport in use")
    server.stop(1.0)
    told = server.health()
    equal((told["alive"], told["consuming"]), (False, False), "a server that has stopped")


@lifecycle.add("What a lost server had not started is delivered again, to another, and says so.", needs=("redelivers",))
def unstarted_is_redelivered(case: Case) -> None:
    """The default runs it; `strict` refuses it with MAYBE, since it may have run; what was running is not run again."""
    doomed = Gated(case.gate(), "doomed")
    serving = case.transport()
    case.server(doomed, name="doomed", slots=1, over=serving)
    client = case.client().prepare(call_monitor_timeout=0.6)
    running = case.submit(client, "run", task="running")
    doomed.started.wait(1, "the handler at the server that will go")
    plain = case.submit(client, "run", task="waiting")
    strict = case.submit(client, "strictly", task="strict")
    case.accepted(running)
    eventually(lambda: case.in_hand(serving) >= 2, "two requests wait at the server that will go")
    opened = case.gate()
    opened.set()
    other = Gated(opened, "other")
    case.server(other, name="other")
    serving.close(0.0)
    equal(plain.result(PATIENCE), "other", "the server that ran what had not been started")
    with raises(Rejected, what="a strict method that may have run") as caught:
        strict.result(PATIENCE)
    equal(caught.error.delivered, Delivered.MAYBE, "delivered of the strict call")
    with raises(MessagingError, what="the call that was running") as caught:
        running.result(PATIENCE)
    equal(caught.error.delivered, Delivered.MAYBE, "delivered of the call that was running")
    equal(other.started.items, ["waiting"], "what the other server ran")


@lifecycle.add("at_least_once survives its server, and counts the attempt; it is refused where nothing is redelivered.")
def at_least_once(case: Case) -> None:
    """Settled after the handler: when the server goes, another runs it, as the second attempt."""
    doomed = Surviving(case.gate(), "doomed")
    if case.capabilities.redelivers == "none":
        with raises(Unsupported, what="at_least_once over a transport that redelivers nothing"):
            case.server(doomed, start=False)
        return
    serving = case.transport()
    case.server(doomed, name="doomed", over=serving)
    future = case.submit(case.client().prepare(call_monitor_timeout=0), "at_least_once", task="again")
    doomed.started.wait(1, "the handler at the server that will go")
    opened = case.gate()
    opened.set()
    case.server(Surviving(opened, "other"), name="other")
    serving.close(0.0)
    equal(future.result(PATIENCE * 2), ["other", 2, True], "the server, the attempt, and whether it was redelivered")
