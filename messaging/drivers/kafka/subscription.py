"""One consumer of a listener's connection: how it joins its group, reads as there is room, and leaves.

    PREPARING   topics are looked up and positions committed, by an offloaded function
    JOINING     the group is joined; the first assignment is awaited
    LIVE        messages are read as long as there is room
    DRAINING    unsubscribed: nothing more is read, what runs is settled
    CLOSING     the last commit, then the group is left, by an offloaded function
    GONE

Partitions come and go in every state from JOINING on. While there is no room nothing is read (see pauses). The
library's own threads send the heartbeats; what they want to see within max.poll.interval is a poll, and that goes on
whatever handlers do.

A consumer has one source; with `wire=oslo` it has one for each level.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from messaging.drivers.kafka import clients
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.commits import Commits
from messaging.drivers.kafka.copies import Copier
from messaging.drivers.kafka.delayed import Delayed
from messaging.drivers.kafka.offsets import Assignment, Partition, parse_note
from messaging.drivers.kafka.pauses import LOOK, Pauses
from messaging.drivers.kafka.preparing import Place, Positions, Prepared, take_positions
from messaging.drivers.kafka.reading import read
from messaging.drivers.kafka.reasons import code_of
from messaging.drivers.kafka.settling import Settling
from messaging.errors import Cancelled, ConnectionLost, Rejected
from messaging.message import Delivery, Source

__all__ = ["Life", "Offload", "Subscription"]

_log = logging.getLogger(__name__)

Offload = Callable[[Callable[[], Any], Callable[[Any, BaseException | None], None]], None]
_MOST_AT_ONCE = 2_000
"""Messages in one turn. Owner and workers take the interpreter from each other once for each turn: with 250 a listener
takes 3.4 us of processor time for each message, with these 3.1.
"""
_ANSWER = 5.0
"""Seconds for a broker to say what was committed."""
_NOTHING = 3.0
"""Seconds after which a member of a `consumer` group counts as assigned nothing: unlike the classic one that protocol
does not tell an empty assignment. Positions were committed before, so nothing is missed whenever the first one comes.
"""
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
    """Owner only. `offload` runs what blocks, and what it calls at the end, it calls on the owner."""

    def __init__(
        self,
        group: str,
        *,
        dead: str,
        clock: Callable[[], float],
        copier: Copier,
        commit_interval: float,
        retry_buffer: int,
        most_bytes: int,
        largest: int,
        in_order: bool,
        tells_nothing: bool,
        offload: Offload,
        next_generation: Callable[[], int],
        awaits_settled: Callable[[], bool],
    ) -> None:
        self.group = group
        self.dead = dead
        self.sources: dict[str, Source] = {}
        """By topic."""
        self.retries: dict[str, str] = {}
        """The retry topic of each; those of sources that were removed stay, for what is in hand."""
        self.windows: dict[Source, int] = {}
        self.life = Life.PREPARING
        self.prepared: set[str] = set()
        """Topics that were looked up, or are just being."""
        self.announced: set[Source] = set()
        """Sources that were told to be subscribed."""
        self._found: set[Source] = set()
        """The same, whatever has become of them since."""
        self._starts: dict[Place, int] = {}
        """Where partitions begin that have no position, until it is committed."""
        self._looked_up: set[str] = set()
        """Topics of which that is known, as far as it has to be."""
        self.rebalances = 0
        self.troubles = Troubles()
        self.news: list[tuple[Source, str, Exception | None]] = []
        """For on_subscribed."""
        self.batch: list[Delivery] = []
        """For on_deliveries."""
        self._clock = clock
        self._in_order = in_order
        self._tells_nothing = tells_nothing
        self._joined_at = math.inf
        self._offload = offload
        self._next_generation = next_generation
        self._assignment = Assignment()
        self.commits = Commits(group, self._assignment, commit_interval, clock)
        self.settling = Settling(self._assignment, self.commits, copier, self.retries, dead, awaits_settled)
        self._consumer: Consumer | None = None
        self._asking = 0
        """How many questions for the notes of commits are under way."""
        self.delayed = Delayed()
        self._spill: deque[Message] = deque()
        """Read while there was no room."""
        self._pauses = Pauses(group, self._assignment, retry_buffer, most_bytes)
        self._most_bytes = most_bytes
        self._usual = largest
        """Bytes of a message, in the mean of those that were read last."""
        self._at_once = _MOST_AT_ONCE

    # Beginning

    def join(self, found: Prepared | None, error: BaseException | None) -> None:
        """Take what was prepared, and join the group."""
        if found is None:
            self.life = Life.GONE
            for source in self.sources.values():
                self.news.append((source, "", error if isinstance(error, Exception) else ConnectionLost(repr(error))))
            return
        self._consumer = found.consumer
        self.troubles = found.troubles
        if self.life is not Life.PREPARING:
            # Unsubscribed meanwhile.
            self._leave()
            return
        self.life = Life.JOINING
        try:
            self.subscribe_all()
        except KafkaException as failure:
            self._refused(str(failure))

    def begin_at(self, topics: Sequence[str], starts: Mapping[Place, int]) -> None:
        """Note where topics that were prepared begin; one that was read before and made anew, at its beginning."""
        self._looked_up.update(topics)
        self._starts |= {
            place: start for place, start in starts.items() if self.sources.get(place[0]) not in self._found
        }

    def subscribe_all(self) -> None:
        """Tell the library which topics are wanted now."""
        if self._consumer is not None:
            topics = [topic for topic in self.sources if topic in self.prepared]
            self._joined_at = self._clock()
            self._consumer.subscribe(
                [*topics, *(self.retries[topic] for topic in topics if topic in self.retries)],
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._were_lost,
            )

    def check(self) -> Callable[[float], object] | None:
        """A question to a broker over this consumer; not while it is polled."""
        consumer = self._consumer
        topic = next(iter(self.sources), None)
        if consumer is None or topic is None:
            return None
        is_member = self.life is not Life.JOINING

        def ask(timeout: float) -> None:
            consumer.list_topics(topic, timeout)
            if is_member:
                # Over the connection to the coordinator of its group.
                consumer.committed([TopicPartition(topic, 0)], timeout=timeout)

        return ask

    def refuse(self, topics: Sequence[str], error: BaseException) -> None:
        """These of its topics cannot be read; those that could before are again, when somebody has made them anew."""
        for topic in topics:
            if self.sources.get(topic) in self._found:
                _log.warning("group %s: %s", self.group, error)
                continue
            source = self.sources.pop(topic, None)
            if source is not None:
                self.windows.pop(source, None)
                self.news.append((source, "", error if isinstance(error, Exception) else ConnectionLost(repr(error))))

    def renew(self, user: tuple[str, str] | None) -> None:
        """Log in with something else at the next connect."""
        if self._consumer is not None and user is not None:
            self._consumer.set_sasl_credentials(*user)

    # Callbacks of the library, inside of a poll

    def _assigned(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self.rebalances += 1
        fresh = [
            Partition(
                each.topic,
                each.partition,
                self._next_generation(),
                self.sources.get(each.topic),
                self.settling,
                in_order=self._in_order,
            )
            for each in places
        ]
        for partition in fresh:
            self._assignment.add(partition)
        self._asking += 1
        if not fresh and not self._starts:
            self._noted([], None, None)
            return
        wanted = [TopicPartition(each.topic, each.number) for each in fresh]
        # Not in here: it is a round trip, and a broker that stands still would hold up the pump.
        starts = dict(self._starts)
        self._offload(
            lambda: take_positions(consumer, wanted, starts, _ANSWER),
            lambda found, error: self._noted(fresh, found, error),
        )
        self._pauses.assigned()

    def _noted(self, fresh: list[Partition], found: Positions | None, error: BaseException | None) -> None:
        """Take how far the partitions were handed out before, and where those begin that have no position."""
        self._asking -= 1
        notes, begun = found if found is not None else ({}, {})
        for place in notes:
            self._starts.pop(place, None)
        for partition in fresh:
            place = partition.topic, partition.number
            partition.again_before = parse_note(notes.get(place))
            if place in begun and self._assignment.get(place) is partition:
                self._begin(partition, begun[place])
        if error is not None:
            _log.info("group %s: what was handed out before is not known: %s", self.group, error)
        if self.life is Life.JOINING:
            self.life = Life.LIVE
        if self.life is Life.LIVE and not self._asking:
            self._announce()

    def _begin(self, partition: Partition, start: int) -> None:
        # What is before is passed over, should the library come to it all the same; and the next commit says this.
        partition.next = start
        self.commits.soon()
        if self._consumer is not None:
            self._shielded(self._consumer.seek, TopicPartition(partition.topic, partition.number, start))

    def _announce(self) -> None:
        for topic, source in self.sources.items():
            if source not in self.announced and topic in self.prepared and topic in self._looked_up:
                self.announced.add(source)
                self._found.add(source)
                self.news.append((source, self.group, None))

    def _revoked(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self.rebalances += 1
        gone = self._take_away(places)
        if self.life is not Life.CLOSING:
            self.commits.at_revoke(consumer, gone)
        self._recount()

    def _were_lost(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        """The broker has given them away without us: nothing can be committed any more."""
        self.rebalances += 1
        error = ConnectionLost("the partition was given to another member of the group before the commit")
        for partition in self._take_away(places):
            self.commits.tell(partition.end(), error)
        self._recount()
        if self.life is Life.LIVE:
            self.life = Life.JOINING
            for source in self.announced:
                self.news.append((source, "", ConnectionLost(f"the group {self.group} has lost this member")))
            self.announced.clear()

    def _recount(self) -> None:
        self.delayed.forget_stale()
        self._assignment.recount(self.delayed)

    def _take_away(self, places: Sequence[TopicPartition]) -> list[Partition]:
        gone = self._assignment.take([(each.topic, each.partition) for each in places])
        if self._spill:
            self._spill = deque(
                message
                for message in self._spill
                if self._assignment.get((message.topic() or "", message.partition() or 0)) is not None
            )
        return gone

    # Turns of the owner

    @property
    def window(self) -> int:
        """How many messages may be unsettled."""
        return max(self.windows.values(), default=0)

    @property
    def _awaits_assignment(self) -> bool:
        joins = self.life is Life.JOINING
        return joins or (self.life is Life.LIVE and not self._asking and len(self.announced) < len(self.sources))

    @property
    def partitions(self) -> int:
        """How many it is assigned now, those of retry topics among them."""
        return len(self._assignment)

    @property
    def has_room(self) -> bool:
        """Whether messages are to be read now."""
        if self._asking or self._consumer is None:
            return False
        if self.life is Life.JOINING:
            return True
        # A window is refilled in large steps: a pause costs much.
        window, most = self.window, self._most_bytes
        return (
            self.life is Life.LIVE
            and window - self._assignment.unsettled >= max(1, window // 8)
            and most - self._assignment.size >= most // 8
        )

    @property
    def due(self) -> float:
        """When a turn is due at the latest."""
        due = self.commits.due
        if self.has_room:
            # Without room, what is due has to wait for it.
            return min(due, self.delayed.due) if self.life is Life.LIVE else due
        return min(due, self._clock() + LOOK) if self._consumer is not None else due

    def turn(self, wait: float) -> None:
        """Read what there is room for, waiting at most `wait` seconds for the first; commit what is due."""
        consumer = self._consumer
        if consumer is None:
            return
        if self.has_room:
            self._pauses.end(consumer)
            self._shielded(self._read, consumer, wait)
        elif not self._asking and self._pauses.hold(consumer, self._clock()):
            # Not while it is asked something: a consumer that is polled keeps such an answer back for many seconds.
            self._shielded(self._serve, consumer)
        now = self._clock()
        if self.life is Life.LIVE and self.delayed.due <= now:
            self._hand_out(self.delayed.take(now, self.window - self._assignment.unsettled))
            self._bound_retries(consumer)
        if self._tells_nothing and now >= self._joined_at + _NOTHING and self._awaits_assignment:
            self.life = Life.LIVE
            self._announce()
        self.commits.write(consumer, now)
        if self.life is Life.DRAINING and self.settling.drained():
            self._leave()

    def _shielded(self, function: Callable[..., None], *arguments: Any) -> None:
        """What the library raises while it is polled concerns this consumer alone, and is over with the next poll."""
        try:
            function(*arguments)
        except KafkaException as error:
            _log.warning("group %s: %s", self.group, error)

    def _read(self, consumer: Consumer, wait: float) -> None:
        fitting = (self._most_bytes - self._assignment.size) // max(1, self._usual)
        room = max(1, min(self.window - self._assignment.unsettled, self._at_once, fitting))
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
        if self._asking:
            self._spill.extend(messages)
            return
        batch, later = read(messages, self._assignment, self.sources, time.time(), self._complain)
        self._hand_out(batch)
        if later:
            now = self._clock()
            for delay, delivery in later:
                self.delayed.add(delivery, now + delay)
            self._bound_retries(consumer)

    def _bound_retries(self, consumer: Consumer) -> None:
        self._pauses.bound_retries(consumer, len(self.delayed), self.delayed.size)

    def _serve(self, consumer: Consumer) -> None:
        message = consumer.poll(0)
        if message is not None:
            self._spill.append(message)

    def _hand_out(self, batch: list[Delivery]) -> None:
        if batch:
            size = sum([len(delivery.body) for delivery in batch])
            self._usual = size // len(batch)
            self._assignment.unsettled += len(batch)
            self._assignment.size += size
            self.batch += batch
            self.commits.soon()

    def _complain(self, error: KafkaError) -> None:
        _log.info("group %s: %s", self.group, error.str())
        if error.code() in _DENIED and self.life is Life.JOINING:
            self._refused(error.str())
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            # One was deleted; they are prepared anew.
            self.prepared.clear()

    def _refused(self, reason: str) -> None:
        told = f"the Kafka cluster refuses a member of the group {self.group!r}: {reason}"
        self.news += [(source, "", Rejected(told, retryable=False)) for source in self.sources.values()]
        self._leave()

    def handled(self, count: int, seconds: float) -> None:
        """Handing out so many has taken that long: handlers that run at once, on the owner, keep it from everything
        else, so it reads no more in a turn than they can do in a second.
        """
        self._at_once = max(1, int(count / seconds)) if seconds > 1.0 else min(_MOST_AT_ONCE, 2 * self._at_once)

    # The end

    def remove(self, source: Source) -> None:
        """Read nothing more of a source; what runs may still be settled. Without any, the group is left after that."""
        self.windows.pop(source, None)
        for topic in [topic for topic, each in self.sources.items() if each == source]:
            if len(self.sources) > 1:
                del self.sources[topic]
                # Who subscribes again waits for an assignment with it.
                self.prepared.discard(topic)
                self._looked_up.discard(topic)
                self._starts = {place: start for place, start in self._starts.items() if place[0] != topic}
            else:
                self._drain()
        self.announced.discard(source)
        self.news.append((source, "", Cancelled(f"unsubscribed from {source}")))

    def _drain(self) -> None:
        if self.life in (Life.PREPARING, Life.JOINING, Life.LIVE):
            # A consumer that is just being prepared is closed when it comes.
            self.life = Life.GONE if self.life is Life.PREPARING and not self.prepared else Life.DRAINING
        self.sources.clear()
        self.settling.draining = True
        for delivery in self.delayed.clear():
            self.settling.give_back(delivery)
        self._spill.clear()

    def finish(self) -> None:
        """Leave the group now, whatever is unsettled."""
        if self._consumer is not None:
            self._leave()
        elif self.life is Life.PREPARING:
            self._drain()

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self.life = Life.CLOSING
        offsets, covered = self.commits.last()
        holder: list[Any] = [consumer]
        del consumer

        def leave() -> None:
            try:
                if offsets:
                    holder[0].commit(offsets=offsets, asynchronous=False)
            finally:
                clients.dispose(holder)

        def left(_: Any, error: BaseException | None) -> None:
            self.life = Life.GONE
            if error is not None:
                reason = code_of(error)
                told = reason.str() if reason is not None else str(error)
                _log.info("group %s: the last commit failed, so what it covers comes again: %s", self.group, told)
            self.commits.tell(covered, ConnectionLost("the last commit failed") if error is not None else None)

        self._offload(leave, left)
