"""Notifications between ours and the real package, both ways, over RabbitMQ."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import messaging
from messaging import Target, notify
from messaging.errors import Unsupported
from tests.faults.processes import until
from tests.interop.conftest import Peer

LEVELS = ("audit", "debug", "info", "warn", "error", "critical", "sample")
Opened = Callable[..., messaging.Transport]


class Collected:
    """Takes notifications of every level, by the predecessor's methods."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []


def _method(level: str) -> Any:
    def method(self: Collected, *heard: Any) -> None:
        self.events.append((level, *heard))

    return method


for _level in LEVELS:
    setattr(Collected, _level, _method(_level))


@pytest.mark.parametrize("form", ["messagingv2", "messaging"])
def test_ours_reach_theirs(opened: Opened, peer: Peer, topic: str, form: str) -> None:
    """In both forms, at every level, with context, payload, id and timestamp."""
    peer.ask("listen", topic=topic, levels=LEVELS)
    transport = opened(notification_format=form)
    notifier = notify.Notifier(transport, "our.host", topics=[topic])
    for level in LEVELS:
        getattr(notifier, level)({"user": "ann"}, f"event.{level}", {"id": 12, "who": "schön"})
    heard = {told["level"]: told for told in peer.heard(len(LEVELS))}
    assert set(heard) == set(LEVELS)
    for level, told in heard.items():
        assert told["context"] == {"user": "ann"}
        assert (told["publisher_id"], told["event_type"]) == ("our.host", f"event.{level}")
        assert told["payload"] == {"id": 12, "who": "schön"}
        assert len(told["metadata"]["message_id"]) == 36
        assert told["metadata"]["timestamp"].startswith("20")
    assert transport.stats()["notify.taken"] == len(LEVELS)


@pytest.mark.parametrize("form", ["messagingv2", "messaging"])
def test_theirs_reach_ours(transport: messaging.Transport, peer: Peer, topic: str, form: str) -> None:
    """In both forms, at every level."""
    endpoint = Collected()
    with notify.Listener(transport, [Target(topic=topic)], [endpoint]):
        for level in LEVELS:
            peer.ask(
                "notify",
                form=form,
                topic=topic,
                level=level,
                event_type=f"event.{level}",
                payload={"id": 12, "who": "schön"},
                context={"user": "ann"},
            )
        until(lambda: len(endpoint.events) == len(LEVELS), "every level")
    for level, context, publisher, event_type, payload, metadata in endpoint.events:
        assert (context, publisher, event_type) == ({"user": "ann"}, "peer.host", f"event.{level}")
        assert payload == {"id": 12, "who": "schön"}
        assert len(metadata["message_id"]) == 36
        assert metadata["timestamp"].startswith("20")
    assert {event[0] for event in endpoint.events} == set(LEVELS)


def test_what_nobody_listens_to_yet_is_kept(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """Notifiers declare the queue, here as there."""
    notify.Notifier(transport, "our.host", topics=[topic]).info({}, "early", {"id": 1})
    peer.ask("notify", form="messagingv2", topic=f"{topic}-2", level="info", event_type="early", payload={"id": 2})
    peer.ask("listen", topic=topic, levels=["info"])
    assert peer.heard(1)[0]["payload"] == {"id": 1}
    endpoint = Collected()
    with notify.Listener(transport, [Target(topic=f"{topic}-2")], [endpoint]):
        until(lambda: len(endpoint.events) == 1, "what was kept")


class ErrorsAlone:
    """Handles one level."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def error(self, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        """Keep it."""
        self.events.append(event_type)


def test_other_levels_are_left_to_who_handles_them(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """In one pool, ours handles errors and theirs the rest: neither takes what belongs to the other."""
    endpoint = ErrorsAlone()
    peer.ask("listen", topic=topic, levels=["info"])
    with notify.Listener(transport, [Target(topic=topic)], [endpoint]):
        notifier = notify.Notifier(transport, "our.host", topics=[topic])
        for number in range(5):
            notifier.info({}, f"info.{number}", {})
            notifier.error({}, f"error.{number}", {})
        assert sorted(told["event_type"] for told in peer.heard(5)) == [f"info.{number}" for number in range(5)]
        until(lambda: sorted(endpoint.events) == [f"error.{number}" for number in range(5)], "five errors")


def test_pools(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """Each pool gets every notification once, whichever kind its listener is of."""
    ours, without = Collected(), Collected()
    peer.ask("listen", topic=topic, levels=LEVELS, pool=f"{topic}-theirs")
    targets = [Target(topic=topic)]
    with (
        notify.Listener(transport, targets, [ours], pool=f"{topic}-ours"),
        notify.Listener(transport, targets, [without]),
    ):
        notify.Notifier(transport, "our.host", topics=[topic]).warn({}, "one", {})
        peer.ask("notify", form="messagingv2", topic=topic, level="info", event_type="two", payload={})
        assert sorted(told["event_type"] for told in peer.heard(2)) == ["one", "two"]
        for listening in (ours, without):
            until(lambda heard=listening: len(heard.events) == 2, "both")  # type: ignore[misc]
            assert sorted(event[3] for event in listening.events) == ["one", "two"]


class Again:
    """Fails at the first attempt."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> None:
        """Ask for another attempt once."""
        self.attempts.append(event.attempt)
        if len(self.attempts) == 1:
            raise notify.Retry("not yet", after=0.1)


def test_requeue(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """What a handler gives back comes again: theirs at once, ours after its delay and with its count."""
    peer.ask("listen", topic=f"{topic}-2", levels=["info"], requeue=2)
    notify.Notifier(transport, "our.host", topics=[f"{topic}-2"]).info({}, "again", {})
    assert peer.heard(1)[0]["times"] == 3
    endpoint = Again()
    with notify.Listener(transport, [Target(topic=topic)], [endpoint]):
        peer.ask("notify", form="messagingv2", topic=topic, level="info", event_type="again", payload={})
        until(lambda: len(endpoint.attempts) == 2, "a second attempt")
    assert endpoint.attempts == [1, 2]


class Batches:
    """Takes batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.payloads: list[int] = []
        self._lock = threading.Lock()

    def info(self, messages: list[dict[str, Any]]) -> None:
        """Keep what came."""
        with self._lock:
            self.sizes.append(len(messages))
            self.payloads += [message["payload"] for message in messages]


def test_batches(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """Both kinds of listeners get many at once from the other kind of notifier."""
    peer.ask("listen", topic=topic, levels=["info"], batch=10)
    with notify.Notifier(transport, "our.host", topics=[topic]).pipeline() as pipeline:
        for number in range(25):
            pipeline.info({}, "many", number)
    told: list[int] = []
    while len(told) < 25:
        told += peer.expect("batch")["payloads"]
    assert sorted(told) == list(range(25))
    endpoint = Batches()
    with notify.BatchListener(transport, [Target(topic=f"{topic}-2")], [endpoint], batch_size=10, batch_timeout=0.3):
        for number in range(20):
            peer.ask("notify", form="messagingv2", topic=f"{topic}-2", level="info", event_type="many", payload=number)
        until(lambda: len(endpoint.payloads) == 20, "every notification")
    assert sorted(endpoint.payloads) == list(range(20))
    assert max(endpoint.sizes) > 1


def test_keys_and_headers_are_refused_by_name(transport: messaging.Transport, topic: str) -> None:
    """The predecessor's notifications have neither."""
    notifier = notify.Notifier(transport, "our.host", topics=[topic])
    with pytest.raises(Unsupported, match="key"):
        notifier.info({}, "keyed", {}, key="12")
    with pytest.raises(Unsupported, match="colour"):
        notifier.prepare(headers={"colour": "red"})
    with pytest.raises(Unsupported, match="dead letters"):
        notify.DeadLetters(transport, Target(topic=topic))
