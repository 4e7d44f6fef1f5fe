"""Notifications: who gets them, how often, in which order, and where those end that nobody could handle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from messaging import notify
from messaging.drivers.base import Role
from messaging.errors import DeadlineExceeded, Delivered, EncodeError, NoRoute, PipelineFailed
from messaging.message import MESSAGE_ID, Route
from messaging.target import Target
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import PATIENCE, Log, check, equal, eventually, once_each, punctual, raises
from messaging.testing.conformance.scenario import Group

__all__ = ["notifications"]

notifications = Group("notifications")

LEVELS = ("audit", "debug", "info", "warn", "error", "critical", "sample")


class Collector:
    """Writes down every event that it gets, and fails as often as it is told to."""

    def __init__(self, fail: Callable[[notify.Event[Any]], object] | None = None) -> None:
        self.events: Log[notify.Event[Any]] = Log()
        self.fail = fail

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> object:
        """Note an event; then do what `fail` says."""
        self.events.add(event)
        return self.fail(event) if self.fail is not None else None

    @property
    def payloads(self) -> list[Any]:
        """What the events said."""
        return [event.payload for event in self.events.items]


class Levels:
    """The predecessor's endpoint: a method for each level."""

    def __init__(self) -> None:
        self.seen: Log[tuple[Any, ...]] = Log()


def _level_method(level: str) -> Callable[..., None]:
    def method(
        self: Levels, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: dict[str, Any]
    ) -> None:
        self.seen.add((level, ctxt, publisher_id, event_type, payload, sorted(metadata)))

    method.__name__ = level
    return method


for _level in LEVELS:
    setattr(Levels, _level, _level_method(_level))


@notifications.add("A notification of each level arrives with everything that was said.")
def every_level(case: Case) -> None:
    """Context, publisher, type, payload and metadata; by the predecessor's methods and by `@notify.on`."""
    levels = Levels()
    collector = Collector()
    case.listener(levels, collector)
    notifier = case.notifier(publisher_id="compute.host-1")
    context = {"user": "Łukasz", "roles": ["a"]}
    for number, level in enumerate(LEVELS):
        payload = {"id": number, "ünïcode": "☃", "nested": [None, {"b": b"\x00"}]}
        getattr(notifier, level)(context, f"thing.{level}", payload, headers={"x-trace": str(number)})
    seen = levels.seen.wait(7, "notifications by level")
    events = collector.events.wait(7, "events")
    by_level = {entry[0]: entry for entry in seen}
    by_type = {event.event_type: event for event in events}
    for number, level in enumerate(LEVELS):
        payload = {"id": number, "ünïcode": "☃", "nested": [None, {"b": b"\x00"}]}
        wanted = (level, context, "compute.host-1", f"thing.{level}", payload, ["message_id", "timestamp"])
        equal(by_level[level], wanted, f"what the method {level} got")
        event = by_type[f"thing.{level}"]
        told = (event.level, event.context, event.publisher_id, event.payload, event.attempt, event.redelivered)
        equal(told, (level, context, "compute.host-1", payload, 1, False), f"the event at level {level}")
        equal(event.headers.get("x-trace"), str(number), "the header")
        check(abs(event.timestamp - time.time()) < 60, f"the timestamp is {event.timestamp}")
    equal(len({event.message_id for event in events}), 7, "different message ids")


@dataclass
class Instance:
    """A typed payload."""

    id: int
    name: str


@notifications.add("Handlers get what their pattern, level and filter ask for, converted to their annotation.")
def patterns_and_filters(case: Case) -> None:
    """What nobody wants is passed over; coroutine handlers work as functions do."""
    seen: Log[Any] = Log()

    class Picky:
        filter_rule = notify.Filter(publisher_id="^compute.*")

        @notify.on("instance.create.*", level="info")
        def created(self, event: notify.Event[Instance]) -> None:
            """A typed handler."""
            seen.add(("created", event.payload))

        @notify.on("instance.*", level=("info", "error"))
        async def any_instance(self, event: notify.Event[Any]) -> None:
            """A coroutine handler."""
            seen.add(("any", event.event_type))

    case.listener(Picky(), slots=2)
    compute = case.notifier(publisher_id="compute.host-1")
    compute.info({}, "instance.create.end", {"id": 1, "name": "one"})
    compute.error({}, "instance.delete", {})
    compute.warn({}, "instance.create.end", {"id": 2, "name": "wrong level"})
    compute.info({}, "volume.create", {})
    case.notifier(publisher_id="network").info({}, "instance.create.end", {"id": 3, "name": "wrong publisher"})
    # More than there are slots: each of them has to be given back.
    for number in range(10):
        compute.info({}, f"instance.{number}", {})
    wanted: list[Any] = [("created", Instance(1, "one")), ("any", "instance.create.end"), ("any", "instance.delete")]
    wanted += [("any", f"instance.{number}") for number in range(10)]
    got = seen.wait(13, "notifications that are wanted")
    equal(sorted(got, key=str), sorted(wanted, key=str), "what the handlers got")


@notifications.add("Every pool gets each notification, and in a pool one listener gets it, once.", needs=("pools",))
def pools_get_each_once(case: Case) -> None:
    """Two listeners share the pool "billing", a third is alone in "audit", a fourth in the default pool."""
    collectors = [Collector() for _ in range(4)]
    for collector, pool in zip(collectors, ("billing", "billing", "audit", None), strict=True):
        case.listener(collector, pool=pool)
    notifier = case.notifier()
    with notifier.pipeline() as pipeline:
        for number in range(100):
            pipeline.info({}, "event", number)
    first, second, audit, default = collectors
    eventually(lambda: len(first.events) + len(second.events) >= 100, "100 notifications in the pool billing")
    audit.events.wait(100, "notifications in the pool audit")
    default.events.wait(100, "notifications in the default pool")
    once_each(first.payloads + second.payloads, range(100), "notifications in the pool billing")
    once_each(audit.payloads, range(100), "notifications in the pool audit")
    once_each(default.payloads, range(100), "notifications in the default pool")


@notifications.add("Notifying where nobody has ever listened ends as the transport declares.")
def nobody_listens(case: Case) -> None:
    """NoRoute at once where it is known, which `unrouted="count"` only counts; else it is sent."""
    notifier = case.notifier(timeout=1.0)
    if case.capabilities.no_route not in ("consumer", "queue"):
        with punctual(1.0, "a notification to nobody"):
            _notify_or(notifier, DeadlineExceeded, NoRoute)
        return
    with punctual(1.0, "NoRoute"), raises(NoRoute, what="a notification to nobody") as caught:
        notifier.info({}, "event", {})
    equal(caught.error.delivered, Delivered.NO, "delivered")
    errors: Log[Any] = Log()
    case.notifier(on_error=lambda event, error: errors.add((event.event_type, type(error)))).info({}, "lost", {})
    equal(errors.items, [("lost", NoRoute)], "what on_error was told")
    case.notifier(unrouted="count").info({}, "counted", {})
    equal(case.calling.stats().get("notify.unroutable"), 3, "notifications that are counted as unroutable")


def _notify_or(notifier: Any, *kinds: type[Exception]) -> None:
    try:
        notifier.info({}, "event", {})
    except kinds:
        pass


@notifications.add("A failed handler is given the notification again, with its count, after the backoff.")
def failed_is_repeated(case: Case) -> None:
    """An exception, `Retry(after=…)` and REQUEUE each count as an attempt; the fourth one succeeds."""

    def fail(event: notify.Event[Any]) -> object:
        if event.attempt == 1:
            raise ValueError("the first attempt fails")
        if event.attempt == 2:
            raise notify.Retry(after=0.2)
        return notify.REQUEUE if event.attempt == 3 else None

    collector = Collector(fail)
    listener = case.listener(collector, backoff=0.05, max_backoff=0.1)
    case.notifier().info({}, "event", {"id": 1})
    began = time.monotonic()
    events = collector.events.wait(4, "four attempts")
    check(time.monotonic() - began >= 0.2, "the third attempt came before the time that Retry asked for")
    equal([event.attempt for event in events], [1, 2, 3, 4], "the attempts")
    equal([event.redelivered for event in events], [False, True, True, True], "whether they were redelivered")
    equal(len({event.message_id for event in events}), 1, "different message ids")
    eventually(lambda: listener.health()["in_hand"] == 0, "nothing is in hand after the attempt that succeeded")
    case.notifier().info({}, "event", {"id": 2})
    collector.events.wait(5, "the next notification")


@notifications.add("After its last attempt, or at Reject, a notification goes to `dead_letter=`, with the reason.")
def dead_letter_function(case: Case) -> None:
    """The function gets event, reason and error; the listener goes on."""
    buried: Log[Any] = Log()

    def fail(event: notify.Event[Any]) -> None:
        if event.payload == "poison":
            raise ValueError("this one always fails")
        if event.payload == "rejected":
            raise notify.Reject("not wanted")

    collector = Collector(fail)
    case.listener(
        collector,
        max_attempts=3,
        backoff=0.02,
        max_backoff=0.05,
        dead_letter=lambda event, reason, error: buried.add((event.payload, reason, type(error).__name__)),
    )
    notifier = case.notifier()
    for payload in ("poison", "rejected", "good"):
        notifier.info({}, "event", payload)
    found = {payload: (reason, error) for payload, reason, error in buried.wait(2, "two dead letters")}
    equal(sorted(found), ["poison", "rejected"], "the dead letters")
    check("this one always fails" in found["poison"][0], f"the reason for the poison: {found['poison']}")
    check("not wanted" in found["rejected"][0], f"the reason for the rejected one: {found['rejected']}")
    collector.events.wait(5, "all attempts")
    counts = {payload: collector.payloads.count(payload) for payload in ("poison", "rejected", "good")}
    equal(counts, {"poison": 3, "rejected": 1, "good": 1}, "the attempts")


@notifications.add(
    "Dead letters are kept, can be read, and can be sent again to their pool.", needs=("reject=dead_letter",)
)
def dead_letters_are_kept(case: Case) -> None:
    """It looks as it did when it was sent first, and another pool, where there are some, does not get it."""
    broken = [True]

    def fail(event: notify.Event[Any]) -> None:
        if broken[0]:
            raise notify.Reject("broken for now")

    collector = Collector(fail)
    other = Collector()
    case.listener(collector, pool=case.pool)
    if case.capabilities.pools:
        case.listener(other, pool="audit")
    case.notifier().info({"user": "u"}, "event", {"id": 1}, key="k", headers={"x-trace": "1-a"})
    collector.events.wait(1, "the attempt that is rejected")
    other.events.wait(int(case.capabilities.pools), "the notification in the other pool")
    broken[0] = False
    with case.face.notify("DeadLetters", case.calling, Target(topic=case.topic), pool=case.pool) as letters:
        eventually(lambda: letters.count(0.1) == 1, "one dead letter")
        equal(letters.replay_all(0.1), 1, "dead letters that were sent again")
    again = collector.events.wait(2, "the notification that was sent again")
    first, second = (msgspec.structs.asdict(event) for event in again)
    equal(second, first, "what was sent again")
    equal(len(other.events), int(case.capabilities.pools), "what the other pool got")


@notifications.add("Batches are cut by size and by age.")
def batches(case: Case) -> None:
    """Twelve notifications in batches of five: two are full at once, the rest comes when it is old enough."""
    seen: Log[tuple[float, list[Any]]] = Log()

    class Batches:
        @notify.on("*")
        def all(self, events: list[notify.Event[Any]]) -> None:
            """Note a batch."""
            seen.add((time.monotonic(), [event.payload for event in events]))

    case.listener(Batches(), batch=True, batch_size=5, batch_timeout=0.4, slots=1)
    began = time.monotonic()
    with case.notifier().pipeline() as pipeline:
        for number in range(12):
            pipeline.info({}, "event", number)
    cut = seen.wait(3, "three batches")
    equal([len(batch) for _, batch in cut], [5, 5, 2], "the sizes of the batches")
    once_each([payload for _, batch in cut for payload in batch], range(12), "notifications in batches")
    waited = cut[2][0] - began
    check(0.35 <= waited <= 2.0, f"the batch that was not full came after {waited:.3f} s instead of 0.4 s")


@notifications.add("Notifications of one key keep their order.", needs=("ordering=key|queue",))
def order_of_keys(case: Case) -> None:
    """Five keys, forty notifications each, through many slots: each key's are handled in order, none is lost."""
    collector = Collector()
    case.listener(collector, slots=8)
    with case.notifier().pipeline() as pipeline:
        for number in range(200):
            pipeline.info({}, "event", [number % 5, number], key=f"key-{number % 5}")
    collector.events.wait(200, "notifications")
    once_each([number for _, number in collector.payloads], range(200), "notifications")
    for key in range(5):
        got = [number for of, number in collector.payloads if of == key]
        equal(got, sorted(got), f"the order of key {key}")


@notifications.add("What is sent while a pool's listener is away waits for it.", needs=("storage",))
def stored_while_away(case: Case) -> None:
    """The pool has been there once; ten notifications later its listener comes back and gets them all."""
    before = Collector()
    listener = case.listener(before, pool=case.pool)
    notifier = case.notifier()
    notifier.info({}, "event", "before")
    before.events.wait(1, "the notification before")
    equal(listener.stop(2.0), True, "the listener stopped in time")
    for number in range(10):
        notifier.info({}, "event", number)
    after = Collector()
    case.listener(after, pool=case.pool)
    after.events.wait(10, "the notifications that were sent meanwhile")
    once_each(after.payloads, range(10), "notifications after the pause")


@notifications.add("A notification whose listener dies while handling it is handled by another.", needs=("redelivers",))
def survives_its_listener(case: Case) -> None:
    """It is settled after the handler, so it comes again, and says so."""
    gate = case.gate()
    doomed = Collector(lambda event: gate.wait(30))
    serving = case.transport()
    case.listener(doomed, over=serving, pool=case.pool)
    case.notifier().info({}, "event", "survivor")
    doomed.events.wait(1, "the attempt that will die")
    other = Collector()
    case.listener(other, pool=case.pool)
    serving.close(0.0)
    (event,) = other.events.wait(1, "the attempt of the other listener", 2 * PATIENCE)
    equal((event.payload, event.redelivered), ("survivor", True), "what the other listener got")


@notifications.add("A notifier's pipeline waits for every outcome; failures carry their positions.")
def notification_pipeline(case: Case) -> None:
    """Two hundred arrive; what cannot be encoded is told at once; to nobody, every one is told."""
    collector = Collector()
    case.listener(collector)
    notifier = case.notifier()
    with notifier.pipeline() as pipeline:
        for number in range(200):
            pipeline.info({}, "event", number)
    collector.events.wait(200, "notifications")
    once_each(collector.payloads, range(200), "notifications")
    with raises(EncodeError, what="a payload that cannot be encoded") as caught:
        notifier.info({}, "event", {"what": object()})
    check("payload" in str(caught.error), f"the error does not name the payload: {caught.error}")
    equal(caught.error.delivered, Delivered.NO, "delivered")
    if case.capabilities.no_route in ("consumer", "queue"):
        lost = case.notifier(topic=f"{case.topic}-nobody")
        with raises(PipelineFailed, what="a pipeline to nobody") as caught:
            with lost.pipeline() as pipeline:
                for number in range(3):
                    pipeline.info({}, "event", number)
        equal([error.index for error in caught.error.exceptions], [0, 1, 2], "the positions of the failures")
        kinds = {type(error) for error in caught.error.exceptions}
        equal(kinds, {NoRoute}, "the failures")


@notifications.add("Bytes that nobody can decode harm no listener: they are counted, and end.")
def undecodable_notifications(case: Case) -> None:
    """A stranger sends garbage to the topic over a bare connection; the next notification is handled."""
    collector = Collector()
    serving = case.transport()
    case.listener(collector, over=serving, backoff=0.01, max_attempts=2)
    stranger = case.bare(Role.NOTIFIER)
    garbage = [b"", b"garbage", b"\x93\x01\x08", b"\xff" * 100]
    for number, body in enumerate(garbage):
        stranger.publish(Route.pools(case.exchange, case.topic), body, headers={MESSAGE_ID: f"garbage-{number}"})
    stranger.until(
        lambda: serving.stats().get("listener.undecodable", 0) >= len(garbage),
        "the garbage is counted",
    )
    case.notifier().info({}, "event", "good")
    collector.events.wait(1, "the notification after the garbage")
    equal(collector.payloads, ["good"], "what was handled")


@notifications.add("A listener that stops finishes what runs; what it has not started is not lost where it is stored.")
def listener_drains(case: Case) -> None:
    """One slot is busy and more wait when it stops: each is handled once, here or by the next listener."""
    gate = case.gate()
    first = Collector(lambda event: gate.wait(30))
    listener = case.listener(first, slots=1, pool=case.pool)
    with case.notifier().pipeline() as pipeline:
        for number in range(10):
            pipeline.info({}, "event", number)
    first.events.wait(1, "a handler that runs")
    second = Collector()
    # Where a settlement means all before it, what was not started moves only when what runs has ended.
    moves_at_once = case.capabilities.acceptance == "backend" and case.capabilities.settle == "each"
    if case.capabilities.settle != "cumulative":
        case.listener(second, pool=case.pool)
    stopped: Log[bool] = Log()
    stopping = threading.Thread(target=lambda: stopped.add(listener.stop(PATIENCE)), daemon=True)
    stopping.start()
    if moves_at_once:
        second.events.wait(9, "notifications that moved to the other listener")
    elif case.capabilities.settle == "cumulative":
        eventually(lambda: listener.health()["in_hand"] == 1, "what was not started is handed back")
    gate.set()
    equal(stopped.wait(1, "the end of stop()"), [True], "stop() says that all ended in time")
    if case.capabilities.settle == "cumulative":
        case.listener(second, pool=case.pool)
    eventually(lambda: len(first.events) + len(second.events) >= 10, "all ten are handled")
    once_each(first.payloads + second.payloads, range(10), "notifications")
