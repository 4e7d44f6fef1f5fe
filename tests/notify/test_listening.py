"""What a listener promises: who gets what, in which order, by which handlers."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from messaging import (
    Closed,
    ConfigError,
    Delivered,
    InvalidTarget,
    MessagingError,
    StateError,
    Target,
    Transport,
    notify,
    open_transport,
)
from messaging.drivers.base import Role
from messaging.errors import NotStarted
from messaging.message import Outgoing, Route
from messaging.target import DEFAULT_EXCHANGE
from tests.notify.rig import LONG, TARGETS, TOPIC, Everything, Seen, balanced, count, until


def test_every_pool_gets_all_and_shares_it(url: str) -> None:
    """Each pool gets every notification once; the listeners of one pool divide them."""
    # Each in a process's place of its own: whose process has less to do gets more.
    with (
        open_transport(url) as own,
        open_transport(url) as one,
        open_transport(url) as two,
        open_transport(url) as sender,
    ):
        alone, shared = Everything(), [Everything(), Everything()]
        with (
            notify.Listener(own, TARGETS, [alone], pool="billing"),
            notify.Listener(one, TARGETS, [shared[0]], pool="audit"),
            notify.Listener(two, TARGETS, [shared[1]], pool="audit"),
        ):
            sent = 0
            while sent < 100 or not all(each.seen.all for each in shared):
                notify.Notifier(sender).info(None, "x", sent)
                sent += 1
                assert sent < 100_000, "one listener of the pool gets nothing"
            assert sorted(event.payload for event in alone.seen.wait(sent)) == list(range(sent))
            until(lambda: sum(len(each.seen.all) for each in shared) >= sent)
            assert sorted(event.payload for each in shared for event in each.seen.all) == list(range(sent))
    balanced(sender)


def test_no_pool_is_the_default_one(transport: Transport) -> None:
    """A listener without a pool shares with those of the pool "default"."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint], pool=None) as listener:
        assert "pool default" in listener._name()
        with pytest.raises(StateError, match="subscribed already"):
            notify.Listener(transport, TARGETS, [endpoint], pool="default").start()


def test_what_nobody_handles_is_passed_over(transport: Transport) -> None:
    """Levels and types that no handler wants are settled and counted, and take nobody's time."""

    class Errors:
        def __init__(self) -> None:
            self.seen = Seen()

        @notify.on("disk.*", level="error")
        def trouble(self, event: notify.Event[Any]) -> None:
            self.seen.add(event)

    endpoint = Errors()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport)
        notifier.info(None, "disk.full", 1)
        notifier.error(None, "net.down", 2)
        notifier.error(None, "disk.full", 3)
        assert [event.payload for event in endpoint.seen.wait()] == [3]
        # A level that no handler has is passed over by its header, without a look at the bytes.
        reactor = transport.operations(Role.NOTIFIER).reactor
        reactor.publish(Outgoing(Route.pools(DEFAULT_EXCHANGE, TOPIC), b"no notification", {"level": "debug"}))
        until(lambda: count(transport, "listener.ignored") == 3)
    assert count(transport, "listener.undecodable") == 0


def test_a_filter_belongs_to_its_endpoint(transport: Transport) -> None:
    """`filter_rule` keeps out what does not match, for both kinds of methods; other endpoints are not concerned."""

    class Filtered(Everything):
        filter_rule = notify.Filter(payload={"state": "^down$"}, context={"tenant": "a"})

    filtered, free = Filtered(), Everything()
    with notify.Listener(transport, TARGETS, [filtered, free]):
        notifier = notify.Notifier(transport)
        notifier.info({"tenant": "a"}, "x", {"state": "up"})
        notifier.info({}, "x", {"state": "down"})
        notifier.info({"tenant": "a"}, "x", {"state": "down"})
        free.seen.wait(3)
        assert [event.context for event in filtered.seen.wait()] == [{"tenant": "a"}]


def test_a_key_keeps_its_order(transport: Transport) -> None:
    """Notifications of one key are handled one after the other, in order, over all levels; other keys meanwhile."""
    order: dict[str, list[int]] = defaultdict(list)
    running: dict[str, int] = defaultdict(int)
    overlaps: list[str] = []
    together = threading.Barrier(3)
    seen = Seen()

    class Ordered:
        @notify.on("*")
        def take(self, event: notify.Event[Any]) -> None:
            key, number = event.payload
            running[key] += 1
            if running[key] > 1:
                overlaps.append(key)
            if number == 0:
                # Three keys run at the same time, or this does not end.
                together.wait(LONG)
            order[key].append(number)
            running[key] -= 1
            seen.add(event)

    with notify.Listener(transport, TARGETS, [Ordered()], slots=8):
        notifier = notify.Notifier(transport)
        levels = ("info", "error", "audit")
        with notifier.pipeline() as pipeline:
            for number in range(100):
                for key in "abc":
                    pipeline.notify(levels[number % 3], None, "x", [key, number], key=key)
        seen.wait(300)
    assert overlaps == []
    assert dict(order) == {key: list(range(100)) for key in "abc"}


def test_handlers_may_be_coroutines(transport: Transport) -> None:
    """`async def` handlers run on one loop, plain ones on threads, and both may want the same notification."""
    seen = Seen()

    class Mixed:
        @notify.on("*")
        async def a_first(self, event: notify.Event[Any]) -> None:
            await asyncio.sleep(0)
            seen.add(("first", asyncio.get_running_loop()))

        @notify.on("*")
        def b_second(self, event: notify.Event[Any]) -> None:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            seen.add(("second", threading.current_thread()))

        @notify.on("*")
        async def c_third(self, event: notify.Event[Any]) -> None:
            seen.add(("third", asyncio.get_running_loop()))

    with notify.Listener(transport, TARGETS, [Mixed()]):
        notify.Notifier(transport).info(None, "x", 1)
        got = seen.wait(3)
    assert [name for name, _ in got] == ["first", "second", "third"]
    assert got[0][1] is got[2][1]


def test_inline_handlers_run_on_the_owner(transport: Transport) -> None:
    """executor="inline" runs handlers on the I/O thread."""
    seen = Seen()

    class Where:
        @notify.on("*")
        def take(self, event: notify.Event[Any]) -> None:
            seen.add(transport.operations(Role.LISTENER).reactor.is_owner())

    with notify.Listener(transport, TARGETS, [Where()], executor="inline"):
        notify.Notifier(transport).info(None, "x", 1)
        assert seen.wait() == [True]


def test_slots_bound_what_runs(transport: Transport) -> None:
    """No more handlers run at a time than there are slots."""
    gate = threading.Event()
    running = Seen()

    class Slow:
        @notify.on("*")
        def take(self, event: notify.Event[Any]) -> None:
            running.add(event)
            gate.wait(LONG)

    with notify.Listener(transport, TARGETS, [Slow()], slots=3) as listener:
        for number in range(5):
            notify.Notifier(transport).info(None, "x", number)
        running.wait(3)
        until(lambda: listener.health()["in_hand"] == 5)
        assert len(running.all) == 3
        gate.set()
        running.wait(5)


def test_payloads_have_the_annotated_type(transport: Transport) -> None:
    """Event[T] gives the handler a T; what is none goes to the dead letters, with the reason."""
    seen = Seen()
    buried = Seen()

    class Typed:
        @notify.on("*")
        def take(self, event: notify.Event[_Instance]) -> None:
            seen.add(event.payload)

    def bury(event: notify.Event[Any], reason: str, error: BaseException | None) -> None:
        buried.add(reason)

    with notify.Listener(transport, TARGETS, [Typed()], dead_letter=bury):
        notifier = notify.Notifier(transport)
        notifier.info(None, "x", _Instance(7, "on"))
        notifier.info(None, "x", {"id": "seven"})
        assert seen.wait() == [_Instance(7, "on")]
        assert "Typed.take" in buried.wait()[0]
    assert count(transport, "listener.undecodable") == 1


@dataclass
class _Instance:
    id: int
    state: str = "off"


def test_a_handler_knows_its_notification(transport: Transport) -> None:
    """notify.current() tells a handler what it serves, and is an error elsewhere; `around` wraps the handler."""
    seen = Seen()

    @contextmanager
    def traced(current: notify.CurrentEvent) -> Any:
        seen.add(("enter", current.event_type))
        yield
        seen.add(("leave", current.cancelled))

    class Curious:
        @notify.on("*")
        def take(self, event: notify.Event[Any]) -> None:
            current = notify.current()
            assert (current.message_id, current.level) == (event.message_id, "info")
            seen.add((current.context, current.headers["h"], current.attempt, current.redelivered))

    with notify.Listener(transport, TARGETS, [Curious()], around=[traced]):
        notify.Notifier(transport).info({"a": 1}, "x", 1, headers={"h": 2})
        assert seen.wait(3) == [("enter", "x"), ({"a": 1}, 2, 1, False), ("leave", False)]
    with pytest.raises(NotStarted):
        notify.current()


def test_bytes_of_a_stranger_are_refused(transport: Transport) -> None:
    """What cannot be decoded is counted and refused with a reason; the listener goes on."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        reactor = transport.operations(Role.NOTIFIER).reactor
        route = Route.pools(DEFAULT_EXCHANGE, TOPIC)
        for body in (b"", b"\x93\x01\x08", b"not msgpack", b"\x99\x01\x02\x00\xa1x\xc0\xc0\x80\x80\x00"):
            reactor.publish(Outgoing(route, body, {"message-id": "stranger"}))
            reactor.publish(Outgoing(route, body, {"message-id": 7, "level": "info", "key": 3}))
        until(lambda: count(transport, "listener.undecodable") == 8)
        notify.Notifier(transport).info(None, "x", 1)
        assert [event.event_type for event in endpoint.seen.wait()] == ["x"]


def test_a_full_inbox_refuses(direct: Transport) -> None:
    """Without storage the inbox is bounded, by number; what has no room is sent again until the deadline."""
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    with notify.Listener(direct, TARGETS, [endpoint], slots=1, inbox=3) as listener:
        notifier = notify.Notifier(direct)
        for number in range(3):
            notifier.info(None, "x", number)
        with pytest.raises(MessagingError) as caught:
            notifier.prepare(timeout=0.2).info(None, "x", 3)
        # In doubt when the deadline comes between asking and being refused once more.
        assert caught.value.delivered is not Delivered.YES
        assert listener.health()["in_hand"] == 3
        waiting = notifier.submit("info", None, "x", 4)
        gate.set()
        assert waiting.result(LONG) is None
        assert [event.payload for event in endpoint.seen.wait(4)] == [0, 1, 2, 4]


def test_bytes_bound_an_inbox_too(direct: Transport) -> None:
    """A few large notifications fill an inbox as many small ones do."""
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    with notify.Listener(direct, TARGETS, [endpoint], slots=1, inbox_bytes=10_000):
        notifier = notify.Notifier(direct)
        notifier.info(None, "x", "x" * 20_000)
        waiting = notifier.submit("info", None, "y", "small")
        until(lambda: count(direct, "listener.requeued") >= 1)
        gate.set()
        assert waiting.result(LONG) is None
        endpoint.seen.wait(2)


def test_health_has_three_signals(transport: Transport) -> None:
    """alive, connected and consuming follow the life of a listener."""
    listener = notify.Listener(transport, TARGETS, [Everything()])
    assert listener.health()["alive"]
    assert not listener.health()["consuming"]
    listener.start()
    assert listener.health() == {
        "alive": True,
        "connected": True,
        "consuming": True,
        "state": "serving",
        "in_hand": 0,
        "held": 0,
    }
    assert listener.stop()
    assert listener.wait(LONG)
    assert not listener.health()["alive"]


def test_a_listener_has_one_life(transport: Transport) -> None:
    """It starts once, stops as often as one likes, and says what was done in the wrong order."""
    listener = notify.Listener(transport, TARGETS, [Everything()])
    with pytest.raises(NotStarted):
        listener.wait(0.0)
    listener.start()
    with pytest.raises(StateError, match="starts once"):
        listener.start()
    assert listener.stop()
    assert listener.stop()
    never = notify.Listener(transport, TARGETS, [Everything()])
    assert never.stop()
    with pytest.raises(StateError):
        never.start()


def test_start_after_close_is_refused(transport: Transport) -> None:
    """A closed transport has no listeners."""
    transport.close()
    with pytest.raises(Closed):
        notify.Listener(transport, TARGETS, [Everything()]).start()


@pytest.mark.parametrize(
    ("targets", "options", "error", "told"),
    [
        ([], {}, ConfigError, "at least one Target"),
        (Target(topic="x"), {}, ConfigError, "list of at least one Target"),
        ([Target()], {}, InvalidTarget, "needs a topic"),
        (TARGETS, {"slots": 0}, ConfigError, "slots"),
        (TARGETS, {"inbox": 0}, ConfigError, "inbox"),
        (TARGETS, {"executor": "fork"}, ConfigError, "executor"),
        (TARGETS, {"max_attempts": 0}, ConfigError, "max_attempts"),
        (TARGETS, {"pool": ""}, InvalidTarget, "pool must have 1 to 200 characters"),
        (TARGETS, {"dead_letter": 3}, ConfigError, "dead_letter"),
    ],
)
def test_bad_listeners_are_not_built(
    stored: Transport, targets: Any, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    """What can be known when a listener is built is told then, with the option's name."""
    with pytest.raises(error, match=told):
        notify.Listener(stored, targets, [Everything()], **options)
