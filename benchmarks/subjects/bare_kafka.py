"""confluent-kafka alone, with the bytes that messaging writes: a producer that encodes each body, gives each message an
id, and counts the reports of delivery; a consumer that decodes each body and commits what it has handled.

The settings are those that messaging uses: idempotent, every report awaited. No windows, no deadlines, no handlers, and
nobody reads the headers.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from confluent_kafka import Consumer, Message, Producer

from benchmarks.subject import Client, Place, Server, Subject
from benchmarks.subjects.kafka_topics import bootstrap, create
from benchmarks.subjects.meeting import shared
from messaging.message import MESSAGE_ID
from messaging.wire.native import LEVEL_HEADER, VERSION, Kind, Notification, encode

_TOPIC = "bare-kafka"
_BATCH = 500
_KIND = int(Kind.NOTIFICATION)
_WITHIN = 30.0  # seconds


class _Listener(Server):
    def __init__(self, place: str, handled: Callable[[], None]) -> None:
        self._handled = handled
        self._stop = threading.Event()
        assigned = threading.Event()
        create(place, _TOPIC)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap(place),
                "group.id": "bench",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 10,
            }
        )
        self._consumer.subscribe([_TOPIC], on_assign=lambda consumer, partitions: assigned.set())
        self._thread = threading.Thread(target=self._consume, name="bare kafka")
        self._thread.start()
        assert assigned.wait(_WITHIN), "Kafka assigned no partition"

    def _consume(self) -> None:
        decode = msgspec.msgpack.Decoder().decode
        while not self._stop.is_set():
            messages = self._consumer.consume(_BATCH, 0.01)
            for message in messages:
                decode(message.value() or b"")
                self._handled()
            if messages:
                self._consumer.commit(message=messages[-1], asynchronous=True)
        self._consumer.close()

    def stop(self) -> None:
        """Leave the group."""
        self._stop.set()
        self._thread.join()


class _Notifier(Client):
    def __init__(self, place: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap(place),
                "enable.idempotence": True,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def notify(self, payload: bytes, count: int) -> None:
        """Produce, and return when each has been reported as delivered."""
        produce, poll = self._producer.produce, self._producer.poll
        data = {"data": payload.decode("ascii")}
        prefix = os.urandom(8).hex()
        failed: list[Any] = []
        reported = 0

        def on_delivery(error: Any, message: Message) -> None:
            nonlocal reported
            reported += 1
            if error is not None:
                failed.append(error)

        for number in range(count):
            body = encode(Notification(VERSION, _KIND, 0, "bench.happened", "bench", "info", time.time(), {}, data))
            headers: dict[str, str | bytes | None] = {MESSAGE_ID: f"{prefix}{number}", LEVEL_HEADER: "info"}
            # By position: names cost as much again as the call.
            produce(_TOPIC, body, None, -1, on_delivery, None, 0, headers)
            if not number % _BATCH:
                poll(0)
        self._producer.flush(_WITHIN)
        if failed or reported != count:
            raise OSError(f"{reported} of {count} were reported, {len(failed)} of them as failed: {failed[:1]}")

    def close(self) -> None:
        """Nothing: its threads end with the process."""


class _Subject(Subject):
    title = "confluent-kafka, the same bytes"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return shared("kafka", "kafka")

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Consume in a thread."""
        return _Listener(place, handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Make a producer."""
        return _Notifier(place)


subject = _Subject()
