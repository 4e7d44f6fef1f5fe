"""Copies of notifications: to a pool's retry topic for another attempt, or to its dead letters.

What a copy says is decided by pure functions; `Copier` writes them. An original is settled only when the broker has
confirmed its copy, and until then nothing of it is lost. A copy is tried until the broker has it; what the broker
refuses for good stays unsettled, and so comes again when the partition is read anew.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from messaging.drivers.kafka import clients, headers
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.headers import ATTEMPT, DUE, ORIGIN
from messaging.drivers.kafka.reading import origin_of
from messaging.drivers.kafka.reasons import code_of, of_message
from messaging.errors import TransportError
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


class Copier:
    """The producer of copies, made when the first one is due. Owner only."""

    def __init__(self, conf: Callable[[], dict[str, Any]]) -> None:
        self._conf = conf
        self._producer: Producer | None = None
        self._writing: dict[int, tuple[Delivery, str, dict[str, Any], Done]] = {}
        self._number = itertools.count()
        self.troubles = Troubles()
        self.failed = 0

    @property
    def under_way(self) -> int:
        """How many copies the broker has not confirmed yet."""
        return len(self._writing)

    def copy(self, delivery: Delivery, topic: str, told: dict[str, Any], done: Done) -> None:
        """Write a copy; `done(delivery, error)` is called from `poll`."""
        if self._producer is None:
            self._producer = clients.make_producer(self._conf(), self.troubles)
        number = next(self._number)
        self._writing[number] = (delivery, topic, told, done)
        try:
            self._producer.produce(
                topic,
                delivery.body,
                delivery.tag.key,
                headers=headers.encode(told),
                on_delivery=partial(self._reported, number),
            )
        except (BufferError, KafkaException) as error:
            reason = code_of(error)
            if reason is not None and reason.code() == KafkaError._FATAL:
                # Another producer writes it.
                return
            del self._writing[number]
            self._failed(
                delivery, topic, done, TransportError(str(error)) if reason is None else of_message(reason, topic)
            )

    def _reported(self, number: int, error: KafkaError | None, _: Any) -> None:
        if error is not None and self.troubles.fatal:
            # Another producer writes it.
            return
        delivery, topic, _, done = self._writing.pop(number)
        if error is None:
            done(delivery, None)
        else:
            self._failed(delivery, topic, done, of_message(error, topic))

    def _failed(self, delivery: Delivery, topic: str, done: Done, failure: TransportError) -> None:
        self.failed += 1
        _log.error("a notification could not be copied to %s, so it stays where it is: %s", topic, failure)
        done(delivery, failure)

    def poll(self) -> None:
        """Take the broker's answers."""
        if self._producer is not None:
            self._producer.poll(0)

    def renew(self, user: tuple[str, str] | None) -> None:
        """Log in with something else at the next connect."""
        if self._producer is not None and user is not None:
            self._producer.set_sasl_credentials(*user)

    def replace(self) -> list[Any]:
        """Have what is under way written by another producer, and give away, for disposal, one that cannot go on."""
        holder = self.take()
        self.troubles = Troubles()
        writing, self._writing = self._writing, {}
        for copy in writing.values():
            self.copy(*copy)
        return holder

    def take(self) -> list[Any]:
        """Give the producer away, for disposal."""
        producer, self._producer = self._producer, None
        return [producer] if producer is not None else []
