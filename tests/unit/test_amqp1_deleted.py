"""amqp1:// on RabbitMQ 3 when somebody deletes a queue: the broker accepts what is sent to it and drops it, and three
seconds later it ends the connections of the queue's consumers.
"""

from __future__ import annotations

import secrets
from typing import Any

import pytest

import messaging
from messaging import notify
from messaging.drivers.amqp1.profiles import PROFILES
from messaging.target import Target
from messaging.testing.conformance.checks import Log
from tests.brokers.rabbit import Rabbit
from tests.faults.processes import until


class Collector:
    """Keeps notifications."""

    def __init__(self) -> None:
        self.events: Log[Any] = Log()

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Keep one."""
        self.events.add(event.payload)


def _queue(broker: Rabbit, topic: str) -> str:
    (name,) = [queue["name"] for queue in broker.queues() if queue["name"].endswith(f".{topic}")]
    return str(name)


def _messages(broker: Rabbit, topic: str) -> int:
    return sum(queue["messages"] for queue in broker.queues() if queue["name"].endswith(f".{topic}"))


@pytest.mark.parametrize("planted", [False, True])
def test_a_notification_to_a_deleted_queue_is_stored(
    rabbit_amqp1_broker: Rabbit, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is confirmed after the deletion lies in the queue, which was made again; alone or many at a time. Planted:
    the broker's word is believed.
    """
    if planted:
        monkeypatch.setitem(PROFILES, "rabbitmq", PROFILES["rabbitmq"]._replace(proof=None))
    topic = f"deleted-{secrets.token_hex(4)}"
    with messaging.open_transport(rabbit_amqp1_broker.url_for("amqp1")) as transport:
        notifier = notify.Notifier(transport, publisher_id="p", topics=[topic], timeout=10)
        notifier.info({}, "event", "before")
        rabbit_amqp1_broker.delete_queue(_queue(rabbit_amqp1_broker, topic))
        notifier.info({}, "event", "after")
        assert _messages(rabbit_amqp1_broker, topic) == (0 if planted else 1)
        if not planted:
            rabbit_amqp1_broker.delete_queue(_queue(rabbit_amqp1_broker, topic))
        with notifier.pipeline() as pipeline:
            for number in range(300):
                pipeline.info({}, "event", number)
        stored = _messages(rabbit_amqp1_broker, topic)
    assert stored == 0 if planted else stored >= 300


def test_a_listener_of_a_deleted_queue_hears_again(rabbit_amqp1_broker: Rabbit) -> None:
    """What is sent after the deletion, and had its queue made again by the sender, reaches it within seconds."""
    topic = f"deleted-{secrets.token_hex(4)}"
    collector = Collector()
    url = rabbit_amqp1_broker.url_for("amqp1")
    with messaging.open_transport(url) as receiving, messaging.open_transport(url) as sending:
        notifier = notify.Notifier(sending, publisher_id="p", topics=[topic], timeout=10)
        with notify.Listener(receiving, [Target(topic=topic)], [collector]):
            rabbit_amqp1_broker.delete_queue(_queue(rabbit_amqp1_broker, topic))
            notifier.info({}, "event", "x")
            until(lambda: collector.events.items == ["x"], "the notification after the deletion")
