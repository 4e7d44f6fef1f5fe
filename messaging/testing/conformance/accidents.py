"""Connections that are cut while they are used: what is lost is told, and what is told is true.

The handlers' own record decides, not the library's counters: what succeeded was run, what is proven NO was not, and
nothing is run twice, unless it says that it was delivered again.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import wait
from typing import Any

from messaging import notify, rpc
from messaging.errors import DeadlineExceeded, Delivered, MessagingError, PipelineFailed
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import PATIENCE, Log, check, equal, eventually, raises
from messaging.testing.conformance.scenario import Group
from messaging.transport import Transport

__all__ = ["accidents"]

accidents = Group("accidents")


class Ledger:
    """Writes down every execution: which task, and whether it said that it was delivered again."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate
        self.entries: Log[tuple[Any, bool]] = Log()

    @rpc.expose
    def run(self, ctxt: dict[str, Any], task: Any = None) -> Any:
        """Write down a task, and wait for the gate if there is one."""
        self.entries.add((task, rpc.current().redelivered))
        if self.gate is not None:
            self.gate.wait(30)
        return task

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Write down a notification."""
        self.entries.add((event.payload, event.redelivered))

    def times(self, task: Any) -> int:
        """How often a task was run, deliveries not counted that called themselves repeated."""
        return self.entries.items.count((task, False))

    def ran(self, task: Any) -> bool:
        """Whether a task was run at all."""
        return any(entry == task for entry, _ in self.entries.items)


class Cuts:
    """Cuts the caller's and the server's connection by turns, in the middle of a stream of messages."""

    def __init__(self, case: Case, serving: Transport) -> None:
        self._case = case
        self._ends = itertools.cycle([case.calling, serving])

    def at(self, number: int) -> None:
        """After every 25th message, cut; whatever was cut before is connected again by then."""
        if number % 25 == 24:
            end = next(self._ends)
            eventually(lambda: end.health()["connected"], "a connection that was cut is there again")
            self._case.disconnect(end)


def _judge(ledger: Ledger, outcomes: dict[Any, BaseException | None]) -> None:
    """Compare what callers were told with what the handlers have done."""
    for task, error in outcomes.items():
        times = ledger.times(task)
        check(times <= 1, f"{task} was run {times} times, and no delivery said that it was repeated")
        if error is None:
            check(ledger.ran(task), f"{task} was reported as done and was never run")
        else:
            check(isinstance(error, MessagingError), f"{task} ended with {error!r}")
            if getattr(error, "delivered", None) is Delivered.NO:
                check(not ledger.ran(task), f"{task} was run, though its error says NO: {error!r}")


def _still_works(client: rpc.Client) -> None:
    # The last cut may be noticed only now, so the call may have to be sent again.
    equal(client.prepare(idempotent=True).call({}, "run", task="last"), "last", "a call after the cuts")


@accidents.add(
    "Calls in a stream of cuts are answered, or told the truth.",
    needs=("rpc",),
    hooks=("disconnect",),
)
def calls_among_cuts(case: Case) -> None:
    """Three hundred calls while both ends are cut again and again: each has an outcome, and the record agrees."""
    ledger = Ledger()
    serving = case.transport()
    case.server(ledger, over=serving)
    client = case.client(timeout=5).prepare(wait_for_ready=True, call_monitor_timeout=1.0)
    client.call({}, "run", task="first")
    cuts = Cuts(case, serving)
    futures = {}
    for number in range(300):
        futures[number] = case.submit(client, "run", task=number)
        cuts.at(number)
    _, left = wait(futures.values(), timeout=PATIENCE)
    check(not left, f"{len(left)} of 300 calls have no outcome")
    _judge(ledger, {number: future.exception() for number, future in futures.items()})
    _still_works(client)


@accidents.add(
    "Casts in a stream of cuts are executed once, or their sender is told.",
    needs=("rpc", "confirms"),
    hooks=("disconnect",),
)
def casts_among_cuts(case: Case) -> None:
    """Three hundred casts through a pipeline: what was not told as failed has been run."""
    ledger = Ledger()
    serving = case.transport()
    case.server(ledger, over=serving)
    client = case.client(timeout=5).prepare(wait_for_ready=True)
    client.cast({}, "run", task="first")
    errors: dict[int, BaseException] = {}
    cuts = Cuts(case, serving)
    try:
        with client.pipeline() as pipeline:
            for number in range(300):
                pipeline.cast({}, "run", task=number)
                cuts.at(number)
    except PipelineFailed as failed:
        errors = {getattr(error, "index", -1): error for error in failed.exceptions}
    good = [number for number in range(300) if number not in errors]
    eventually(
        lambda: all(map(ledger.ran, good)),
        lambda: f"what was taken is run; missing: {[number for number in good if not ledger.ran(number)][:10]}",
    )
    _still_works(client)
    _judge(ledger, {number: errors.get(number) for number in good + list(errors)})


@accidents.add("Notifications in a stream of cuts arrive, or their sender is told.", hooks=("disconnect",))
def notifications_among_cuts(case: Case) -> None:
    """Three hundred through a pipeline while both ends are cut; where the transport has storage, all arrive."""
    ledger = Ledger()
    serving = case.transport()
    case.listener(ledger, over=serving, pool=case.pool)
    notifier = case.notifier(timeout=5, unrouted="raise")
    notifier.info({}, "event", "first")
    errors: dict[int, BaseException] = {}
    cuts = Cuts(case, serving)
    try:
        with notifier.pipeline() as pipeline:
            for number in range(300):
                pipeline.info({}, "event", number)
                cuts.at(number)
    except PipelineFailed as failed:
        errors = {getattr(error, "index", -1): error for error in failed.exceptions}
    if case.capabilities.storage:
        equal(errors, {}, "what was told as failed, though it could be sent again")
    eventually(
        lambda: all(ledger.ran(number) for number in range(300) if number not in errors),
        lambda: (
            f"all arrive that were not told as failed; missing: "
            f"{[number for number in range(300) if number not in errors and not ledger.ran(number)][:10]}"
        ),
    )
    for number, error in errors.items():
        if getattr(error, "delivered", None) is Delivered.NO:
            check(not ledger.ran(number), f"{number} has arrived, though its error says NO: {error!r}")


@accidents.add(
    "After its connection was cut, a server serves again, and clients call again.",
    needs=("rpc",),
    hooks=("disconnect",),
)
def reconnects(case: Case) -> None:
    """Cut on either side, five times: nothing has to be built anew, and calls that wait for it get their answers."""
    serving = case.transport()
    case.server(Ledger(), over=serving)
    client = case.client().prepare(wait_for_ready=True, idempotent=True)
    equal(client.call({}, "run", task="before"), "before", "a call before")
    for number in range(5):
        case.disconnect(serving if number % 2 else case.calling)
        equal(client.call({}, "run", task=number), number, f"a call after cut {number}")
    eventually(lambda: case.calling.health()["connected"], "the transport is connected again")


@accidents.add(
    "A call that is under way when its caller's connection is cut ends as its transport declares.",
    needs=("rpc",),
    hooks=("disconnect",),
)
def cut_under_way(case: Case) -> None:
    """Where the reply address survives, the answer arrives; else ConnectionLost(MAYBE) at once. It is run once."""
    gate = case.gate()
    ledger = Ledger(gate)
    case.server(ledger)
    over = case.transport()
    future = case.submit(case.client(over=over, timeout=5), "run", task="under way")
    ledger.entries.wait(1, "the call under way")
    case.disconnect(over)
    if case.capabilities.stable_reply_address:
        eventually(lambda: over.health()["connected"], "the caller is connected again")
        gate.set()
        equal(future.result(PATIENCE), "under way", "the answer after the cut")
    else:
        with raises(MessagingError, what="a call that was cut") as caught:
            future.result(1.0)
        check(not isinstance(caught.error, DeadlineExceeded), "the caller waited for its deadline")
        equal(caught.error.delivered, Delivered.MAYBE, "delivered")
        gate.set()
    equal(case.client().ping(), "a", "a call of another client")
    equal([task for task, _ in ledger.entries.items], ["under way"], "what was run")
