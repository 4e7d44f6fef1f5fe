"""What becomes of notifications whose handlers fail: repeated, with a count and a delay, and then buried."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from typing import Any

import pytest

from messaging import Target, Transport, notify, open_transport
from messaging.drivers.memory import hub
from tests.notify.rig import LONG, TARGETS, Everything, Seen, balanced, count, memory_url, until


def _failing(times: int, error: Exception | None = None) -> tuple[Everything, list[float]]:
    when: list[float] = []

    def act(event: notify.Event[Any]) -> Any:
        when.append(time.monotonic())
        if event.event_type == "bad" and event.attempt <= times:
            raise error or ValueError(f"attempt {event.attempt}")

    return Everything(act), when


def test_a_failed_handler_gets_it_again(transport: Transport) -> None:
    """An exception brings the notification again, after a delay that grows, with a count; then it is done."""
    endpoint, when = _failing(3)
    with notify.Listener(transport, TARGETS, [endpoint], backoff=0.05):
        notify.Notifier(transport).info(None, "bad", 1)
        attempts = endpoint.seen.wait(4)
        until(lambda: count(transport, "listener.handled") == 1)
    assert [event.attempt for event in attempts] == [1, 2, 3, 4]
    assert [event.redelivered for event in attempts] == [False, True, True, True]
    assert len({event.message_id for event in attempts}) == 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(when)]
    assert all(gap >= bound * 0.5 for gap, bound in zip(gaps, (0.05, 0.1, 0.2), strict=True))


@pytest.mark.parametrize("how", ["raise", "return", "text"])
def test_a_handler_may_ask_for_another_attempt(transport: Transport, how: str) -> None:
    """Retry(after=) sets the delay; REQUEUE, or the predecessor's word for it, asks for the usual one."""

    def act(event: notify.Event[Any]) -> Any:
        if event.attempt > 1:
            return notify.HANDLED
        if how == "raise":
            raise notify.Retry(after=0.1)
        return notify.REQUEUE if how == "return" else "requeue"

    endpoint = Everything(act)
    with notify.Listener(transport, TARGETS, [endpoint], backoff=0.02):
        begun = time.monotonic()
        notify.Notifier(transport).info(None, "x", 1)
        assert [event.attempt for event in endpoint.seen.wait(2)] == [1, 2]
        assert time.monotonic() - begun >= (0.1 if how == "raise" else 0.01)


def test_dead_letters_after_the_limit(stored: Transport) -> None:
    """After max_attempts the transport keeps it as a dead letter, with the reason and the count; Reject does so at
    once.
    """

    def act(event: notify.Event[Any]) -> Any:
        if event.event_type == "reject":
            raise notify.Reject("no such sku")
        raise ValueError("boom")

    endpoint = Everything(act)
    with notify.Listener(stored, TARGETS, [endpoint], backoff=0.01, max_attempts=3, pool="p"):
        notifier = notify.Notifier(stored, "me")
        notifier.info({"a": 1}, "bad", {"n": 1})
        notifier.info(None, "reject", 2)
        until(lambda: count(stored, "listener.dead_lettered") == 2)
    assert len(endpoint.seen.all) == 4
    with notify.DeadLetters(stored, TARGETS[0], "p") as letters:
        found = {
            letter.event.event_type: (letter.reason, letter.attempts, letter.event.payload, letter.event.context)
            for letter in letters.read(0.1)
            if letter.event is not None
        }
    assert found == {
        "bad": ("ValueError: boom", 3, {"n": 1}, {"a": 1}),
        "reject": ("no such sku", 1, 2, {}),
    }


def test_dead_letters_of_the_listener(transport: Transport) -> None:
    """dead_letter= gets the event, the reason and the error, where the transport keeps dead letters and where it does
    not.
    """
    buried = Seen()
    endpoint, _ = _failing(99)
    with notify.Listener(
        transport, TARGETS, [endpoint], backoff=0.01, max_attempts=2, dead_letter=lambda *letter: buried.add(letter)
    ):
        notify.Notifier(transport).info(None, "bad", 7)
        event, reason, error = buried.wait()[0]
    assert (event.payload, event.attempt, reason) == (7, 2, "ValueError: attempt 2")
    assert isinstance(error, ValueError)
    assert count(transport, "listener.dead_lettered") == 1


def test_dead_letters_to_a_topic(transport: Transport) -> None:
    """dead_letter= may be a notifier, which sends the event on as it came, with the reason in its headers."""
    endpoint, _ = _failing(99)
    graves = Everything()
    notifier = notify.Notifier(transport, "undertaker", ["graves"])
    with (
        notify.Listener(transport, [Target(topic="graves")], [graves]),
        notify.Listener(transport, TARGETS, [endpoint], backoff=0.01, max_attempts=2, dead_letter=notifier),
    ):
        notify.Notifier(transport, "me").error({"a": 1}, "bad", 7, key="k", headers={"h": 1})
        letter = graves.seen.wait()[0]
        until(lambda: count(transport, "listener.dead_lettered") == 1)
    assert (letter.publisher_id, letter.level, letter.payload, letter.context) == ("me", "error", 7, {"a": 1})
    assert letter.message_id == endpoint.seen.all[0].message_id
    assert (letter.headers["dead-reason"], letter.headers["dead-attempt"]) == ("ValueError: attempt 2", 2)
    assert letter.headers["h"] == 1


def test_a_dead_letter_is_not_taken_for_its_original(transport: Transport) -> None:
    """It goes by the same id, maybe over the same connection and while its original is under way: both end."""
    endpoint = Everything()
    notifier = notify.Notifier(transport, "me")
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier.error({}, "bad", 7)
        (event,) = endpoint.seen.wait()
        ends = [threading.Event() for _ in range(2)]
        # What a listener does that hands on what it could not handle, quicker than any confirmation.
        sendings = [notifier._start(event, None, end.set) for end in ends]
        assert [end.wait(LONG) for end in ends] == [True, True]
        assert [notifier._failure(sending) for sending in sendings] == [None, None]


def test_dead_letters_by_a_coroutine(transport: Transport) -> None:
    """dead_letter= may be a coroutine function."""
    buried = Seen()

    async def bury(event: notify.Event[Any], reason: str, error: BaseException | None) -> None:
        buried.add(reason)

    endpoint, _ = _failing(99)
    with notify.Listener(transport, TARGETS, [endpoint], max_attempts=1, dead_letter=bury):
        notify.Notifier(transport).info(None, "bad", 7)
        assert buried.wait() == ["ValueError: attempt 1"]
        until(lambda: count(transport, "listener.dead_lettered") == 1)


def test_a_burial_that_fails_is_repeated(transport: Transport) -> None:
    """What dead_letter= does not take is kept and tried again."""
    buried = Seen()

    def bury(event: notify.Event[Any], reason: str, error: BaseException | None) -> None:
        buried.add(reason)
        if len(buried.all) < 3:
            raise OSError("disk full")

    endpoint, _ = _failing(99)
    with notify.Listener(transport, TARGETS, [endpoint], max_attempts=1, backoff=0.01, dead_letter=bury):
        notify.Notifier(transport).info(None, "bad", 7)
        buried.wait(3)
        until(lambda: count(transport, "listener.dead_lettered") == 1)
    assert len(endpoint.seen.all) == 1


def test_without_any_dead_letters_it_is_told(direct: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing keeps dead letters, the loss is logged and counted."""
    endpoint, _ = _failing(99)
    with caplog.at_level(logging.ERROR, logger="messaging.notify"):
        with notify.Listener(direct, TARGETS, [endpoint], max_attempts=1):
            notify.Notifier(direct).info(None, "bad", 7)
            until(lambda: count(direct, "listener.dropped") == 1)
    assert any("nothing keeps dead letters" in record.getMessage() for record in caplog.records)


def test_poison_does_not_hold_up_the_others(transport: Transport) -> None:
    """One notification that always fails costs the others nothing, and ends as one dead letter."""
    buried = Seen()
    endpoint, _ = _failing(99)
    with notify.Listener(
        transport,
        TARGETS,
        [endpoint],
        slots=4,
        backoff=0.01,
        max_attempts=4,
        dead_letter=lambda event, reason, error: buried.add(event),
    ):
        with notify.Notifier(transport).pipeline() as pipeline:
            for number in range(500):
                pipeline.info(None, "bad" if number == 100 else "good", number)
        endpoint.seen.wait(499 + 4)
        assert [event.payload for event in buried.wait()] == [100]
        until(lambda: count(transport, "listener.handled") == 499)
    assert len(buried.all) == 1


def test_the_first_failure_stops_the_others(transport: Transport) -> None:
    """All endpoints that want it are called in order, after a failure no more; the next attempt calls all again."""
    calls = Seen()

    class Named:
        def __init__(self, name: str, failures: int) -> None:
            self.name = name
            self.failures = failures

        @notify.on("*")
        def take(self, event: notify.Event[Any]) -> None:
            calls.add(self.name)
            if event.attempt <= self.failures:
                raise ValueError(self.name)

    with notify.Listener(transport, TARGETS, [Named("a", 0), Named("b", 1), Named("c", 0)], backoff=0.01):
        notify.Notifier(transport).info(None, "x", 1)
        assert calls.wait(5) == ["a", "b", "a", "b", "c"]


def test_a_held_key_waits(direct: Transport) -> None:
    """While a notification waits for its repeat in memory, later ones of its key wait too, and others do not."""
    endpoint, _ = _failing(2)
    with notify.Listener(direct, TARGETS, [endpoint], backoff=0.05):
        notifier = notify.Notifier(direct)
        notifier.info(None, "bad", 1, key="k")
        notifier.info(None, "good", 2, key="k")
        notifier.info(None, "good", 3, key="other")
        order = [event.payload for event in endpoint.seen.wait(5)]
    assert order == [1, 3, 1, 1, 2]


def test_a_handler_that_exits_has_failed(transport: Transport) -> None:
    """sys.exit() in a handler ends neither the worker nor the listener."""

    def act(event: notify.Event[Any]) -> Any:
        if event.attempt == 1:
            raise SystemExit(1)

    endpoint = Everything(act)
    with notify.Listener(transport, TARGETS, [endpoint], slots=1, backoff=0.01):
        notify.Notifier(transport).info(None, "x", 1)
        endpoint.seen.wait(2)


# Stopping


def test_stop_hands_back_what_was_not_started(stored: Transport) -> None:
    """A drain ends what runs, and gives the rest to the next listener, in time and without loss."""
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    listener = notify.Listener(stored, TARGETS, [endpoint], slots=2)
    listener.start()
    with notify.Notifier(stored).pipeline() as pipeline:
        for number in range(10):
            pipeline.info(None, "x", number)
    endpoint.seen.wait(2)
    threading.Timer(0.1, gate.set).start()
    assert listener.stop(5.0)
    first = [event.payload for event in endpoint.seen.all]
    assert len(first) == 2
    other = Everything()
    with notify.Listener(stored, TARGETS, [other]):
        rest = [event.payload for event in other.seen.wait(8)]
    assert sorted(first + rest) == list(range(10))


def test_stop_finishes_the_inbox(direct: Transport) -> None:
    """Without storage the inbox is the listener's own: a drain works it off."""
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    listener = notify.Listener(direct, TARGETS, [endpoint], slots=1)
    listener.start()
    for number in range(10):
        notify.Notifier(direct).info(None, "x", number, key="k" if number % 2 else None)
    threading.Timer(0.05, gate.set).start()
    assert listener.stop(5.0)
    assert sorted(event.payload for event in endpoint.seen.all) == list(range(10))


def test_stop_has_a_bound(transport: Transport) -> None:
    """A handler that does not end in time is told to, and the drain says that it was not clean."""
    gate = threading.Event()
    told = Seen()

    def act(event: notify.Event[Any]) -> Any:
        current = notify.current()
        gate.wait(LONG)
        told.add(current.cancelled)

    endpoint = Everything(act)
    listener = notify.Listener(transport, TARGETS, [endpoint], slots=1)
    listener.start()
    notify.Notifier(transport).info(None, "x", 1)
    endpoint.seen.wait()
    begun = time.monotonic()
    assert not listener.stop(0.2)
    assert time.monotonic() - begun < LONG / 2
    gate.set()
    assert told.wait() == [True]
    until(lambda: listener.health()["in_hand"] == 0)


def test_stop_from_a_handler(transport: Transport) -> None:
    """A handler may stop its own listener."""
    stopped = Seen()

    def act(event: notify.Event[Any]) -> Any:
        stopped.add(listener.stop(1.0))

    listener = notify.Listener(transport, TARGETS, [Everything(act)])
    listener.start()
    notify.Notifier(transport).info(None, "x", 1)
    stopped.wait()
    assert listener.wait(LONG)
    until(lambda: count(transport, "listener.handled") == 1)


def test_stop_gives_up_what_waits_for_a_repeat(url: str) -> None:
    """With storage the next listener gets it; without, dead_letter= does."""
    buried = Seen()
    with open_transport(url) as transport:
        endpoint, _ = _failing(99)
        listener = notify.Listener(
            transport, TARGETS, [endpoint], backoff=60.0, dead_letter=lambda *letter: buried.add(letter)
        )
        listener.start()
        notify.Notifier(transport).info(None, "bad", 1)
        endpoint.seen.wait()
        until(lambda: count(transport, "listener.failed") == 1)
        until(lambda: listener.health()["held"] == 1 or count(transport, "listener.requeued") == 1)
        assert listener.stop(2.0)
        if transport.capabilities.storage:
            assert count(transport, "listener.requeued") == 1
        else:
            _, reason, error = buried.wait()[0]
            assert "stopped" in reason
            assert isinstance(error, ValueError)
    balanced(transport)


def test_a_failure_during_a_drain_is_buried(direct: Transport) -> None:
    """Without storage a handler that fails while the listener stops is not repeated; dead_letter= gets it."""
    gate = threading.Event()
    buried = Seen()

    def act(event: notify.Event[Any]) -> Any:
        gate.wait(LONG)
        raise ValueError("late")

    listener = notify.Listener(
        direct, TARGETS, [Everything(act)], backoff=60.0, dead_letter=lambda *letter: buried.add(letter)
    )
    listener.start()
    notify.Notifier(direct).info(None, "x", 1)
    until(lambda: listener.health()["in_hand"] == 1)
    threading.Timer(0.05, gate.set).start()
    assert listener.stop(5.0)
    assert "stopped" in buried.wait()[0][1]
    assert count(direct, "listener.dead_lettered") == 1


def test_a_closed_transport_ends_everything(url: str) -> None:
    """When the transport goes first, the listener still stops in time, and what was not settled comes again."""
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    with open_transport(url) as other:
        transport = open_transport(url)
        again = Everything()
        listener = notify.Listener(transport, TARGETS, [endpoint], slots=1)
        listener.start()
        notify.Notifier(other).info(None, "x", 1)
        endpoint.seen.wait()
        begun = time.monotonic()
        transport.close(0.5)
        gate.set()
        assert listener.stop(1.0)
        assert time.monotonic() - begun < 3.0
        assert not listener.health()["alive"]
        with notify.Listener(other, TARGETS, [again]):
            if other.capabilities.storage:
                assert again.seen.wait()[0].redelivered
                until(lambda: count(other, "listener.handled") == 1)
    balanced(other)
    balanced(transport)


# Connections that break


def test_a_lost_connection_redelivers() -> None:
    """What was not settled comes again after a reconnect; the handler's late settlement does no harm."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])
    gate = threading.Event()
    cancelled = Seen()

    def act(event: notify.Event[Any]) -> Any:
        if event.attempt == 1:
            current = notify.current()
            gate.wait(LONG)
            cancelled.add(current.cancelled)

    endpoint = Everything(act)
    with open_transport(name) as transport:
        with notify.Listener(transport, TARGETS, [endpoint], slots=4):
            notify.Notifier(transport).info(None, "x", 1)
            endpoint.seen.wait(1)
            faults.disconnect()
            again = endpoint.seen.wait(2)[1]
            gate.set()
            assert cancelled.wait() == [True]
            until(lambda: count(transport, "listener.handled") == 2)
    assert (again.attempt, again.redelivered) == (2, True)
    assert keep.faults is faults
    balanced(transport)


def test_what_is_somebody_elses_is_not_started() -> None:
    """What waited for a slot when its connection broke is delivered anew, and handled once."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    with open_transport(name) as transport:
        with notify.Listener(transport, TARGETS, [endpoint], slots=1) as listener:
            for number in range(2):
                notify.Notifier(transport).info(None, "x", number)
            until(lambda: listener.health()["in_hand"] == 2)
            faults.disconnect()
            until(lambda: count(transport, "listener.received") == 4)
            gate.set()
            until(lambda: count(transport, "listener.stale") == 1)
            until(lambda: count(transport, "listener.handled") == 3)
    assert [event.payload for event in endpoint.seen.all].count(1) == 1
    assert keep.faults is faults
    balanced(transport)


def test_what_kills_its_handlers_is_buried_in_the_end() -> None:
    """What was handed out again and again without being settled is not run for ever."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])
    gate = threading.Event()
    endpoint = Everything(lambda event: gate.wait(LONG) and None)
    with open_transport(name) as transport:
        with notify.Listener(transport, TARGETS, [endpoint], slots=16, max_attempts=1, pool="p"):
            notify.Notifier(transport).info(None, "x", 1)
            for attempt in range(1, 5):
                endpoint.seen.wait(attempt)
                faults.disconnect()
            until(lambda: count(transport, "listener.dead_lettered") == 1)
            gate.set()
        assert len(endpoint.seen.all) == 4
        with notify.DeadLetters(transport, TARGETS[0], "p") as letters:
            assert ["handed out 5 times" in letter.reason for letter in letters.read(0.1)] == [True]
    assert keep.faults is faults
