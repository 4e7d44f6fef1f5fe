"""Copies to retry topics on a real broker that cannot be written just now: what failed comes again."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

import messaging
from messaging import notify
from messaging.drivers.kafka.copies import Copier
from messaging.errors import TransportError
from tests.faults.processes import came_true, until

Plant = Callable[[pytest.MonkeyPatch], None]
NUMBER = 20


class FailsOnce:
    """Fails at every first attempt, once so many have come, and writes down the later ones."""

    def __init__(self, together: int = 1) -> None:
        self.again: set[int] = set()
        self._together = threading.Barrier(together)

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> None:
        if event.attempt == 1:
            self._together.wait(30)
            raise ValueError("not at the first attempt")
        self.again.add(event.payload[0])


@pytest.fixture
def topic() -> str:
    """A topic that nobody has used."""
    return f"t-{secrets.token_hex(6)}"


def send(kafka_broker: Any, topic: str, sizes: list[int]) -> None:
    """Send numbered notifications of these sizes."""
    with messaging.open_transport(kafka_broker.url) as transport:
        with notify.Notifier(transport, topics=[topic]).pipeline() as pipeline:
            for number, size in enumerate(sizes):
                pipeline.info({}, "event", [number, "x" * size])


def refuses_what_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy for which the library has no room counts as refused by the broker."""
    write = Copier._write

    def hasty(self: Copier, number: int) -> bool:
        if not write(self, number):
            self._refuse(self._writing.pop(number), TransportError("no room"))
        return True

    monkeypatch.setattr(Copier, "_write", hasty)


@pytest.mark.parametrize("plant", [None, refuses_what_finds_no_room])
def test_copies_wait_for_room(
    kafka_broker: Any, topic: str, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty fail at a time whose copies need five times the library's buffer: all of these are written, none counts as
    refused, and each notification comes again.
    """
    if plant is not None:
        plant(monkeypatch)
    handler = FailsOnce(NUMBER)
    with messaging.open_transport(kafka_broker.url, buffer=20_000) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [handler], slots=NUMBER, backoff=0.1):
            send(kafka_broker, topic, [5_000] * NUMBER)
            came = came_true(lambda: len(handler.again) == NUMBER, 20.0 if plant is None else 2.0)
            refused = transport.stats()["driver.copies_failed"]
    assert (came and refused == 0) is (plant is None)


def test_a_copy_larger_than_the_buffer_holds_up_no_other(kafka_broker: Any, topic: str) -> None:
    """It counts as refused, and those behind it are written."""
    handler = FailsOnce()
    with messaging.open_transport(kafka_broker.url, buffer=4_096) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [handler], slots=1, backoff=0.1):
            send(kafka_broker, topic, [5_000, 100, 100])
            until(lambda: handler.again == {1, 2}, "the small ones")
            assert transport.stats()["driver.copies_failed"] > 0


def forgets_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that was refused is not tried again."""
    monkeypatch.setattr(Copier, "_try_again", lambda self: None)


@pytest.mark.parametrize("plant", [None, forgets_what_was_refused])
def test_what_is_refused_for_long_is_written_later(
    kafka_broker: Any, topic: str, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry topic takes no copy until the listener's window is full of what has failed; when it takes them again,
    all of that comes again, and so does what was not read meanwhile.
    """
    if plant is not None:
        plant(monkeypatch)
    handler = FailsOnce()
    with messaging.open_transport(kafka_broker.url, window_bytes=20_000, partitions=1) as transport:
        listener = notify.Listener(transport, [messaging.Target(topic=topic)], [handler], backoff=0.1)
        with listener:
            limit(kafka_broker, f"messaging.{topic}..default.retry", 100)
            send(kafka_broker, topic, [2_000] * NUMBER)
            until(lambda: transport.stats()["driver.copies_failed"] >= 5, "copies are refused")
            received = until(lambda: full(transport), "the window is full")
            assert received < NUMBER
            limit(kafka_broker, f"messaging.{topic}..default.retry", 1_000_000)
            recovered = came_true(lambda: handler.again == set(range(NUMBER)), 40.0 if plant is None else 4.0)
    assert recovered is (plant is None)


def full(transport: messaging.Transport) -> int:
    """How many a listener has received, once all of it has failed and no more comes for half a second."""
    before = transport.stats()["listener.received"]
    more = came_true(lambda: transport.stats()["listener.received"] > before, 0.5)
    return 0 if more else before


def limit(kafka_broker: Any, topic: str, size: int) -> None:
    """Have a topic take no batch that is larger."""
    admin = AdminClient({"bootstrap.servers": kafka_broker.url.split("/")[2]})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
