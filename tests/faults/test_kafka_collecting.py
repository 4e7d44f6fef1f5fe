"""A pipeline's own thread collects the outcomes of what it sends over Kafka, and the connection's owner keeps away
meanwhile: each outcome reaches its sender all the same, in time, whoever the sender is and whatever he does next.

Each test is run with a planted bug too, which it has to find.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import messaging
from messaging import DeadlineExceeded, Delivered, PipelineFailed, notify
from messaging.drivers.kafka import reports
from messaging.drivers.kafka.notifying import NotifierConnection
from messaging.notify import base_notifier
from messaging.notify import pipeline as pipelines
from messaging.reactor import Reactor
from tests.faults.processes import Stall, Worker, came_true, until

Plant = Callable[[pytest.MonkeyPatch], None]
NAME = "collected"
LATE = 0.5
"""Seconds after its deadline by which an operation has ended, on a machine that lets it run."""


@pytest.fixture(scope="module")
def broker() -> Iterator[Worker]:
    """One that may be stopped, in a process of its own."""
    worker = Worker("mock_kafka", brokers=1)
    try:
        yield worker
    finally:
        worker.close()


@pytest.fixture(scope="module")
def bootstrap(broker: Worker) -> str:
    """Where it is, when it has the topic."""
    address: str = broker.expect("ready")["bootstrap"]
    broker.ask("create", topic=f"messaging.{NAME}")
    return address


@pytest.fixture
def transport(broker: Worker, bootstrap: str) -> Iterator[messaging.Transport]:
    """Open a transport over which something was sent already."""
    with messaging.open_transport(f"kafka://{bootstrap}/", create_topics="no", heartbeat=10.0) as transport:
        notify.Notifier(transport, topics=[NAME], timeout=10).info({}, "event", 0)
        yield transport
    broker.signal(signal.SIGCONT)


def taken(transport: messaging.Transport) -> int:
    """How many notifications have been confirmed."""
    return int(transport.stats().get("notify.taken", 0))


def lets_the_owner_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody fetches outcomes but the owner."""
    monkeypatch.setattr(Reactor, "collect", lambda *arguments: False)


@pytest.mark.parametrize("plant", [None, lets_the_owner_collect])
def test_outcomes_are_collected_where_they_are_waited_for(
    transport: messaging.Transport, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all reports are taken by the thread that sends, each counts once, and nothing is left."""
    if plant is not None:
        plant(monkeypatch)
    threads: list[str] = []
    take = reports.Report.__call__

    def noted(report: reports.Report, *arguments: object) -> None:
        threads.append(threading.current_thread().name)
        take(report, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reports.Report, "__call__", noted)
    before = taken(transport)
    with notify.Notifier(transport, topics=[NAME], timeout=30).pipeline() as pipeline:
        for number in range(10_000):
            pipeline.info({}, "event", number)
    assert taken(transport) - before == len(threads) == 10_000
    mine = threads.count(threading.current_thread().name)
    assert (mine > 8_000) is (plant is None)


def never_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once somebody has collected, the owner leaves all reports to others."""
    monkeypatch.setattr(reports, "_LEFT", float("inf"))


@pytest.mark.parametrize("plant", [None, never_comes_back])
def test_the_owner_takes_up_what_nobody_collects(
    transport: messaging.Transport, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that has collected and then does nothing more has its outcomes all the same."""
    if plant is not None:
        plant(monkeypatch)
    before, count = taken(transport), 40 * pipelines._COLLECT_EVERY
    notifier = notify.Notifier(transport, topics=[NAME], timeout=10)
    with notifier.pipeline() as pipeline:
        for number in range(count):
            pipeline.info({}, "event", number)
        all_taken = came_true(lambda: taken(transport) - before == count, 5.0 if plant is None else 0.5)
    assert all_taken is (plant is None)


def keeps_what_is_not_his(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever collects tells nobody else."""
    collect = NotifierConnection.collect

    def own_alone(connection: NotifierConnection, timeout: float) -> object:
        found = collect(connection, timeout)
        return found and [outgoing for outgoing in found if type(outgoing.token).__name__ == "Burst"]

    monkeypatch.setattr(NotifierConnection, "collect", own_alone)


@pytest.mark.parametrize("plant", [None, keeps_what_is_not_his])
def test_others_have_their_outcomes_meanwhile(
    transport: messaging.Transport, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who notifies one by one beside a busy pipeline of the same transport is told of each, before its deadline."""
    if plant is not None:
        plant(monkeypatch)
    notifier = notify.Notifier(transport, topics=[NAME], timeout=5.0)
    failed: list[Exception] = []

    def one_by_one() -> None:
        for number in range(30):
            try:
                notifier.info({}, "event", number)
            except DeadlineExceeded as error:
                failed.append(error)
                return

    other = threading.Thread(target=one_by_one)
    other.start()
    with notify.Notifier(transport, topics=[NAME], timeout=30).pipeline() as pipeline:
        while other.is_alive():
            pipeline.info({}, "event", "among many")
    other.join()
    assert (failed == []) is (plant is None)


def overstays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every notification takes a second more than it was given."""
    given = base_notifier.timeout_seconds  # type: ignore[attr-defined]
    monkeypatch.setattr(base_notifier, "timeout_seconds", lambda *arguments: given(*arguments) + 1.0)


@pytest.mark.parametrize("plant", [None, overstays])
def test_who_collects_is_told_of_his_deadlines(
    broker: Worker, transport: messaging.Transport, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker stands still a pipeline that waits for room ends everything at its deadline, as MAYBE."""
    if plant is not None:
        plant(monkeypatch)
    notifier = notify.Notifier(transport, topics=[NAME], timeout=1.0)
    with Stall() as stall:
        pipeline = notifier.pipeline(limit=1_000)
        broker.signal(signal.SIGSTOP)
        begun = time.monotonic()
        for number in range(1_200):
            pipeline.info({}, "event", number)
        first = time.monotonic() - begun
        with pytest.raises(PipelineFailed) as caught:
            pipeline.wait()
        last = time.monotonic() - begun
    broker.signal(signal.SIGCONT)
    assert (first < 1.0 + LATE + stall.worst) is (plant is None)
    assert (last < 2.0 + LATE + stall.worst) is (plant is None)
    told = [(type(error), getattr(error, "delivered", None)) for error in caught.value.exceptions]
    assert told == [(DeadlineExceeded, Delivered.MAYBE)] * 1_200
    if plant is None:
        until(lambda: transport.health()["connected"], "connected")
        notifier.prepare(timeout=10).info({}, "event", "afterwards")
