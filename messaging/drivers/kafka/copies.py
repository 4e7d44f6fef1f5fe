"""Copies of notifications: to a pool's retry topic for another attempt, or to its dead letters.

What a copy says is decided by pure functions; `Copier` writes them. An original is settled only when the broker has
confirmed its copy, and until then nothing of it is lost. A copy waits for room in the client library, and is tried
until the broker has it. What the broker refuses is tried again after a pause, for as long as the original is ours: the
topic may be made anew or take more, a right be given back. Else its place in the window would be gone for good, and
with enough of them a listener would hear nothing any more.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from messaging.backoff import Backoff
from messaging.drivers.kafka import clients, headers
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.headers import ATTEMPT, DUE, ORIGIN
from messaging.drivers.kafka.reading import origin_of
from messaging.drivers.kafka.reasons import code_of, of_message
from messaging.errors import TooLarge, TransportError
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, Delivery

__all__ = ["Copier", "again_headers", "dead_headers", "retry_headers"]

_log = logging.getLogger(__name__)

Done = Callable[[Delivery, TransportError | None], None]


def retry_headers(delivery: Delivery, attempt: int, due: float) -> dict[str, Any]:
    """The headers of a copy that is to be delivered as this attempt, not before `due` (seconds since 1970)."""
    return {**delivery.headers, ATTEMPT: str(attempt), DUE: str(int(1000 * due)), ORIGIN: origin_of(delivery)}


def dead_headers(delivery: Delivery, reason: str) -> dict[str, Any]:
    """The headers of a dead letter."""
    return {
        **delivery.headers,
        DEAD_REASON: reason,
        DEAD_ATTEMPT: delivery.attempt,
        ORIGIN: origin_of(delivery),
    }


def again_headers(delivery: Delivery) -> dict[str, Any]:
    """The headers of a dead letter that goes back to its topic."""
    return {**delivery.headers, ORIGIN: origin_of(delivery)}


class _Copy(NamedTuple):
    """One to write."""

    delivery: Delivery
    topic: str
    told: dict[str, Any]
    done: Done
    refused: bool = False
    """Whether it was before."""


class Copier:
    """The producer of copies, made when the first one is due. Owner only."""

    def __init__(self, conf: Callable[[], dict[str, Any]], clock: Callable[[], float]) -> None:
        self._conf = conf
        self._clock = clock
        self._producer: Producer | None = None
        self._writing: dict[int, _Copy] = {}
        self._waiting: deque[int] = deque()
        """Those of them for which the library has no room yet."""
        self.refused: list[_Copy] = []
        """To be tried again."""
        self._again_at = math.inf
        self._backoff = Backoff(initial=1.0, maximum=30.0)
        self._number = itertools.count()
        self.troubles = Troubles()
        self.failed = 0

    @property
    def under_way(self) -> int:
        """How many copies the broker has not confirmed yet."""
        return len(self._writing)

    def copy(self, delivery: Delivery, topic: str, told: dict[str, Any], done: Done) -> None:
        """Write a copy; `done(delivery, error)` is called from `poll`; after an error, perhaps again."""
        self._begin(_Copy(delivery, topic, told, done))

    def _begin(self, copy: _Copy) -> None:
        number = next(self._number)
        self._writing[number] = copy
        if self._waiting or not self._write(number):
            self._waiting.append(number)

    def _write(self, number: int) -> bool:
        """Give one to the library; False when it has no room."""
        producer = self._producer
        if producer is None:
            producer = self._producer = clients.make_producer(self._conf(), self.troubles)
        delivery, topic, told, *_ = self._writing[number]
        try:
            producer.produce(
                topic,
                delivery.body,
                delivery.tag.key,
                headers=headers.encode(told),
                on_delivery=partial(self._reported, number),
            )
        except BufferError:
            if len(producer):
                return False
            # More room than this there will never be.
            self._refuse(
                self._writing.pop(number),
                TooLarge(f"the copy of {len(delivery.body)} bytes is larger than option buffer allows"),
            )
        except KafkaException as error:
            reason = code_of(error)
            if reason is None or reason.code() != KafkaError._FATAL:
                self._refuse(
                    self._writing.pop(number),
                    TransportError(str(error)) if reason is None else of_message(reason, topic),
                )
            # Else another producer writes it.
        return True

    def _reported(self, number: int, error: KafkaError | None, _: Any) -> None:
        if error is not None and self.troubles.fatal:
            # Another producer writes it.
            return
        copy = self._writing.pop(number)
        if error is None:
            if not self._writing and not self.refused:
                self._backoff.reset()
            copy.done(copy.delivery, None)
        else:
            self._refuse(copy, of_message(error, copy.topic))

    def _refuse(self, copy: _Copy, failure: TransportError) -> None:
        self.failed += 1
        if not copy.refused:
            _log.error(
                "a notification could not be copied to %s, so it stays where it is; it is tried again: %s",
                copy.topic,
                failure,
            )
        if not self.refused:
            self._again_at = self._clock() + self._backoff.next()
        self.refused.append(copy._replace(refused=True))
        copy.done(copy.delivery, failure)

    def _try_again(self) -> None:
        refused, self.refused = self.refused, []
        for copy in refused:
            # What has gone with its partition comes again to whoever reads that now.
            if not copy.delivery.stale:
                self._begin(copy)

    def poll(self) -> None:
        """Take the broker's answers, and write what has found no room before."""
        if self._producer is not None:
            self._producer.poll(0)
            while self._waiting and self._write(self._waiting[0]):
                self._waiting.popleft()
        if self.refused and self._clock() >= self._again_at:
            self._try_again()

    def renew(self, user: tuple[str, str] | None) -> None:
        """Log in with something else at the next connect."""
        if self._producer is not None and user is not None:
            self._producer.set_sasl_credentials(*user)

    def replace(self) -> list[Any]:
        """Have what is under way written by another producer, and give away, for disposal, one that cannot go on."""
        holder = self.take()
        self.troubles = Troubles()
        writing, self._writing = self._writing, {}
        self._waiting.clear()
        for copy in writing.values():
            self._begin(copy)
        return holder

    def take(self) -> list[Any]:
        """Give the producer away, for disposal."""
        producer, self._producer = self._producer, None
        return [producer] if producer is not None else []
