"""The beginning and the end of an outage over Kafka: it is told though the client library does not tell it, and a
connection that has come back is not lost again for what the outage has kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

import messaging
from messaging import notify
from messaging.drivers.base import Role, State
from messaging.drivers.kafka import configuration
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.contact import Contact
from messaging.drivers.kafka.notifying import NotifierConnection
from messaging.drivers.kafka.reasons import is_outage
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


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("role", [Role.LISTENER, Role.NOTIFIER])
def test_an_outage_that_the_library_keeps_to_itself(
    cluster: Worker, role: Role, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that could not connect to a broker has the cluster asked whether any is left. The word that all are gone
    is withheld here, as the library does when the last one goes while another is being given up. Planted: nobody asks.
    """
    sound = Troubles.note
    monkeypatch.setattr(Troubles, "note", lambda self, error: None if is_outage(error) else sound(self, error))
    asked = threading.Event()
    doubt = Contact.doubt

    def doubted(self: Contact) -> None:
        asked.set()
        if not planted:
            doubt(self)

    monkeypatch.setattr(Contact, "doubt", doubted)
    bootstrap = cluster.expect("ready")["bootstrap"]
    for name in ("", "..default.retry", "..default.dead"):
        cluster.ask("create", topic=f"messaging.events{name}", replicas=1)
    options: dict[str, Any] = {"create_topics": "no", "heartbeat": HEARTBEAT, "connect_timeout": 1.0}
    with messaging.open_transport(f"kafka://{bootstrap}/", **options) as transport:
        if role is Role.LISTENER:
            listener = notify.Listener(
                transport, [messaging.Target(topic="events")], [SimpleNamespace(info=lambda *_: None)]
            )
            listener.start()
        else:
            notify.Notifier(transport, topics=["events"]).info({}, "event", 1)
        reactor = transport.operations(role).reactor
        cluster.ask("down")
        assert asked.wait(10)
        if not planted:
            until(lambda: reactor.state is not State.READY, "the outage is told")
            cluster.ask("up")
            until(lambda: reactor.state is State.READY, "the connection is back")
        else:
            changed = threading.Event()
            reactor.on_change.append(changed.set)
            assert not changed.wait(4 * HEARTBEAT)
            assert reactor.state is State.READY
