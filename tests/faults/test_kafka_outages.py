"""The end of an outage over Kafka: a connection that has come back is not lost again for what the outage has kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import KafkaError

import messaging
from messaging import notify
from messaging.drivers.base import Role, State
from messaging.drivers.kafka import configuration
from messaging.drivers.kafka.notifying import NotifierConnection
from tests.brokers.mock_kafka import PRODUCE
from tests.faults.processes import Worker, until

HEARTBEAT = 0.5
LATER = [KafkaError.REQUEST_TIMED_OUT] * 20
"""Answers to a notification, after each of which the library waits for 0.1 s or more."""


@pytest.fixture
def cluster() -> Iterator[Worker]:
    """A broker that can be away, in a process of its own."""
    worker = Worker("mock_kafka", brokers=1)
    try:
        yield worker
    finally:
        worker.close()


def counts_the_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has come back is judged by when something was confirmed before it went."""
    sound = NotifierConnection._connected

    def impatient(self: NotifierConnection, user: configuration.Login) -> None:
        sign = self._reports.last
        sound(self, user)
        self._reports.last = sign

    monkeypatch.setattr(NotifierConnection, "_connected", impatient)


@pytest.mark.parametrize("planted", [False, True])
def test_an_outage_ends_once(cluster: Worker, planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker goes for three heartbeats while a notification is under way. When it is back the connection is ready
    and stays so, though the confirmation takes its time; it comes.
    """
    if planted:
        counts_the_outage(monkeypatch)
    bootstrap = cluster.expect("ready")["bootstrap"]
    cluster.ask("create", topic="messaging.events", replicas=1)
    states: list[State] = []
    with messaging.open_transport(f"kafka://{bootstrap}/", create_topics="no", heartbeat=HEARTBEAT) as transport:
        notifier = notify.Notifier(transport, topics=["events"], timeout=30)
        notifier.info({}, "event", 1)
        reactor = transport.operations(Role.NOTIFIER).reactor
        reactor.on_change.append(lambda: states.append(reactor.state))
        cluster.ask("fail", request=PRODUCE, errors=LATER)
        with ThreadPoolExecutor(1) as threads:
            sent = threads.submit(notifier.info, {}, "event", 2)
            cluster.ask("down")
            gone = time.monotonic()
            until(lambda: State.LOST in states and time.monotonic() > gone + 3 * HEARTBEAT, "an outage")
            cluster.ask("up")
            until(lambda: State.READY in states, "the connection is back")
            cluster.ask("heal", request=PRODUCE)
            sent.result(30)
    assert (State.LOST in states[states.index(State.READY) :]) is planted
