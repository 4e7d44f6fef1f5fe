"""When positions are committed, and what is told of it.

One commit at a time is under way, at most every `interval` seconds, and only while something has changed. What the
commit covers is told when the broker has answered. One that fails is repeated with whatever has come since; one that
comes too late, because the partition has gone, costs nothing but repeats. Commits at a rebalance go beside it, and the
library tells all answers to one function, so each is known by its positions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from messaging.drivers.kafka.offsets import Assignment, Partition
from messaging.message import Delivery

__all__ = ["Commits"]

_log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds between a commit that failed and the next."""
_PATIENCE = 5.0
"""Seconds after which the answer to a commit counts as lost."""


class Commits:
    """The commits of one consumer. Owner only; `told` collects what on_settled is to be told."""

    def __init__(self, group: str, assignment: Assignment, interval: float, clock: Callable[[], float]) -> None:
        self._group = group
        self._assignment = assignment
        self._interval = interval
        self._clock = clock
        self._under_way: dict[tuple[str, int, int], Partition] = {}
        """What the commit that awaits its answer says: topic, number and position of each partition."""
        self._sent = 0.0
        self.due = math.inf
        self.told: list[tuple[Sequence[Delivery], Exception | None]] = []

    def soon(self) -> None:
        """Something has changed."""
        if self.due == math.inf:
            self.due = self._clock() + self._interval

    def write(self, consumer: Consumer, now: float) -> None:
        """Send a commit, if one is due."""
        if now < self.due:
            return
        if self._under_way:
            if now < self._sent + _PATIENCE:
                self.due = now + self._interval
                return
            self._repeat(self._under_way.values())
        self.due = math.inf
        pending = _pending(self._assignment)
        if not pending:
            return
        try:
            consumer.commit(offsets=[place for _, place in pending], asynchronous=True)
        except KafkaException as error:
            _log.info("group %s: a commit could not be sent and is repeated: %s", self._group, error)
            self.due = now + _PAUSE
            return
        self._under_way = {_said(place): partition for partition, place in pending}
        self._sent = now
        for partition in self._under_way.values():
            partition.written()

    def answered(self, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        """Take the library's answer to a commit; it is called while the consumer is polled."""
        if places and {_said(each) for each in places} != self._under_way.keys():
            # That of a commit at a rebalance, which was told already, or of one whose answer counts as lost.
            return
        partitions, self._under_way = self._under_way, {}
        failed = {_said(each) for each in places if each.error is not None}
        for place, partition in partitions.items():
            if error is None and place not in failed:
                self.tell(partition.acknowledged())
            else:
                partition.refused()
                # Not at once: while no broker can be reached, every one fails.
                self.due = self._clock() + max(self._interval, _PAUSE)
        if error is not None:
            _log.info("group %s: a commit failed and is repeated: %s", self._group, error)

    def at_revoke(self, consumer: Consumer, gone: Sequence[Partition]) -> None:
        """Commit what the consumer is about to give up; it waits for no answer."""
        pending = _pending(gone)
        if pending:
            try:
                # It is on its way before the partitions are given up, and the library waits for it.
                consumer.commit(offsets=[place for _, place in pending], asynchronous=True)
            except KafkaException as error:
                _log.info("group %s: the commit at a rebalance failed: %s", self._group, error)
        for partition in gone:
            partition.written()
            self.tell(partition.acknowledged())
            partition.end()

    def last(self) -> tuple[list[TopicPartition], list[Delivery]]:
        """What to commit before the group is left, and what that covers; all partitions end."""
        pending = _pending(self._assignment)
        covered: list[Delivery] = []
        for partition in self._assignment.take_all():
            partition.written()
            covered += partition.acknowledged()
            partition.end()
        self._assignment.unsettled = self._assignment.size = 0
        return [place for _, place in pending], covered

    def tell(self, deliveries: Sequence[Delivery], error: Exception | None = None) -> None:
        """Have it told that deliveries are settled, or are not."""
        if deliveries:
            self.told.append((deliveries, error))

    def _repeat(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            partition.refused()


def _said(place: TopicPartition) -> tuple[str, int, int]:
    return place.topic, place.partition, place.offset


def _pending(partitions: Iterable[Partition]) -> list[tuple[Partition, TopicPartition]]:
    return [
        (partition, TopicPartition(partition.topic, partition.number, *pending))
        for partition in partitions
        if (pending := partition.pending_commit()) is not None
    ]
