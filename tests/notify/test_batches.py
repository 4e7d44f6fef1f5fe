"""Listeners whose handlers get lists."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from messaging import ConfigError, Transport, notify
from tests.notify.rig import LONG, TARGETS, Seen, count, until


class Batches:
    """Writes down every batch, and then does what `act` says."""

    def __init__(self, act: Any = None) -> None:
        self.seen = Seen()
        self._act = act

    @notify.on("*")
    def take(self, events: list[notify.Event[Any]]) -> Any:
        self.seen.add([event.payload for event in events])
        return self._act(events) if self._act is not None else None


def _send(transport: Transport, payloads: Any) -> None:
    with notify.Notifier(transport, "me").pipeline() as pipeline:
        for payload in payloads:
            pipeline.info({"a": 1}, "bad" if payload == "bad" else "x", payload)


def _flat(batches: list[list[Any]]) -> list[Any]:
    return [payload for batch in batches for payload in batch]


def test_size_and_age_end_a_batch(transport: Transport) -> None:
    """A batch has its size, or is as old as it may be; everything is in one, in order."""
    endpoint = Batches()
    with notify.BatchListener(transport, TARGETS, [endpoint], batch_size=10, batch_timeout=0.1, slots=1):
        begun = time.monotonic()
        _send(transport, range(25))
        until(lambda: len(_flat(endpoint.seen.all)) == 25)
        assert time.monotonic() - begun >= 0.1
    assert _flat(endpoint.seen.all) == list(range(25))
    assert all(len(batch) <= 10 for batch in endpoint.seen.all)
    assert [len(batch) for batch in endpoint.seen.all][:2] == [10, 10]


def test_the_predecessors_methods_get_dicts(transport: Transport) -> None:
    """A method named after a level gets the list of that level's notifications, as the predecessor made it."""
    seen = Seen()

    class Classic:
        def info(self, messages: list[dict[str, Any]]) -> None:
            seen.add(messages)

        def error(self, messages: list[dict[str, Any]]) -> None:
            seen.add(messages)

    with notify.BatchListener(transport, TARGETS, [Classic()], batch_size=4, batch_timeout=LONG):
        notifier = notify.Notifier(transport, "me")
        for number in range(2):
            notifier.info({"a": 1}, "x", number)
            notifier.error(None, "y", number)
        errors, infos = sorted(seen.wait(2), key=lambda messages: str(messages[0]["event_type"]), reverse=True)
    assert [(message["publisher_id"], message["payload"]) for message in errors] == [("me", 0), ("me", 1)]
    assert set(infos[0]) == {"ctxt", "publisher_id", "event_type", "payload", "metadata"}
    assert infos[0]["ctxt"] == {"a": 1}


def test_one_bad_notification_goes_alone(transport: Transport) -> None:
    """What fails with a batch comes again alone: the bad one is buried, its neighbours are handled."""
    buried = Seen()

    def act(events: list[notify.Event[Any]]) -> None:
        if any(event.event_type == "bad" for event in events):
            raise ValueError("bad")

    endpoint = Batches(act)
    with notify.BatchListener(
        transport,
        TARGETS,
        [endpoint],
        batch_size=5,
        batch_timeout=0.05,
        backoff=0.01,
        max_attempts=3,
        dead_letter=lambda event, reason, error: buried.add(event.payload),
    ):
        _send(transport, [1, 2, "bad", 3, 4])
        assert buried.wait() == ["bad"]
        until(lambda: count(transport, "listener.handled") == 4)
    batches = endpoint.seen.all
    assert batches[0] == [1, 2, "bad", 3, 4]
    assert sorted(map(str, batches[1:])) == ["['bad']", "['bad']", "[1]", "[2]", "[3]", "[4]"]


def test_what_a_handler_did_not_get_does_not_fail_with_it(transport: Transport) -> None:
    """A filtered or unwanted notification is no part of a handler's list, nor of its failure."""
    seen = Seen()

    class Picky:
        filter_rule = notify.Filter(payload={"n": "1"})

        @notify.on("*")
        def take(self, events: list[notify.Event[Any]]) -> Any:
            seen.add([event.payload for event in events])
            return notify.REQUEUE if all(event.attempt == 1 for event in events) else None

    with notify.BatchListener(transport, TARGETS, [Picky()], batch_size=2, batch_timeout=LONG, backoff=0.01):
        _send(transport, [{"n": "1"}, {"n": "2"}])
        assert seen.wait(2) == [[{"n": "1"}], [{"n": "1"}]]
        until(lambda: count(transport, "listener.ignored") == 1 and count(transport, "listener.handled") == 1)


def test_batches_for_coroutines(transport: Transport) -> None:
    """A coroutine function gets lists too."""
    seen = Seen()

    class Async:
        @notify.on("*")
        async def take(self, events: list[notify.Event[Any]]) -> None:
            await asyncio.sleep(0)
            assert notify.current().attempt == 1
            seen.add([event.payload for event in events])

    with notify.BatchListener(transport, TARGETS, [Async()], batch_size=3, batch_timeout=LONG):
        _send(transport, range(3))
        assert seen.wait() == [[0, 1, 2]]


def test_stop_hands_back_an_unfinished_batch(stored: Transport) -> None:
    """With storage what waits for its batch to fill goes to the next listener."""
    endpoint = Batches()
    listener = notify.BatchListener(stored, TARGETS, [endpoint], batch_size=10, batch_timeout=60.0)
    listener.start()
    _send(stored, range(3))
    until(lambda: listener.health()["in_hand"] == 3)
    assert listener.stop(5.0)
    assert endpoint.seen.all == []
    other = Batches()
    with notify.BatchListener(stored, TARGETS, [other], batch_size=3, batch_timeout=60.0):
        until(lambda: sorted(_flat(other.seen.all)) == [0, 1, 2])


def test_stop_handles_an_unfinished_batch(direct: Transport) -> None:
    """Without storage it is handled, because nobody else has it."""
    endpoint = Batches()
    listener = notify.BatchListener(direct, TARGETS, [endpoint], batch_size=10, batch_timeout=60.0)
    listener.start()
    _send(direct, range(3))
    assert listener.stop(5.0)
    assert endpoint.seen.all == [[0, 1, 2]]


def test_batches_run_side_by_side(transport: Transport) -> None:
    """Up to `slots` batches are handled at a time."""
    together = threading.Barrier(2)
    endpoint = Batches(lambda events: together.wait(LONG) and None)
    with notify.BatchListener(transport, TARGETS, [endpoint], batch_size=2, batch_timeout=0.05, slots=2):
        _send(transport, range(4))
        endpoint.seen.wait(2)


@pytest.mark.parametrize(
    ("options", "told"), [({"batch_size": 0}, "batch_size"), ({"batch_timeout": 0}, "batch_timeout")]
)
def test_bad_batches_are_refused(stored: Transport, options: dict[str, Any], told: str) -> None:
    """Size and age have bounds."""
    with pytest.raises(ConfigError, match=told):
        notify.BatchListener(stored, TARGETS, [Batches()], **options)
