"""amqp1:// with more links than a real peer allows sessions; what becomes of shared ones is in test_amqp1_router.py."""

from __future__ import annotations

import secrets
from typing import Any

import messaging
from messaging import notify
from messaging.target import Target
from messaging.testing.conformance.checks import Log
from tests.brokers.broker_j import BrokerJ


class Collector:
    """Keeps notifications."""

    def __init__(self) -> None:
        self.events: Log[Any] = Log()

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Keep one."""
        self.events.add(event.payload)


def test_more_topics_than_sessions(broker_j: BrokerJ) -> None:
    """Broker-J allows 256 sessions on a connection; beyond them topics share, and a listener hears the last, too."""
    topic = f"sessions-{secrets.token_hex(4)}"
    topics = [f"{topic}.{number}" for number in range(300)]
    with (
        messaging.open_transport(broker_j.url, durable=False) as sending,
        messaging.open_transport(broker_j.url, durable=False) as receiving,
    ):
        collector = Collector()
        with notify.Listener(receiving, [Target(topic=each) for each in topics], [collector]):
            for number in (0, 255, 299):
                notifier = notify.Notifier(sending, publisher_id="p", topics=[topics[number]], timeout=5)
                notifier.info({}, "event", number)
            collector.events.wait(3, "notifications")
    assert sorted(collector.events.items) == [0, 255, 299]
