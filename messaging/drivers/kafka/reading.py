"""From a message of Kafka's to a delivery. No I/O.

Copies in a retry topic say in headers of ours which attempt comes, when, and where the notification was first read;
listeners do not see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, Message

from messaging.drivers.kafka import headers
from messaging.drivers.kafka.headers import ATTEMPT, DUE, ORIGIN
from messaging.drivers.kafka.offsets import Assignment, Partition, Tag
from messaging.message import DEAD_ATTEMPT, Delivery, Source, SourceKind

__all__ = ["origin_of", "read"]

_KEY = "key"
"""The header by which a listener knows what to keep in order."""


def origin_of(delivery: Delivery) -> str:
    """Where a notification was first read: topic, partition and offset, divided by slashes."""
    tag: Tag = delivery.tag
    return tag.origin or f"{tag.partition.topic}/{tag.partition.number}/{tag.offset}"


def read(
    messages: Sequence[Message],
    assignment: Assignment,
    sources: Mapping[str, Source],
    now: float,
    complain: Any,
) -> tuple[list[Delivery], list[tuple[float, Delivery]]]:
    """Make deliveries of messages, and note them as outstanding: those to hand out, and those to keep until a time.

    `sources` by topic; `now`: seconds since 1970. What belongs to a partition that is gone is left to whoever has it.
    `complain(error)` is called for errors that come among the messages.
    """
    batch: list[Delivery] = []
    later: list[tuple[float, Delivery]] = []
    decode = headers.decode
    place: tuple[str | None, int | None] | None = None
    partition: Partition | None = None
    for message in messages:
        error: KafkaError | None = message.error()
        if error is not None:
            complain(error)
            continue
        # Mostly a run of one partition: what its messages share is looked up once.
        if place is None or message.partition() != place[1] or message.topic() != place[0]:
            place = message.topic(), message.partition()
            partition = assignment.get(place)  # type: ignore[arg-type]
            if partition is not None:
                outstanding = partition.outstanding
                own = partition.source
                plain = own is not None and own.kind is not SourceKind.DEAD
        if partition is None:
            continue
        offset: int = message.offset()  # type: ignore[assignment]
        if offset < partition.next:
            # It was read in this assignment already, and fetched once more around a pause or a rebalance.
            continue
        told = decode(message.headers())  # type: ignore[arg-type]
        key: Any = message.key()
        if key is not None and _KEY not in told:
            # What others have written: their order counts as well.
            told[_KEY] = key.decode("utf-8", "replace") if type(key) is bytes else key
        source = own
        attempt, due, origin = 1, 0.0, ""
        if not plain:
            attempt = headers.number(told, ATTEMPT, 1)
            due = headers.number(told, DUE) / 1000.0
            origin = str(told.pop(ORIGIN, ""))
            if DEAD_ATTEMPT in told:
                told[DEAD_ATTEMPT] = headers.number(told, DEAD_ATTEMPT)
        if source is None:
            source = sources.get(origin.rpartition("/")[0].rpartition("/")[0]) or next(iter(sources.values()))
        delivery = Delivery(
            source,
            message.value() or b"",
            told,
            "",
            None,
            attempt > 1 or offset < partition.again_before,
            attempt,
            "",
            partition.generation,
            False,
            Tag(partition, offset, key, origin),
        )
        outstanding[offset] = delivery
        partition.next = offset + 1
        if due > now:
            later.append((due - now, delivery))
        else:
            batch.append(delivery)
    return batch, later
