"""What order kafka:// keeps on a real broker: of a key beside others in its partition, and of all that is in one.

Some of it is written by the bare client library, with keys that are bytes and no text.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from confluent_kafka import Producer

import messaging
from messaging import notify
from messaging.drivers.kafka import reading
from messaging.notify.work import Lanes
from messaging.wire.native import VERSION, Kind, Notification, encode
from tests.faults.processes import until

Plant = Callable[[pytest.MonkeyPatch], None]
Message = tuple[str, int]
"""Key and number; without a key where that is empty."""
LAST = 19
PARTITIONS = 2
"""Partitions, where there are several."""


def with_ours(transport: messaging.Transport, topic: str, sent: Iterable[Message]) -> None:
    """Send by a notifier."""
    with notify.Notifier(transport, topics=[topic]).pipeline() as pipeline:
        for key, number in sent:
            pipeline.info({}, "event", [key, number], key=key, headers={"x": "1"})


def with_others(transport: messaging.Transport, topic: str, sent: Iterable[Message], *, partitions: int = 1) -> None:
    """Write with the bare client library, into each of so many partitions, with keys that are no text."""
    producer = Producer({"bootstrap.servers": transport.url.hosts[0].address})
    for key, number in sent:
        for partition in range(partitions):
            payload = [key, number, partition]
            body = encode(
                Notification(VERSION, Kind.NOTIFICATION, 0, "event", "other", "info", time.time(), {}, payload)
            )
            producer.produce(
                f"messaging.{topic}",
                body,
                b"\xff" + key.encode() if key else None,
                partition=partition,
                headers=[("x", b"1")],
            )
    assert producer.flush(20) == 0


def without_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has come begins as soon as there is a slot."""
    monkeypatch.setattr(Lanes, "enter", lambda self, item: True)
    monkeypatch.setattr(Lanes, "leave", lambda self, item: None)


def reads_its_own_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a message from another client is not looked at."""
    monkeypatch.setattr(reading, "_KEY", "another header")


@pytest.fixture
def topic() -> str:
    """A topic that nobody has used."""
    return f"t-{secrets.token_hex(6)}"


@pytest.mark.parametrize(
    ("send", "plant"),
    [
        (with_ours, None),
        (with_ours, without_lanes),
        (with_others, None),
        (with_others, without_lanes),
        (with_others, reads_its_own_keys_alone),
    ],
)
def test_a_key_keeps_its_order_beside_others(
    kafka_broker: Any,
    topic: str,
    send: Callable[[messaging.Transport, str, Iterable[Message]], None],
    plant: Plant | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two keys in one partition, from our notifier or another client, the second is handled to its end, in order,
    while the handler of the first one's first runs; then the rest of the first is, in order.
    """
    if plant is not None:
        plant(monkeypatch)
    done: list[Message] = []
    others_done = threading.Event()
    headers: list[Any] = []

    class Handler:
        @notify.on("*")
        def any(self, event: notify.Event[list[Any]]) -> None:
            key, number = event.payload[:2]
            headers.append(event.headers["x"])
            if (key, number) == ("first", 0):
                others_done.wait(30)
            done.append((key, number))
            if (key, number) == ("second", LAST):
                others_done.set()

    with messaging.open_transport(kafka_broker.url, partitions=1) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [Handler()], slots=8):
            send(transport, topic, [(key, number) for number in range(LAST + 1) for key in ("first", "second")])
            until(lambda: len(done) == 2 * (LAST + 1), "all of them", 40)
    expected = [(key, number) for key in ("second", "first") for number in range(LAST + 1)]
    assert (done == expected) is (plant is None)
    assert set(headers) == {"1"}


def test_without_keys_nothing_waits_for_what_is_before_it(kafka_broker: Any, topic: str) -> None:
    """Of those in one partition the later ones are handled while the handler of the first one runs."""
    done: list[int] = []

    class Handler:
        @notify.on("*")
        def any(self, event: notify.Event[list[Any]]) -> None:
            number = event.payload[1]
            if number == 0:
                until(lambda: len(done) == LAST, "the later ones")
            done.append(number)

    with messaging.open_transport(kafka_broker.url, partitions=1) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [Handler()], slots=8):
            with_others(transport, topic, [("", number) for number in range(LAST + 1)])
            until(lambda: len(done) == LAST + 1, "all of them", 40)
    assert done[-1] == 0


@pytest.mark.parametrize("options", [{"order": "partition"}, {"order": "key"}])
@pytest.mark.parametrize("face", ["sync", "asyncio"])
def test_a_partition_keeps_its_order_beside_others(
    kafka_broker: Any, topic: str, options: dict[str, str], face: str
) -> None:
    """With order=partition the first of a partition is handled beside the first of the other one, and everything
    else in the order of its partition, with keys and without; by default it is not.
    """
    sent = [(("", "a", "b")[number % 3], number) for number in range(LAST + 1)]
    done: list[list[Any]] = []
    begun: set[int] = set()

    def is_its_turn(partition: int, number: int) -> bool:
        # The first of each waits for that of the other; whatever may begin beside it has begun by then, or ended.
        begun.add(partition)
        return number != 0 or (len(begun) == PARTITIONS and (options["order"] == "partition" or len(done) > 0))

    class Handler:
        @notify.on("*")
        def any(self, event: notify.Event[list[Any]]) -> None:
            _, number, partition = event.payload
            until(lambda: is_its_turn(partition, number), "the first of the other partition")
            done.append(event.payload)

    class Coroutines:
        @notify.on("*")
        async def any(self, event: notify.Event[list[Any]]) -> None:
            _, number, partition = event.payload
            await asyncio.to_thread(until, lambda: is_its_turn(partition, number), "the first of the other partition")
            done.append(event.payload)

    endpoint = Handler() if face == "sync" else Coroutines()
    with messaging.open_transport(kafka_broker.url, partitions=PARTITIONS, **options) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [endpoint], slots=8):
            with_others(transport, topic, sent, partitions=PARTITIONS)
            until(lambda: len(done) == len(sent) * PARTITIONS, "all of them", 40)
    in_order = all(
        [number for _, number, of in done if of == partition] == list(range(LAST + 1))
        for partition in range(PARTITIONS)
    )
    assert in_order is (options["order"] == "partition")


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize(("kind", "keys"), [("Listener", ("",)), ("BatchListener", ("", "a", "b"))])
def test_one_slot_keeps_the_order_of_each_partition(
    kafka_broker: Any, topic: str, kind: str, keys: tuple[str, ...], slots: int
) -> None:
    """With `slots=1` a BatchListener gets all of a partition in its order, whatever has a key, and a Listener all that
    has none; with more, what comes later is handled beside it and sooner.
    """
    sent = [(keys[number % len(keys)], number) for number in range(LAST + 1)]
    total = len(sent) * PARTITIONS
    done: list[list[Any]] = []

    def handle(payloads: list[Any]) -> None:
        if payloads[0][1] == 0 and not done:
            # Whatever could begin beside the first has come, or has ended.
            until(lambda: done or (slots == 1 and listener.health()["in_hand"] == total), "the others")
        done.extend(payloads)

    class Batches:
        @notify.on("*")
        def all(self, events: list[notify.Event[Any]]) -> None:
            handle([event.payload for event in events])

    class Singles:
        @notify.on("*")
        def any(self, event: notify.Event[Any]) -> None:
            handle([event.payload])

    with messaging.open_transport(kafka_broker.url, partitions=PARTITIONS) as transport:
        made = getattr(notify, kind)
        options = {"batch_size": 3, "batch_timeout": 0.1} if kind == "BatchListener" else {}
        endpoint = Batches() if kind == "BatchListener" else Singles()
        listener = made(transport, [messaging.Target(topic=topic)], [endpoint], slots=slots, **options)
        with listener:
            with_others(transport, topic, sent, partitions=PARTITIONS)
            until(lambda: len(done) == total, "all of them", 40)
    in_order = all(
        [number for _, number, of in done if of == partition] == list(range(LAST + 1))
        for partition in range(PARTITIONS)
    )
    assert in_order is (slots == 1)
