"""How much may be under way at RabbitMQ: answers that are not acknowledged yet, and messages that are not confirmed."""

from __future__ import annotations

import time
from typing import Any

import pika
import pytest

from messaging.drivers.base import Role, State
from messaging.drivers.rabbit import subscriptions
from messaging.message import Route, Source, SourceKind, Stage
from messaging.testing.conformance.bare import Bare
from tests.unit.rabbit_bare import bare

SCHEMES = ["rabbit", "kombu"]
MOST_ANSWERS = 16
MOST_UNCONFIRMED = 1024


def answer(broker: Any, address: str, bodies: list[bytes]) -> None:
    """Publish answers as another program would."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url_for("amqp", vhost="/")))
    try:
        channel = connection.channel()
        for body in bodies:
            channel.basic_publish("", address, body)
    finally:
        connection.close()


def received(client: Bare, count: int) -> None:
    """Pump until so many have come."""
    client.until(lambda: len(client.events.deliveries) >= count, f"{count} answers")
    client.take()


def come_again(client: Bare) -> int:
    """Break the connection, and count the answers that are delivered once more."""
    client.connection.stream.shut_down()  # type: ignore[attr-defined]
    client.until(lambda: client.events.state is not State.READY, "the loss")
    client.until(lambda: Source.reply() in client.events.subscribed, "the answers subscribed again")
    address = client.events.subscribed[Source.reply()]
    marker = client.publish(Route.reply(address), b"last")
    client.until(lambda: any(found.body == b"last" for found in client.events.deliveries), "the last answer")
    assert client.error(marker) is None
    return len([found for found in client.take() if found.redelivered])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_few_answers_wait_for_their_acknowledgement(
    rabbit_broker: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five are not worth one and come again after a loss, of a hundred fewer than sixteen, and of large ones none."""
    monkeypatch.setattr(subscriptions, "_RENEW", 600.0)
    with bare(rabbit_broker, Role.RPC_CLIENT, scheme) as client:
        address = client.subscribe(Source.reply())
        answer(rabbit_broker, address, [b"small"] * 5)
        received(client, 5)
        assert come_again(client) == 5
        answer(rabbit_broker, address, [b"small"] * 100)
        received(client, 100)
        client.pump()
        assert come_again(client) < MOST_ANSWERS
        answer(rabbit_broker, address, [b"x" * 65_536] * 10)
        received(client, 10)
        client.pump()
        assert come_again(client) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_answers_are_acknowledged_in_time(rabbit_broker: Any, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What few have come are acknowledged by themselves: a broker closes the channel of whoever keeps a message."""
    monkeypatch.setattr(subscriptions, "_RENEW", 0.3)
    with bare(rabbit_broker, Role.RPC_CLIENT, scheme) as client:
        address = client.subscribe(Source.reply())
        answer(rabbit_broker, address, [b"one", b"two"])
        received(client, 2)
        until = time.monotonic() + 0.5
        client.until(lambda: time.monotonic() > until, "the next look")
        assert come_again(client) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_few_messages_are_unconfirmed(rabbit_broker: Any, scheme: str) -> None:
    """Of many messages at once so many are written, and the others as these are confirmed, until all are taken."""
    topic = f"bounds-{time.monotonic_ns()}"
    with bare(rabbit_broker, Role.RPC_SERVER, scheme) as server, bare(rabbit_broker, Role.RPC_CLIENT, scheme) as client:
        server.subscribe(Source(SourceKind.ANY, "x", topic))
        first = client.publish(Route.any("x", topic))
        client.until(lambda: first.stage is Stage.TAKEN, "the channel open")
        sent = [client.publish(Route.any("x", topic)) for _ in range(5 * MOST_UNCONFIRMED)]
        client.pump()
        assert 0 < len([each for each in sent if each.stage is Stage.WRITTEN]) <= MOST_UNCONFIRMED
        client.until(lambda: all(each.stage is Stage.TAKEN for each in sent), "every message taken")
