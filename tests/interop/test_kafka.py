"""Notifications between ours and the real package, both ways, over Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

import messaging
from messaging import Target, notify, rpc
from messaging.errors import Unsupported
from tests.faults.processes import until
from tests.interop.conftest import Peer
from tests.interop.test_notifications import LEVELS, Collected, ErrorsAlone


@pytest.fixture(scope="module")
def kafka_peer(kafka_broker: Any) -> Iterator[Peer]:
    """The predecessor on Kafka."""
    process = Peer(kafka_broker.url)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def kafka(kafka_broker: Any) -> Iterator[messaging.Transport]:
    """A transport of ours."""
    with messaging.open_transport(kafka_broker.url, wire="oslo") as transport:
        yield transport


def test_ours_reach_theirs(kafka: messaging.Transport, kafka_peer: Peer, topic: str) -> None:
    """At every level, with context, payload, id and timestamp."""
    notifier = notify.Notifier(kafka, "our.host", topics=[topic])
    for level in LEVELS:
        # Its listener neither makes topics nor notices new ones for minutes, and begins where they end.
        getattr(notifier, level)({}, "first", {})
    kafka_peer.ask("listen", topic=topic, levels=LEVELS, pool=f"pool-{topic}")
    for level in LEVELS:
        getattr(notifier, level)({"user": "ann"}, f"event.{level}", {"id": 12, "who": "schön"})
    heard = {told["level"]: told for told in kafka_peer.heard(len(LEVELS))}
    assert set(heard) == set(LEVELS)
    for level, told in heard.items():
        assert told["context"] == {"user": "ann"}
        assert (told["publisher_id"], told["event_type"]) == ("our.host", f"event.{level}")
        assert told["payload"] == {"id": 12, "who": "schön"}
        assert len(told["metadata"]["message_id"]) == 36


def test_theirs_reach_ours(kafka: messaging.Transport, kafka_peer: Peer, topic: str) -> None:
    """At every level, in each pool once; a listener of one level leaves the others alone."""
    endpoint, pooled, errors = Collected(), Collected(), ErrorsAlone()
    targets = [Target(topic=topic)]
    with (
        notify.Listener(kafka, targets, [endpoint]),
        notify.Listener(kafka, targets, [pooled], pool=f"pool-{uuid.uuid4().hex}"),
        notify.Listener(kafka, targets, [errors], pool=f"pool-{uuid.uuid4().hex}"),
    ):
        for level in LEVELS:
            kafka_peer.ask(
                "notify",
                form="messagingv2",
                topic=topic,
                level=level,
                event_type=f"event.{level}",
                payload={"id": 12, "who": "schön"},
                context={"user": "ann"},
            )
        for listening in (endpoint, pooled):
            until(lambda found=listening: len(found.events) == len(LEVELS), "every level")  # type: ignore[misc]
        until(lambda: errors.events == ["event.error"], "the error")
    for level, context, publisher, event_type, payload, metadata in endpoint.events:
        assert (context, publisher, event_type) == ({"user": "ann"}, "peer.host", f"event.{level}")
        assert payload == {"id": 12, "who": "schön"}
        assert metadata["timestamp"].startswith("20")


def test_dead_letters_need_a_place_of_their_own(
    kafka: messaging.Transport, kafka_peer: Peer, kafka_broker: Any, topic: str
) -> None:
    """They are refused, since none could be sent again to its pool alone; a listener's own `dead_letter=` gets them.
    Without that they are told as dropped, and no topic is made for them.
    """
    with pytest.raises(Unsupported, match="keeps no dead letters"):
        notify.DeadLetters(kafka, Target(topic=topic))
    letters: list[tuple[str, str]] = []

    class Rejecting:
        @notify.on("*")
        def any(self, event: notify.Event[Any]) -> None:
            raise notify.Reject("never")

    targets, pool = [Target(topic=topic)], f"pool-{uuid.uuid4().hex}"
    with (
        notify.Listener(
            kafka,
            targets,
            [Rejecting()],
            dead_letter=lambda event, reason, error: letters.append((event.event_type, reason)),
        ),
        notify.Listener(kafka, targets, [Rejecting()], pool=pool),
    ):
        kafka_peer.ask("notify", form="messagingv2", topic=topic, level="info", event_type="bad", payload={})
        until(lambda: letters == [("bad", "never")], "the dead letter")
        until(lambda: kafka.stats().get("listener.dropped") == 1, "the one that nobody keeps")
    admin = AdminClient({"bootstrap.servers": kafka_broker.url.split("/")[2]})
    assert not [name for name in admin.list_topics(timeout=10).topics if name.endswith(".dead") and topic in name]


def test_rpc_is_refused(kafka: messaging.Transport, topic: str) -> None:
    """As there, but when the client is built."""
    with pytest.raises(Unsupported):
        rpc.Client(kafka, Target(topic=topic))
