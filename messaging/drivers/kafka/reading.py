"""From a message of Kafka's to a delivery. No I/O.

Copies in a retry topic say in headers of ours which attempt comes, when, and where the notification was first read;
listeners do not see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
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
    messages: list[Message],
    assignment: Assignment,
    sources: Mapping[str, Source],
    now: float,
    complain: Any,
) -> tuple[list[Delivery], list[tuple[float, Delivery]]]:
    """Make deliveries of messages, and note them as outstanding: those to hand out, and those to keep until a time.
    The list is empty afterwards.

    `sources` by topic; `now`: seconds since 1970. What belongs to a partition that is gone is left to whoever has it.
    `complain(error)` is called for errors that come among the messages.
    """
    batch: list[Delivery] = []
    later: list[tuple[float, Delivery]] = []
    decode = headers.decode
    place: tuple[str | None, int | None] | None = None
    partition: Partition | None = None
    # Each is let go of at once, so that the next takes its place in memory: 0.2 us of 5 for a listener.
    messages.reverse()
    while messages:
        message = messages.pop()
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
                lane = partition.lane
                # A copy in a retry topic says itself whose it is.
                source = partition.source or next(iter(sources.values()))
                plain = partition.source is not None and source.kind is not SourceKind.DEAD
        if partition is None:
            continue
        offset: int = message.offset()  # type: ignore[assignment]
        if offset < partition.next:
            # It was read in this assignment already, and fetched once more around a pause or a rebalance.
            continue
        partition.next = offset + 1
        told = decode(message.headers())  # type: ignore[arg-type]
        key: Any = message.key()
        if key is not None and _KEY not in told:
            # What others have written: their order counts as well.
            told[_KEY] = key.decode("utf-8", "replace") if type(key) is bytes else key
        delivery = outstanding[offset] = Delivery(
            source,
            message.value() or b"",
            told,
            "",
            None,
            offset < partition.again_before,
            1,
            "",
            partition.generation,
            False,
            Tag(partition, offset, key, ""),
        )
        if lane:
            delivery.lane = lane
        if not plain and (due := _take_over(delivery, sources)) > now:
            later.append((due - now, delivery))
        else:
            batch.append(delivery)
    return batch, later


def _take_over(delivery: Delivery, sources: Mapping[str, Source]) -> float:
    """Take from the headers of a copy what they say of it, and return when it is due."""
    told, tag = delivery.headers, delivery.tag
    delivery.attempt = headers.number(told, ATTEMPT, 1)
    delivery.redelivered = delivery.redelivered or delivery.attempt > 1
    origin = str(told.pop(ORIGIN, ""))
    delivery.tag = msgspec.structs.replace(tag, origin=origin)
    if DEAD_ATTEMPT in told:
        told[DEAD_ATTEMPT] = headers.number(told, DEAD_ATTEMPT)
    if tag.partition.source is None:
        topic = origin.rpartition("/")[0].rpartition("/")[0]
        delivery.source = sources.get(topic, delivery.source)
    return headers.number(told, DUE) / 1000.0
