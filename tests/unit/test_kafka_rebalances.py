"""A member joins a group of kafka:// on a real broker: what moves, what stays, and what was handled before."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import messaging
from messaging import notify
from messaging.drivers.kafka.commits import Commits
from messaging.drivers.kafka.pauses import Pauses
from tests.brokers.kafka_clients import tune
from tests.faults.processes import came_true, until

Plant = Callable[[pytest.MonkeyPatch], None]
KEYS = [f"key-{number}" for number in range(24)]
"""They are in all four partitions."""


class Audit:
    """Counts what it gets, and handles nothing to the end before a gate is open."""

    def __init__(self, gate: threading.Event) -> None:
        self.seen: Counter[str] = Counter()
        self._gate = gate

    @notify.on("*")
    def any(self, event: notify.Event[str]) -> None:
        self.seen[event.payload] += 1
        self._gate.wait(30)


def stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group in which everybody gives up everything when somebody joins."""
    tune(monkeypatch, "consumer", {"partition.assignment.strategy": "range"})


def gives_up_without_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was handled since the last commit is not written before a partition goes."""

    def silent(self: Commits, consumer: Any, gone: Any) -> None:
        for partition in gone:
            partition.end()

    monkeypatch.setattr(Commits, "at_revoke", silent)


def joined(kafka_broker: Any, *, handled: bool) -> list[Counter[str]]:
    """What two members have got of one notification for each key, the second of which has joined when all were in hand
    of the first, or `handled` and not committed yet; and of another notification for each key, sent after that.
    """
    topic, gate = f"t-{secrets.token_hex(6)}", threading.Event()
    if handled:
        gate.set()
    audits = [Audit(gate), Audit(gate)]
    target = messaging.Target(topic=topic)
    with ExitStack() as stack:
        transports = [
            stack.enter_context(messaging.open_transport(kafka_broker.url, partitions=4, commit_interval=30.0))
            for _ in audits
        ]
        first, second = (
            notify.Listener(transport, [target], [audit], slots=64)
            for transport, audit in zip(transports, audits, strict=True)
        )
        stack.enter_context(first)
        notifier = notify.Notifier(transports[0], topics=[topic], timeout=20)

        def send(round_: str) -> None:
            with notifier.pipeline() as pipeline:
                for key in KEYS:
                    pipeline.info({}, "event", f"{round_} {key}", key=key)

        send("before")
        until(lambda: len(audits[0].seen) == len(KEYS), "all of them at the first member")
        until(lambda: not handled or first.health()["in_hand"] == 0, "they are done")
        stack.enter_context(second)
        # Two of five, the one of the retry topic among them: at its first assignment or, mostly, at the second.
        until(lambda: transports[1].stats()["driver.partitions"] >= 2, "its partitions")
        gate.set()
        send("after")
        until(lambda: len(audits[0].seen | audits[1].seen) == 2 * len(KEYS), "the later ones too")
        until(lambda: first.health()["in_hand"] == second.health()["in_hand"] == 0, "all are done")
        assert audits[1].seen
    return [audit.seen for audit in audits]


@pytest.mark.parametrize("plant", [None, stops_all])
def test_only_what_moves_comes_again(kafka_broker: Any, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the first member had in hand, only that of the partitions which it gave up is handled again; what stays
    is settled.
    """
    if plant is not None:
        plant(monkeypatch)
    first, second = joined(kafka_broker, handled=False)
    total = first + second
    again = {key for key in KEYS if total[f"before {key}"] > 1}
    assert again
    assert (len(again) == len(KEYS)) is (plant is not None)
    assert plant is not None or again == {key for key in KEYS if second[f"after {key}"]}


@pytest.mark.parametrize("plant", [None, gives_up_without_a_commit])
def test_what_was_handled_is_committed_before_it_moves(
    kafka_broker: Any, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the next commit was due much later, nothing comes again."""
    if plant is not None:
        plant(monkeypatch)
    first, second = joined(kafka_broker, handled=True)
    assert (max((first + second).values()) == 1) is (plant is None)


def forgets_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was paused in an assignment that is over is taken for running in the next."""
    monkeypatch.setattr(Pauses, "assigned", lambda pauses: setattr(pauses, "_all", False))


@pytest.mark.parametrize("plant", [None, forgets_pauses])
def test_partitions_that_come_back_are_read(
    kafka_broker: Any, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member without room has paused its partitions; some move to a second one, there is room again, and when the
    second has left they come back and are read.
    """
    if plant is not None:
        plant(monkeypatch)
    paused = threading.Event()
    hold = Pauses.hold

    def noted(self: Pauses, *arguments: Any) -> bool:
        if held := hold(self, *arguments):
            paused.set()
        return held

    monkeypatch.setattr(Pauses, "hold", noted)
    topic, gate = f"t-{secrets.token_hex(6)}", threading.Event()
    audit = Audit(gate)
    target = messaging.Target(topic=topic)
    with ExitStack() as stack:
        # A window of one.
        transports = [
            stack.enter_context(messaging.open_transport(kafka_broker.url, partitions=4, window_bytes=1))
            for _ in range(2)
        ]
        first, second = (notify.Listener(transport, [target], [audit]) for transport in transports)
        stack.enter_context(first)
        notifier = notify.Notifier(transports[0], topics=[topic], timeout=20)
        notifier.info({}, "event", "before", key=KEYS[0])
        until(paused.is_set, "the partitions are paused")
        with second:
            until(lambda: transports[1].stats()["driver.partitions"] >= 2, "the second member's partitions")
            gate.set()
            until(lambda: audit.seen["before"], "the first member's notification is done")
            until(lambda: first.health()["in_hand"] == 0, "it has room")
        until(lambda: transports[0].stats()["driver.partitions"] == 5, "all partitions are back")
        with notifier.pipeline() as pipeline:
            for key in KEYS:
                pipeline.info({}, "event", key, key=key)
        came = came_true(lambda: all(audit.seen[key] for key in KEYS), within=20 if plant is None else 3)
        assert came is (plant is None)
