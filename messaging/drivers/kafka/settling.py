"""What becomes of deliveries: done, copied to the retry topic or the dead letters, or left for the next reader.

Kafka knows positions, not messages. So a notification that is to come later is copied, and its original is done once
the copy is confirmed. One that is handed back when its listener stops stays where it is; it is copied only if something
after it is done already, since otherwise all of that would come again with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from messaging.drivers.kafka.commits import Commits
from messaging.drivers.kafka.copies import Copier, again_headers, dead_headers, retry_headers
from messaging.drivers.kafka.offsets import Assignment
from messaging.message import Delivery, Outcome

__all__ = ["Settling"]


class Settling:
    """The settlements of one consumer. Owner only.

    `retries`: for each topic the one of notifications that come later; empty where dead letters are read. `dead`: that
    of dead letters. `awaited` tells whether anybody waits to hear of settlements.
    """

    def __init__(
        self,
        assignment: Assignment,
        commits: Commits,
        copier: Copier,
        retries: Mapping[str, str],
        dead: str,
        awaited: Callable[[], bool],
    ) -> None:
        self._assignment = assignment
        self._commits = commits
        self._copier = copier
        self._retries = retries
        self._dead = dead
        self._awaited = awaited
        self.draining = False
        """Nothing is read any more: what was not started is left for the next reader."""
        self.stale = 0

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        """See Connection."""
        if outcome is Outcome.ACCEPT:
            self._done(deliveries)
        else:
            for delivery in deliveries:
                partition, offset = delivery.tag.partition, delivery.tag.offset
                if partition.outstanding.get(offset) is not delivery or offset in partition.returned:
                    self.stale += 1
                elif outcome is Outcome.REJECT:
                    self._reject(delivery, reason)
                elif not self._retries or (self.draining and delay <= 0.0):
                    self.give_back(delivery)
                    self._commits.tell([delivery])
                else:
                    told = retry_headers(delivery, delivery.attempt + 1, time.time() + delay)
                    self._copier.copy(delivery, self._retry_of(delivery), told, self._copied)
        self._commits.soon()

    def _retry_of(self, delivery: Delivery) -> str:
        # What came from a retry topic goes back to that.
        topic = delivery.tag.partition.topic
        return self._retries.get(topic, topic)

    def _reject(self, delivery: Delivery, reason: str) -> None:
        if not self._retries:
            # A dead letter has no place to go to.
            self._done((delivery,))
        else:
            self._copier.copy(delivery, self._dead, dead_headers(delivery, reason), self._copied)

    def _done(self, deliveries: Sequence[Delivery]) -> None:
        done = size = 0
        awaited = self._awaited()
        for delivery in deliveries:
            tag = delivery.tag
            partition = tag.partition
            if partition.outstanding.pop(tag.offset, None) is None:
                continue
            done += 1
            size += len(delivery.body)
            if awaited:
                partition.settled.append(delivery)
            if partition.returned:
                partition.returned.discard(tag.offset)
        self.stale += len(deliveries) - done
        self._assignment.unsettled -= done
        self._assignment.size -= size

    def give_back(self, delivery: Delivery) -> None:
        """Leave one for whoever reads its partition next."""
        delivery.tag.partition.returned.add(delivery.tag.offset)

    def _copied(self, delivery: Delivery, error: Exception | None) -> None:
        partition, offset = delivery.tag.partition, delivery.tag.offset
        if error is None:
            if offset in partition.outstanding:
                self._done((delivery,))
                self._commits.soon()
        else:
            partition.returned.add(offset)
            self._commits.tell([delivery], error)

    def drained(self) -> bool:
        """Whether everything is settled or handed back for good; copies that this needs are begun."""
        if self._copier.under_way:
            return False
        for partition in self._assignment:
            if len(partition.outstanding) > len(partition.returned):
                return False
        holes = [delivery for partition in self._assignment for delivery in partition.holes()]
        if self._copier.refused:
            # Others would be too: all of that comes again.
            return True
        for delivery in holes:
            if self._retries:
                told = retry_headers(delivery, delivery.attempt, time.time())
                self._copier.copy(delivery, self._retry_of(delivery), told, self._copied)
            else:
                self._copier.copy(delivery, self._dead, again_headers(delivery), self._copied)
        return not holes
