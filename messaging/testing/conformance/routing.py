"""Who gets a message: one server, the named one, every one, or nobody, and what the sender is told."""

from __future__ import annotations

from concurrent.futures import wait
from typing import Any

from messaging import rpc
from messaging.errors import (
    ConnectFailed,
    DeadlineExceeded,
    Delivered,
    MessagingError,
    MethodNotFound,
    NoRoute,
    Overloaded,
    PipelineFailed,
)
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import PATIENCE, Log, check, equal, eventually, once_each, punctual, raises
from messaging.testing.conformance.scenario import Group

__all__ = ["routing"]

routing = Group("routing", needs=("rpc",))

_AT_ONCE = 1.0
"""Seconds within which "at once" is: far below the deadline of the operations here, far above a round trip."""
_IN_VAIN = 5
"""Calls of which one must be told with proof that nobody had it: attempts are under way for a hundredth of the time."""


class Worker:
    """Writes down what it was asked to do, and by whose name."""

    def __init__(self, name: str, log: Log[Any]) -> None:
        self.name = name
        self.log = log

    @rpc.expose
    def work(self, ctxt: dict[str, Any], task: Any = None) -> str:
        """Note the task."""
        self.log.add((self.name, task))
        return self.name


@routing.add("A call to a topic goes to one of its servers, and each of them gets its share.")
def any_spreads(case: Case) -> None:
    """Every call is done once; as soon as its client knows all three servers, none of them is left out."""
    log: Log[Any] = Log()
    for name in "abc":
        case.server(Worker(name, log), name=name)
    client = case.client()
    given: list[int] = []

    def thirty_more() -> bool:
        tasks = range(len(given), len(given) + 30)
        given.extend(tasks)
        names = {future.result(PATIENCE) for future in [case.submit(client, "work", task=task) for task in tasks]}
        return names == {"a", "b", "c"}

    eventually(thirty_more, lambda: f"three servers share 30 calls: {log.items}")
    once_each([task for _, task in log.items], given, "tasks done")


@routing.add("A call to a named server reaches that one alone.", needs=("direct",))
def direct_to_one_server(case: Case) -> None:
    """Among three servers of a topic, the prepared name decides; calls and casts alike."""
    log: Log[Any] = Log()
    for name in "abc":
        case.server(Worker(name, log), name=name)
    client = case.client()
    for number, name in enumerate("abcab" * 4):
        equal(client.prepare(server=name).call({}, "work", task=number), name, "the server that answered")
    client.prepare(server="b").cast({}, "work", task="cast")
    log.wait(21, "tasks done")
    equal(log.items[-1], ("b", "cast"), "the server of the cast")


@routing.add("A call to a name that nobody has is told NoRoute at once.", needs=("direct", "no_route=consumer|queue"))
def unknown_server(case: Case) -> None:
    """Other servers of the topic do not stand in for it."""
    log: Log[Any] = Log()
    case.server(Worker("a", log))
    client = case.client().prepare(server="nobody")
    for verb in (client.call, client.cast):
        with punctual(_AT_ONCE, "NoRoute"), raises(NoRoute, ConnectFailed, what="an unknown server") as caught:
            verb({}, "work")
        equal(caught.error.delivered, Delivered.NO, "delivered")
    equal(log.items, [], "tasks done")


@routing.add("A cast is handed over and executed exactly once.")
def cast_executed_once(case: Case) -> None:
    """200 casts to two servers: each is done, none twice, though nobody waits for an answer."""
    log: Log[Any] = Log()
    case.server(Worker("a", log), name="a")
    case.server(Worker("b", log), name="b")
    client = case.client()
    with client.pipeline() as pipeline:
        for number in range(199):
            pipeline.cast({}, "work", task=number)
    client.cast({}, "work", task=199)
    log.wait(200, "casts done")
    client.call({}, "work", task="after")
    once_each([task for _, task in log.items if task != "after"], range(200), "casts done")


@routing.add("A fanout reaches every server of the topic, each once.", needs=("fanout",))
def fanout_reaches_all(case: Case) -> None:
    """Both spellings; where the transport can count, it tells the number of servers."""
    log: Log[Any] = Log()
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        case.server(Worker(name, log), name=name)
    case.server(Worker("stranger", log), name="stranger", topic=f"{case.topic}-other")
    client = case.client()
    for number in range(5):
        outcome = client.fanout({}, "work", task=number)
        check(outcome.sent in (None, 5), f"a fanout to 5 servers says that it was sent to {outcome.sent}")
        check(outcome.failed in (None, 0), f"a fanout to 5 servers says that {outcome.failed} failed")
    client.prepare(fanout=True).cast({}, "work", task=5)
    log.wait(30, "parts of fanouts done")
    once_each(log.items, [(name, number) for name in names for number in range(6)], "parts of fanouts done")


@routing.add("A fanout to nobody is no error.", needs=("fanout",))
def fanout_to_nobody(case: Case) -> None:
    """It reaches every server there is, which is none."""
    outcome = case.client().fanout({}, "work")
    check(outcome.sent in (None, 0) and outcome.failed in (None, 0), f"a fanout to nobody told {outcome}")


@routing.add("Whoever sends to nobody is told as the transport declares, within the deadline.")
def nobody_there(case: Case) -> None:
    """NoRoute at once where it is known; else the deadline ends it, and it says that nobody has accepted."""
    client = case.client(timeout=1.0)
    if case.capabilities.no_route in ("consumer", "queue"):
        for verb in (client.call, client.cast):
            with punctual(_AT_ONCE, "NoRoute"), raises(NoRoute, what="a topic without servers") as caught:
                verb({}, "work")
            equal(caught.error.delivered, Delivered.NO, "delivered")
        return
    with punctual(1.0, "a call to nobody"), raises(NoRoute, DeadlineExceeded, what="a call to nobody") as caught:
        client.call({}, "work")
    if isinstance(caught.error, DeadlineExceeded):
        check(caught.error.phase in ("accept", "silent"), f"the phase is {caught.error.phase}")
        equal(caught.error.delivered, Delivered.MAYBE, "delivered")


@routing.add(
    "With wait_for_ready a call waits for its server, within its deadline.", needs=("no_route=consumer|queue",)
)
def wait_for_ready(case: Case) -> None:
    """A server that comes up later gets the call, once; without one, NoRoute or the deadline ends the wait in time."""
    log: Log[Any] = Log()
    client = case.client().prepare(wait_for_ready=True)
    future = case.submit(client, "work", task="early")
    hurried = client.prepare(timeout=0.4)
    for _ in range(_IN_VAIN):
        with punctual(0.4, "a wait in vain"), raises(NoRoute, DeadlineExceeded, what="a wait in vain") as caught:
            hurried.call({}, "work", task="in vain")
        if getattr(caught.error, "phase", "") != "accept":
            break
        # The deadline came while an attempt was under way, of which nothing is known: no proof, and it says so.
        equal(caught.error.delivered, Delivered.MAYBE, "delivered of a call whose last attempt was under way")
    equal(caught.error.delivered, Delivered.NO, "delivered of a call that found nobody")
    check(not future.done(), "the call that waits has ended without a server")
    case.server(Worker("a", log))
    equal(future.result(10), "a", "the answer to the call that waited")
    equal(log.items, [("a", "early")], "tasks done")


@routing.add("`retry` repeats what is proven not delivered, as often as it says.", needs=("no_route=consumer|queue",))
def retry_of_the_undelivered(case: Case) -> None:
    """NoRoute is proof: retry=0 raises at once, a large number finds the server that comes up, and runs once."""
    log: Log[Any] = Log()
    client = case.client()
    with punctual(_AT_ONCE, "a call with retry=0"), raises(NoRoute):
        client.prepare(retry=0).call({}, "work", task="never")
    with punctual(_AT_ONCE, "a call with retry=2"), raises(NoRoute):
        client.prepare(retry=2).call({}, "work", task="never")
    future = case.submit(client.prepare(retry=1_000), "work", task="late")
    case.server(Worker("a", log))
    equal(future.result(10), "a", "the answer to the call that was sent again")
    equal(log.items, [("a", "late")], "tasks done")


@routing.add("A pipeline waits for every outcome and tells each failure with its position.")
def pipeline_outcomes(case: Case) -> None:
    """Values stand at the positions of their operations; failures come together, each with `.index`."""
    log: Log[Any] = Log()
    case.server(Worker("a", log))
    client = case.client()
    with client.pipeline() as good:
        for number in range(50):
            good.call({}, "work", task=number)
        good.cast({}, "work", task=50)
    equal(good.results(), ["a"] * 50 + [None], "the results of a pipeline")
    with raises(PipelineFailed, what="a pipeline with two wrong calls") as caught:
        with client.pipeline() as bad:
            for number in range(10):
                bad.call({}, "no_such_method" if number in (3, 7) else "work")
    failed = {error.index: type(error) for error in caught.error.exceptions}
    equal(failed, {3: MethodNotFound, 7: MethodNotFound}, "the failures by position")
    equal([value == "a" for value in bad.results()], [n not in (3, 7) for n in range(10)], "the other results")
    check(isinstance(caught.error, MessagingError), "PipelineFailed is no MessagingError")


@routing.add("When start() returns, peers can reach the server.")
def started_is_reachable(case: Case) -> None:
    """The first call after start() finds the server, every time, though its client has been connected for long."""
    log: Log[Any] = Log()
    case.server(Worker("first", log), name="first", topic=f"{case.topic}-warm")
    client = case.client()
    client.prepare(topic=f"{case.topic}-warm").call({}, "work")
    for number in range(5):
        topic = f"{case.topic}-{number}"
        case.server(Worker("a", log), topic=topic)
        equal(client.prepare(topic=topic).call({}, "work"), "a", "the first call to a new server")


@routing.add("What is stored for a named server waits for it.", needs=("direct", "storage"))
def stored_for_a_server(case: Case) -> None:
    """`store=` keeps a cast for a server that has never been there; without it there may be no route."""
    log: Log[Any] = Log()
    client = case.client().prepare(server="late")
    if case.capabilities.no_route in ("consumer", "queue"):
        with raises(NoRoute, what="a cast to a server that is not there"):
            client.cast({}, "work", task="lost")
    for number in range(3):
        client.prepare(store=60).cast({}, "work", task=number)
    case.server(Worker("early", log), name="early")
    case.server(Worker("late", log), name="late")
    log.wait(3, "casts that were stored")
    once_each(log.items, [("late", number) for number in range(3)], "casts that were stored")


@routing.add("A server that is full says so, and its callers are told by their deadline.", needs=("acceptance=peer",))
def overload_is_told(case: Case) -> None:
    """One slot and an inbox of five: most of what is beyond is proven not delivered, and none of that ever runs."""
    gate = case.gate()
    log: Log[Any] = Log()

    class Full:
        @rpc.expose
        def wait(self, ctxt: dict[str, Any], task: Any = None) -> bool:
            """Wait for the gate."""
            log.add(task)
            return gate.wait(30)

    case.server(Full(), slots=1, inbox=5)
    client = case.client()
    futures = [case.submit(client.prepare(timeout=0.6), "wait", task=task) for task in range(20)]
    with punctual(0.6, "calls to a server that is full"):
        wait(futures, timeout=5)
    errors = dict(enumerate(future.exception(0.1) for future in futures))
    kinds = {type(error) for error in errors.values()}
    check(kinds <= {Overloaded, DeadlineExceeded}, f"the calls ended with {kinds}")
    # What was on its way once more when its deadline came is in doubt, so not all fifteen need be proven.
    refused = [task for task, error in errors.items() if getattr(error, "delivered", None) is Delivered.NO]
    check(len(refused) >= 10, f"{len(refused)} of 20 calls are proven not delivered: {errors}")
    gate.set()
    equal(client.call({}, "wait", task="last"), True, "a call when there is room again")
    equal([task for task in log.items if task in refused], [], "what ran though its error says NO")
