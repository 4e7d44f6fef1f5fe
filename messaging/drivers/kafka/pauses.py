"""Keeping the library from giving messages, where there is no room for them.

At first nothing is asked of it. After a second the partitions are paused, so that it can be polled for rebalances
without giving messages; what comes all the same is kept by whoever polls. Not sooner, because a pause costs up to a
second when it ends, and discards what was fetched. The retry topic is paused by itself, when too much of it waits in
memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from messaging.drivers.kafka.offsets import Assignment, Partition

__all__ = ["LOOK", "Pauses"]

_log = logging.getLogger(__name__)

_LONG = 1.0
"""Seconds without room after which the partitions are paused."""
LOOK = 0.1
"""Seconds between two polls of paused partitions."""


class Pauses:
    """The pauses of one consumer. Owner only. Of the retry topic `retry_limit` notifications, or `most_bytes` bytes of
    them, may wait in memory.
    """

    def __init__(self, group: str, assignment: Assignment, retry_limit: int, most_bytes: int) -> None:
        self._group = group
        self._assignment = assignment
        self._retry_limit = retry_limit
        self._most_bytes = most_bytes
        self._since = math.inf
        self._looked = 0.0
        self._all = False
        self._some = False
        """It is not known which of them are."""
        self._retries = False

    def assigned(self) -> None:
        """There are other partitions now. Any may be paused: a pause outlives the assignment in which it was made, and
        only resuming ends it.
        """
        self._some = True
        self._all = self._retries = False

    def end(self, consumer: Consumer) -> None:
        """There is room again."""
        self._since = math.inf
        if self._all or self._some:
            self._all = self._some = False
            wanted = [each for each in self._assignment if not (self._retries and each.source is None)]
            self._change("resumed", consumer.resume, wanted)

    def hold(self, consumer: Consumer, now: float) -> bool:
        """There is no room: whether the library shall be polled now."""
        if self._since == math.inf:
            self._since = now
        if now - self._since < _LONG or now - self._looked < LOOK:
            return False
        self._looked = now
        if not self._all:
            self._all = True
            self._change("paused", consumer.pause, list(self._assignment))
        return True

    def bound_retries(self, consumer: Consumer, waiting: int, size: int) -> None:
        """Read no more from the retry topic than may wait in memory, where `waiting` are, of `size` bytes."""
        if not self._retries and (waiting >= self._retry_limit or size >= self._most_bytes):
            self._retries = True
            self._change("paused", consumer.pause, self._retry_partitions())
        elif self._retries and 2 * waiting <= self._retry_limit and 2 * size <= self._most_bytes:
            self._retries = False
            if not self._all:
                self._change("resumed", consumer.resume, self._retry_partitions())

    def _retry_partitions(self) -> list[Partition]:
        return [each for each in self._assignment if each.source is None]

    def _change(
        self, done: str, change: Callable[[list[TopicPartition]], object], partitions: Sequence[Partition]
    ) -> None:
        if partitions:
            try:
                change([TopicPartition(each.topic, each.number) for each in partitions])
            except KafkaException as error:
                _log.info("group %s: partitions could not be %s: %s", self._group, done, error)
