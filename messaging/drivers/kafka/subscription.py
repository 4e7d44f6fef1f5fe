"""One source of a listener's connection: a consumer, its partitions, and what of them is unsettled.

    PREPARING   topics are looked up and positions committed, by an offloaded function
    JOINING     the group is joined; the first assignment is awaited
    LIVE        messages are read as long as there is room
    DRAINING    unsubscribed: nothing more is read, what runs is settled
    CLOSING     the last commit, then the group is left, by an offloaded function
    GONE

Partitions come and go in every state from JOINING on. While there is no room nothing is read: at once that means not
to poll at all, after a second the partitions are paused, so that the library can be polled for rebalances without
giving messages. (Pausing costs up to a second when it ends, and discards what was fetched.) The library's own thread
sends the heartbeats; what it wants to see within max.poll.interval is a poll, and that goes on here whatever handlers do.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from messaging.drivers.kafka import clients, headers
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.copies import Copier, dead_headers, retry_headers
from messaging.drivers.kafka.delayed import Delayed
from messaging.drivers.kafka.headers import ATTEMPT, DUE, ORIGIN
from messaging.drivers.kafka.offsets import Partition, parse_note
from messaging.drivers.kafka.preparing import Prepared
from messaging.drivers.kafka.reasons import code_of
from messaging.errors import Cancelled, ConnectionLost, Rejected
from messaging.message import Delivery, Outcome, Source, SourceKind

__all__ = ["Life", "Subscription"]

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = 1_000
"""Messages in one turn: what bounds a pump."""
_LONG_HOLD = 1.0
"""Seconds without room after which the partitions are paused."""
_HOLD_LOOK = 0.1
"""Seconds between two polls of paused partitions."""
_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.GROUP_MAX_SIZE_REACHED,
}


class Life(enum.Enum):
    """See the module."""

    PREPARING = "preparing"
    JOINING = "joining"
    LIVE = "live"
    DRAINING = "draining"
    CLOSING = "closing"
    GONE = "gone"


class Subscription:
    """Owner only. `connection` gives what all of one connection share: clock, offloading, generations, the copier."""

    def __init__(
        self,
        source: Source,
        window: int,
        *,
        group: str,
        retry: str | None,
        dead: str | None,
        level_of: Callable[[str], str | None],
        clock: Callable[[], float],
        copier: Copier,
        commit_interval: float,
        retry_buffer: int,
        offload: Callable[[Callable[[], Any], Callable[[Any, BaseException | None], None]], None],
        next_generation: Callable[[], int],
    ) -> None:
        self.source = source
        self.window = window
        self.group = group
        self.life = Life.PREPARING
        self.begun = False
        """Whether it is being prepared."""
        self._retry = retry
        self._dead = dead
        self._level_of = level_of
        self._clock = clock
        self._copier = copier
        self._commit_interval = commit_interval
        self._retry_buffer = retry_buffer
        self._offload = offload
        """Runs what blocks; what it calls at the end, it calls on the owner."""
        self._next_generation = next_generation
        self._consumer: Consumer | None = None
        self.troubles = Troubles()
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._asking = 0
        """How many questions for the notes of commits are under way."""
        self.unsettled = 0
        """Handed out and not settled."""
        self.delayed = Delayed()
        self._spill: deque[Message] = deque()
        """Read while there was no room."""
        self._held_since = math.inf
        self._looked = 0.0
        self._paused = False
        self._retry_paused = False
        self._commit_at = math.inf
        self._commit_under_way: list[Partition] | None = None
        self.stale = 0
        self.rebalances = 0
        self.announced = False
        self.news: list[tuple[str, Exception | None]] = []
        """Addresses and errors for on_subscribed."""
        self.settled: list[tuple[list[Delivery], Exception | None]] = []
        self.batch: list[Delivery] = []

    # Beginning

    def prepared(self, found: Prepared | None, error: BaseException | None) -> None:
        """Take what was prepared, and join the group."""
        if found is None:
            self.life = Life.GONE
            told = error if isinstance(error, Exception) else ConnectionLost(repr(error))
            self.news.append(("", told))
            return
        self._consumer = found.consumer
        self.troubles = found.troubles
        if self.life is not Life.PREPARING:
            # Unsubscribed meanwhile.
            self._leave()
            return
        self.life = Life.JOINING
        found.consumer.subscribe(
            list(found.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._were_lost
        )

    def renew(self, user: tuple[str, str] | None) -> None:
        """Log in with something else at the next connect."""
        if self._consumer is not None and user is not None:
            self._consumer.set_sasl_credentials(*user)

    # Callbacks of the library, inside of a poll

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self.rebalances += 1
        fresh = []
        for each in partitions:
            partition = Partition(
                each.topic,
                each.partition,
                self._next_generation(),
                is_retry=each.topic == self._retry,
                level=self._level_of(each.topic),
            )
            self._partitions[each.topic, each.partition] = partition
            fresh.append(partition)
        self._asking += 1
        if not fresh:
            self._noted([], [], None)
            return
        wanted = [TopicPartition(each.topic, each.number) for each in fresh]
        # Not in here: it is a round trip, and a broker that stands still would hold up the pump.
        self._offload(
            lambda: consumer.committed(wanted, timeout=5.0), lambda found, error: self._noted(fresh, found, error)
        )
        if self._paused:
            self._held_since = -math.inf
            self._paused = False

    def _noted(self, fresh: list[Partition], found: Any, error: BaseException | None) -> None:
        """Take how far the partitions were handed out before."""
        self._asking -= 1
        notes = {(each.topic, each.partition): each for each in found or ()}
        for partition in fresh:
            note = notes.get((partition.topic, partition.number))
            partition.again_before = parse_note(note.metadata) if note is not None else 0
        if error is not None:
            _log.info("group %s: what was handed out before is not known: %s", self.group, error)
        if self.life is Life.JOINING:
            self.life = Life.LIVE
        if self.life is Life.LIVE and not self.announced and not self._asking:
            self.announced = True
            self.news.append((self.group, None))

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self.rebalances += 1
        gone = self._gone(partitions)
        commits = [
            TopicPartition(each.topic, each.number, *pending)
            for each in gone
            if (pending := each.pending_commit()) is not None
        ]
        if commits and self.life is not Life.CLOSING:
            try:
                # It is on its way before the partitions are given up, and the library waits for it.
                consumer.commit(offsets=commits, asynchronous=True)
            except KafkaException as error:
                _log.info("group %s: the commit at a rebalance failed: %s", self.group, error)
        for each in gone:
            each.written()
            self._tell_settled(each.acknowledged())
            self._end(each)

    def _were_lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """The broker has given them away without us: nothing can be committed any more."""
        self.rebalances += 1
        error = ConnectionLost("the partition was given to another member of the group before the commit")
        for each in self._gone(partitions):
            if each.settled or each.committing:
                self.settled.append((each.committing + each.settled, error))
            self._end(each)
        if self.announced and self.life is Life.LIVE:
            self.announced = False
            self.life = Life.JOINING
            self.news.append(("", ConnectionLost(f"the group {self.group} has lost this member")))

    def _gone(self, partitions: Sequence[TopicPartition]) -> list[Partition]:
        found = [self._partitions.pop((each.topic, each.partition), None) for each in partitions]
        return [each for each in found if each is not None]

    def _end(self, partition: Partition) -> None:
        partition.end()
        self.unsettled = sum(
            1
            for other in self._partitions.values()
            for delivery in other.outstanding.values()
            if delivery.received >= 0.0
        )

    def on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """The answer to a commit; given to the library when the consumer is made."""
        waiting, self._commit_under_way = self._commit_under_way, None
        if waiting is None:
            return
        failed = {(each.topic, each.partition) for each in partitions if each.error is not None}
        for partition in waiting:
            if error is None and (partition.topic, partition.number) not in failed:
                self._tell_settled(partition.acknowledged())
            else:
                partition.refused()
        if error is not None:
            _log.info("group %s: a commit failed and is repeated: %s", self.group, error)
        self._commit_at = self._clock() + self._commit_interval

    def _tell_settled(self, deliveries: list[Delivery]) -> None:
        if deliveries:
            self.settled.append((deliveries, None))

    # Turns of the owner

    @property
    def has_room(self) -> bool:
        """Whether messages are to be read now."""
        if self.life is Life.JOINING:
            return True
        # A large window is refilled in large steps.
        step = self.window // 8 if self.window >= 512 else 1
        return self.life is Life.LIVE and not self._asking and self.window - self.unsettled >= max(1, step)

    @property
    def due(self) -> float:
        """When a turn is due at the latest."""
        due = min(self._commit_at, self.delayed.due if self.life is Life.LIVE else math.inf)
        if self._consumer is not None and not self.has_room:
            due = min(due, self._clock() + _HOLD_LOOK)
        return due

    def turn(self, wait: float) -> None:
        """Read what there is room for, waiting at most `wait` seconds for the first; commit what is due."""
        consumer = self._consumer
        if consumer is None or self.life in (Life.CLOSING, Life.GONE):
            return
        if self.has_room:
            self._held_since = math.inf
            if self._paused:
                self._resume(consumer)
            self._read(consumer, wait)
        else:
            self._hold(consumer)
        now = self._clock()
        if self.life is Life.LIVE and self.delayed.due <= now:
            self._hand_out(self.delayed.take(now, self.window - self.unsettled))
        if self._commit_at <= now and self._commit_under_way is None:
            self._commit(consumer)
        if self.life is Life.DRAINING and not self._copier.under_way and not self._running():
            self._leave()

    def _read(self, consumer: Consumer, wait: float) -> None:
        room = min(self.window - self.unsettled, _MOST_AT_ONCE)
        messages: list[Message] = []
        while self._spill and len(messages) < room:
            messages.append(self._spill.popleft())
        if not messages:
            # `consume` waits until it has as many as it was asked for; this waits for the first.
            first = consumer.poll(wait)
            if first is None:
                return
            messages.append(first)
        if len(messages) < room:
            messages += consumer.consume(room - len(messages), 0)
        if self.life is not Life.LIVE or self._asking:
            self._spill.extend(messages)
            return
        self._take(messages)

    def _hold(self, consumer: Consumer) -> None:
        now = self._clock()
        if self._held_since == math.inf:
            self._held_since = now
        if self._asking:
            # Short, and the library has nothing else to do.
            self._serve(consumer)
        elif now - self._held_since >= _LONG_HOLD and now - self._looked >= _HOLD_LOOK:
            self._looked = now
            if not self._paused:
                self._paused = True
                self._pause(consumer, self._partitions.values())
            self._serve(consumer)

    def _serve(self, consumer: Consumer) -> None:
        message = consumer.poll(0)
        if message is not None:
            self._spill.append(message)

    def _pause(self, consumer: Consumer, partitions: Any) -> None:
        wanted = [TopicPartition(each.topic, each.number) for each in partitions]
        if wanted:
            try:
                consumer.pause(wanted)
            except KafkaException as error:
                _log.info("group %s: partitions could not be paused: %s", self.group, error)

    def _resume(self, consumer: Consumer) -> None:
        self._paused = False
        partitions = [each for each in self._partitions.values() if not (each.is_retry and self._retry_paused)]
        wanted = [TopicPartition(each.topic, each.number) for each in partitions]
        if wanted:
            try:
                consumer.resume(wanted)
            except KafkaException as error:
                _log.info("group %s: partitions could not be resumed: %s", self.group, error)

    # Messages

    def _take(self, messages: list[Message]) -> None:
        """Make deliveries of messages."""
        batch = []
        source = self.source
        partitions = self._partitions
        decode = headers.decode
        for message in messages:
            error = message.error()
            if error is not None:
                self._complain(error)
                continue
            place = (message.topic(), message.partition())
            partition = partitions.get(place)  # type: ignore[arg-type]
            if partition is None:
                # It was given away after this was fetched; whoever has it reads it.
                continue
            offset: int = message.offset()  # type: ignore[assignment]
            told = decode(message.headers())  # type: ignore[arg-type]
            key = message.key()
            if key is not None and "key" not in told:
                # What others have written: their order counts as well.
                told["key"] = key.decode("utf-8", "replace") if type(key) is bytes else key
            if partition.level is not None:
                told.setdefault("level", partition.level)
            delivery = Delivery(
                source,
                message.value() or b"",
                told,
                "",
                None,
                offset < (partition.again_before or 0),
                1,
                "",
                partition.generation,
                False,
                (partition, offset, key, ""),
            )
            partition.outstanding[offset] = delivery
            partition.next = offset + 1
            if partition.is_retry or source.kind is SourceKind.DEAD:
                if self._delay(delivery, partition, offset, key):
                    continue
            batch.append(delivery)
        self._hand_out(batch)

    def _delay(self, delivery: Delivery, partition: Partition, offset: int, key: Any) -> bool:
        """Read what only copies say; whether it waits for its time."""
        told = delivery.headers
        delivery.attempt = headers.number(told, ATTEMPT, 1)
        due = headers.number(told, DUE) / 1000.0
        origin = told.pop(ORIGIN, "")
        delivery.tag = (partition, offset, key, origin)
        if not partition.is_retry:
            headers.restore(told)
            return False
        delivery.redelivered = True
        left = due - time.time()
        if left <= 0.0:
            return False
        delivery.received = -1.0
        self.delayed.add(delivery, self._clock() + left)
        self._bound_delayed()
        return True

    def _bound_delayed(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        full = len(self.delayed) >= self._retry_buffer
        if full and not self._retry_paused:
            self._retry_paused = True
            self._pause(consumer, [each for each in self._partitions.values() if each.is_retry])
        elif self._retry_paused and 2 * len(self.delayed) <= self._retry_buffer:
            self._retry_paused = False
            if not self._paused:
                self._resume(consumer)

    def _hand_out(self, batch: list[Delivery]) -> None:
        if not batch:
            return
        for delivery in batch:
            delivery.received = 0.0
        self.unsettled += len(batch)
        self.batch += batch
        self._soon()
        if self._retry_paused:
            self._bound_delayed()

    def _complain(self, error: KafkaError) -> None:
        if error.code() in _DENIED:
            refusal = Rejected(f"the Kafka cluster refuses the group {self.group!r}: {error.str()}", retryable=False)
            self.news.append(("", refusal))
            self._leave()
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            _log.warning("group %s: %s", self.group, error.str())
        else:
            _log.info("group %s: %s", self.group, error.str())

    # Settling

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        """See Connection."""
        if outcome is Outcome.ACCEPT:
            for delivery in deliveries:
                self._done(delivery)
            self._soon()
            return
        for delivery in deliveries:
            partition, offset, _, origin = delivery.tag
            if delivery.stale or partition.outstanding.get(offset) is not delivery:
                self.stale += 1
                continue
            if not origin:
                delivery.tag = (*delivery.tag[:3], f"{partition.topic}/{partition.number}/{offset}")
            if outcome is Outcome.REJECT:
                if self._dead is None:
                    self._done(delivery)
                else:
                    self._copier.copy(delivery, self._dead, dead_headers(delivery, reason), self._copied)
            elif self._retry is None or (delay <= 0.0 and self.life is not Life.LIVE):
                self._give_back(delivery)
            else:
                told = retry_headers(delivery, delivery.attempt + 1, time.time() + delay)
                self._copier.copy(delivery, self._retry, told, self._copied)
        self._soon()

    def _done(self, delivery: Delivery) -> None:
        partition, offset, _, _ = delivery.tag
        if partition.outstanding.pop(offset, None) is None:
            self.stale += 1
            return
        self.unsettled -= 1
        partition.settled.append(delivery)

    def _give_back(self, delivery: Delivery) -> None:
        """It was not started, and stays unsettled: whoever reads the partition next gets it."""
        partition, offset, _, _ = delivery.tag
        if offset not in partition.returned:
            partition.returned.append(offset)
            self.settled.append(([delivery], None))

    def _copied(self, delivery: Delivery, error: Exception | None) -> None:
        if error is None:
            self._done(delivery)
            self._soon()
        else:
            self.settled.append(([delivery], error))
            delivery.tag[0].returned.append(delivery.tag[1])

    # Commits

    def _soon(self) -> None:
        if self._commit_at == math.inf:
            self._commit_at = self._clock() + self._commit_interval

    def _commits(self) -> list[tuple[Partition, TopicPartition]]:
        return [
            (each, TopicPartition(each.topic, each.number, *pending))
            for each in self._partitions.values()
            if (pending := each.pending_commit()) is not None
        ]

    def _commit(self, consumer: Consumer) -> None:
        self._commit_at = math.inf
        commits = self._commits()
        if not commits:
            return
        try:
            consumer.commit(offsets=[place for _, place in commits], asynchronous=True)
        except KafkaException as error:
            _log.info("group %s: a commit could not be sent and is repeated: %s", self.group, error)
            self._commit_at = self._clock() + 1.0
            return
        self._commit_under_way = [partition for partition, _ in commits]
        for partition, _ in commits:
            partition.written()

    # The end

    def unsubscribe(self) -> None:
        """Read nothing more; what runs may still be settled."""
        if self.life in (Life.JOINING, Life.LIVE):
            self.life = Life.DRAINING
            for delivery in self.delayed.clear():
                delivery.tag[0].returned.append(delivery.tag[1])
            self._spill.clear()
        elif self.life is Life.PREPARING:
            # The consumer that is being prepared is closed when it comes.
            self.life = Life.DRAINING
        self.announced = False
        self.news.append(("", Cancelled(f"unsubscribed from {self.source}")))

    def _running(self) -> bool:
        """Whether anything is neither settled nor handed back; copies of what has to be copied are begun."""
        for partition in self._partitions.values():
            if len(partition.outstanding) > len(partition.returned):
                return True
        holes = [delivery for partition in self._partitions.values() for delivery in partition.holes()]
        target = self._retry or self._dead_again()
        if holes and target is not None:
            for delivery in holes:
                partition, offset, _, origin = delivery.tag
                partition.returned.remove(offset)
                if not origin:
                    delivery.tag = (*delivery.tag[:3], f"{partition.topic}/{partition.number}/{offset}")
                told = (
                    retry_headers(delivery, delivery.attempt, time.time())
                    if self._retry is not None
                    else {**delivery.headers, ORIGIN: delivery.tag[3]}
                )
                self._copier.copy(delivery, target, told, self._copied)
            return True
        return False

    def _dead_again(self) -> str | None:
        for topic, _ in self._partitions:
            return topic
        return None

    def finish(self) -> None:
        """Leave the group now, whatever is unsettled."""
        if self.life in (Life.CLOSING, Life.GONE):
            return
        if self._consumer is None:
            self.life = Life.DRAINING if self.life is Life.PREPARING else Life.GONE
            return
        self._leave()

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self.life = Life.CLOSING
        commits = self._commits()
        for partition, _ in commits:
            partition.written()
        covered = [delivery for each in self._partitions.values() for delivery in each.acknowledged()]
        for partition in self._partitions.values():
            partition.end()
        self._partitions.clear()
        self.unsettled = 0
        offsets = [place for _, place in commits]
        holder: list[Any] = [consumer]
        del consumer

        def leave() -> None:
            try:
                if offsets:
                    holder[0].commit(offsets=offsets, asynchronous=False)
            finally:
                clients.dispose(holder)

        self._offload(leave, lambda _, error: self._left(covered, error))

    def _left(self, covered: list[Delivery], error: BaseException | None) -> None:
        self.life = Life.GONE
        if error is not None:
            reason = code_of(error)
            told = reason.str() if reason is not None else str(error)
            _log.info("group %s: the last commit failed, so what it covers comes again: %s", self.group, told)
        if covered:
            failure = ConnectionLost("the last commit failed") if error is not None else None
            self.settled.append((covered, failure))
