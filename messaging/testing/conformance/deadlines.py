"""Time: deadlines that are kept, budgets that are inherited, callers that give up, servers that are slow or gone."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait
from typing import Any

from messaging import rpc
from messaging.deadline import deadline
from messaging.errors import ConnectionLost, DeadlineExceeded, Delivered, MessagingError, ServerLost
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import PATIENCE, Log, check, equal, eventually, punctual, raises
from messaging.testing.conformance.scenario import Group

__all__ = ["deadlines"]

deadlines = Group("deadlines", needs=("rpc",))


class Slow:
    """Holds its callers until the gate opens."""

    def __init__(self, gate: threading.Event, name: str = "a") -> None:
        self.gate = gate
        self.name = name
        self.started: Log[Any] = Log()
        self.ended: Log[Any] = Log()

    @rpc.expose
    def hold(self, ctxt: dict[str, Any], task: Any = None) -> str:
        """Wait for the gate."""
        self.started.add(task)
        self.gate.wait(30)
        self.ended.add(task)
        return self.name

    @rpc.expose
    def until_cancelled(self, ctxt: dict[str, Any], task: Any = None) -> None:
        """Wait until the caller is gone."""
        self.started.add(task)
        request = rpc.current()
        eventually(lambda: request.cancelled, "the request is cancelled")
        self.ended.add(task)

    @rpc.expose
    async def hold_as_coroutine(self, ctxt: dict[str, Any], task: Any = None) -> None:
        """Wait in a coroutine, which a cancelled caller ends."""
        import asyncio

        self.started.add(task)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.add(task)

    @rpc.expose
    def quick(self, ctxt: dict[str, Any], value: Any = None) -> Any:
        """Answer at once."""
        return value


@deadlines.add("A call ends at its deadline, however long the handler takes.")
def deadline_of_a_slow_handler(case: Case) -> None:
    """The caller is told within 100 ms that a server has it, and that the outcome is in doubt."""
    slow = Slow(case.gate())
    case.server(slow)
    client = case.client()
    client.call({}, "quick")
    for seconds in (0.3, 0.6):
        with punctual(seconds, "a call"), raises(DeadlineExceeded, what="a call to a slow handler") as caught:
            client.prepare(timeout=seconds).call({}, "hold")
        equal(caught.error.delivered, Delivered.MAYBE, "delivered")
        check(caught.error.phase in ("reply", "accept", "silent"), f"the phase is {caught.error.phase}")
    equal(client.call({}, "quick", value=1), 1, "the next call")


@deadlines.add("A hundred calls that nobody answers all end at their deadline.")
def deadline_of_many(case: Case) -> None:
    """A server with one slot takes one of them; the others wait, and none of them waits longer."""
    slow = Slow(case.gate())
    case.server(slow, slots=1)
    client = case.client()
    client.call({}, "quick")
    hurried = client.prepare(timeout=0.5)
    futures = [case.submit(hurried, "hold", task=number) for number in range(100)]
    # The last of them begins now; how long it takes to make a hundred is not the question.
    eventually(lambda: len(case.under_way()) == 100 or futures[0].done(), "all calls are under way")
    with punctual(0.5, "100 calls"):
        done, left = wait(futures, timeout=5)
    check(not left, f"{len(left)} of 100 calls have no outcome")
    kinds = {type(future.exception()).__name__ for future in done}
    equal(kinds, {"DeadlineExceeded"}, "the outcomes")


@deadlines.add(
    "An operation that finds no connection ends at its deadline, proven not delivered.", hooks=("unreachable",)
)
def deadline_without_a_connection(case: Case) -> None:
    """Calls and casts to an address where nobody is: in time, delivered NO, and the cause is told."""
    client = case.client(over=case.transport(case.unreachable()), timeout=0.5)
    for verb in (client.call, client.cast):
        with punctual(0.5, "an operation without a connection"), raises(MessagingError) as caught:
            verb({}, "work")
        equal(caught.error.delivered, Delivered.NO, f"delivered of {caught.error!r}")


@deadlines.add("A request whose caller has stopped waiting is never executed.")
def expired_is_never_executed(case: Case) -> None:
    """It waits behind a slow one until its deadline has passed; when its turn comes, it is passed over and counted."""
    gate = case.gate()
    slow = Slow(gate)
    serving = case.transport()
    case.server(slow, slots=1, over=serving)
    client = case.client()
    blocking = case.submit(client, "hold", task="first")
    slow.started.wait(1, "the call that occupies the server")
    with punctual(0.3, "the call that expires"), raises(DeadlineExceeded):
        client.prepare(timeout=0.3).call({}, "hold", task="expired")
    # The server counts from its receipt, so its clock runs out a little later than the caller's.
    _, left = wait([blocking], timeout=0.1)
    check(left, "the call that occupies the server has ended by itself")
    gate.set()
    equal(blocking.result(PATIENCE), "a", "the call that occupied the server")
    equal(client.call({}, "hold", task="last"), "a", "the call after it")
    equal(slow.started.items, ["first", "last"], "what was executed")


@deadlines.add("The caller's budget reaches the handler.")
def budget_reaches_the_handler(case: Case) -> None:
    """`rpc.current().deadline` counts down from the caller's timeout."""

    class Watch:
        @rpc.expose
        def left(self, ctxt: dict[str, Any]) -> float:
            """Return the seconds that are left."""
            return rpc.current().deadline.remaining()

    case.server(Watch())
    client = case.client()
    for timeout in (5.0, 1.5):
        left = client.prepare(timeout=timeout).call({}, "left")
        check(timeout - 1.0 < left <= timeout + 0.05, f"of {timeout:g} s the handler sees {left:.3f} s")
    with deadline(3.0):
        left = client.call({}, "left")
    check(2.0 < left <= 3.05, f"of a block of 3 s the handler sees {left:.3f} s")


@deadlines.add("A call made by a handler inherits what is left of its caller's deadline.")
def nested_call_inherits(case: Case) -> None:
    """The nested call's own timeout of 10 s is cut to the outer one's; a cast starts afresh."""
    slow = Slow(case.gate())
    inner_topic = f"{case.topic}-inner"
    case.server(slow, name="inner", topic=inner_topic)
    client = case.client()
    inner = case.client(topic=inner_topic, over=case.transport())
    inner.call({}, "quick")
    outcomes: Log[Any] = Log()

    class Outer:
        @rpc.expose
        def outer(self, ctxt: dict[str, Any]) -> None:
            """Call on, with a timeout that is longer than the caller's."""
            try:
                with punctual(0.5, "the nested call"):
                    inner.call({}, "hold", task="nested")
            except BaseException as error:
                outcomes.add(error)
            inner.cast({}, "quick")
            outcomes.add("cast")

    case.server(Outer())
    with punctual(0.5, "the outer call"), raises(DeadlineExceeded):
        client.prepare(timeout=0.5).call({}, "outer")
    error, cast = outcomes.wait(2, "the outcomes inside of the handler")
    check(isinstance(error, DeadlineExceeded), f"the nested call ended with {error!r}")
    equal(cast, "cast", "what came after the nested call")


@deadlines.add("Cancelling a call frees its caller at once and sets `.cancelled` on the server.")
def cancel_reaches_the_server(case: Case) -> None:
    """A handler in a thread sees it, a coroutine is cancelled; other calls do not notice."""
    slow = Slow(case.gate())
    case.server(slow)
    client = case.client()
    for method in ("until_cancelled", "hold_as_coroutine"):
        future = case.submit(client, method, task=method)
        bystander = case.submit(client, "quick", value=method)
        slow.started.wait(1 + len(slow.ended), "the call that will be cancelled")
        # A server learns whom to tell when it accepts, which it does within 50 ms.
        case.accepted(future)
        with punctual(0.2, "cancelling"), raises(CancelledError):
            future.cancel()
            future.result(5)
        slow.ended.wait(1 if method == "until_cancelled" else 2, f"{method} hears of the cancel", 3.0)
        equal(bystander.result(PATIENCE), method, "the call of a bystander")
    check(case.calling.stats().get("call.cancelled", 0) >= 2, f"cancelled calls: {case.calling.stats()}")


@deadlines.add("An answer that comes too late goes to nobody, and is counted.")
def late_reply(case: Case) -> None:
    """The caller has given up; the next call of the same client gets its own answer."""
    gate = case.gate()
    slow = Slow(gate)
    serving = case.transport()
    case.server(slow, over=serving)
    client = case.client()
    future = case.submit(client, "hold", task="abandoned")
    slow.started.wait(1, "the call that will be abandoned")
    future.cancel()
    eventually(lambda: case.calling.stats().get("call.cancelled") == 1, "the call is cancelled")
    gate.set()
    slow.ended.wait(1, "the handler's end")
    for number in range(10):
        equal(client.call({}, "quick", value=number), number, "an answer after the late one")
    eventually(
        lambda: (
            case.calling.stats().get("call.late_replies", 0) + serving.stats().get("server.undelivered_replies", 0) == 1
        ),
        lambda: f"one late answer is counted: {case.calling.stats()} {serving.stats()}",
    )


@deadlines.add("A slow handler is no lost server: its signs of life keep the call.")
def heartbeats(case: Case) -> None:
    """The handler runs five times longer than the silence that would mean a lost server."""
    gate = case.gate()
    slow = Slow(gate)
    case.server(slow)
    future = case.submit(case.client().prepare(call_monitor_timeout=0.6), "hold", task="long")
    slow.started.wait(1, "the slow call")
    _, left = wait([future], timeout=3.2)
    check(left, f"the call ended early with {future.done() and future.exception()!r}")
    gate.set()
    equal(future.result(PATIENCE), "a", "the answer of the slow handler")


@deadlines.add("The callers of a server that is gone are told so, and what may have run is not run again.")
def server_lost(case: Case) -> None:
    """Within the silence that was allowed: ServerLost or ConnectionLost, MAYBE; the other server stays idle."""
    gate = case.gate()
    doomed = Slow(gate, "doomed")
    serving = case.transport()
    case.server(doomed, name="doomed", over=serving)
    client = case.client().prepare(call_monitor_timeout=0.6)
    future = case.submit(client, "hold", task="in doubt")
    doomed.started.wait(1, "the call at the server that will go")
    case.accepted(future)
    other = Slow(gate, "other")
    case.server(other, name="other")
    serving.close(0.0)
    with raises(ServerLost, ConnectionLost, what="a call whose server is gone") as caught:
        future.result(3.0)
    equal(caught.error.delivered, Delivered.MAYBE, "delivered")
    equal(client.call({}, "quick", value=1), 1, "a call to the server that is left")
    equal(other.started.items, [], "what the other server was made to run")


@deadlines.add("An idempotent call whose server is gone is sent again to another.")
def idempotent_call_moves_on(case: Case) -> None:
    """With `idempotent=True` MAYBE may be repeated, within the deadline."""
    doomed = Slow(case.gate(), "doomed")
    serving = case.transport()
    case.server(doomed, name="doomed", over=serving)
    client = case.client().prepare(call_monitor_timeout=0.6, idempotent=True)
    future = case.submit(client, "hold", task="again")
    doomed.started.wait(1, "the call at the server that will go")
    case.accepted(future)
    opened = case.gate()
    opened.set()
    other = Slow(opened, "other")
    case.server(other, name="other")
    serving.close(0.0)
    equal(future.result(PATIENCE), "other", "the server that answered in the end")
    equal(other.started.items, ["again"], "what the other server ran")
