"""Sessions of amqp1:// on real peers: more links than there may be sessions, and sessions that nobody wants any more.
What becomes of shared ones is in test_amqp1_router.py.
"""

from __future__ import annotations

import secrets
from typing import Any

import pytest

import messaging
from messaging import notify
from messaging.drivers.base import Role, State
from messaging.message import Source, SourceKind
from messaging.target import Target
from messaging.testing.conformance.bare import Bare
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


@pytest.mark.parametrize("fixture", ["artemis_broker", "broker_j", "router_in_process"])
@pytest.mark.parametrize("written", [False, True])
def test_a_subscription_that_is_taken_back_at_once(fixture: str, written: bool, request: pytest.FixtureRequest) -> None:
    """Subscribed and unsubscribed before the peer has said a word, its session is ended when its beginning is answered:
    the connection and its other subscriptions stay.
    """
    options = {"profile": "router"} if fixture == "router_in_process" else {}
    bare = Bare(request.getfixturevalue(fixture).url, Role.RPC_SERVER, options)
    topic = f"sessions-{secrets.token_hex(4)}"
    sources = [Source(SourceKind.ANY, "ex", f"{topic}.{number}", "a") for number in range(3)]
    try:
        bare.connect()
        bare.subscribe(sources[0])
        for _ in range(3):
            bare.connection.subscribe(sources[1], 10)
            if written:
                bare.pump(0.0)
            bare.connection.unsubscribe(sources[1])
            # Peers answer in order: when this one stands, they have answered those before it.
            bare.subscribe(sources[2])
            bare.connection.unsubscribe(sources[2])
        bare.subscribe(sources[2])
        assert bare.events.subscribed.keys() >= {sources[0], sources[2]}
        assert State.LOST not in bare.events.states
    finally:
        bare.close()
