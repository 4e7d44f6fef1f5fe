"""What has to be so before a consumer joins its group: topics exist, and the pool has a position in each partition.

Plain functions that block, for `services.offload`. Positions are committed before the group is joined, because they
decide what a pool gets: a new pool begins at the end as of `start()`, not as of the moment, seconds later perhaps, when
its first message is fetched; and a partition that was added to a topic which the pool reads already begins at its
beginning.

Only members may commit while a group has some. With `wire=oslo` one group reads many topics, so it may have members
and no position in a topic that is new to it. Then what would have been committed is kept as `Prepared.starts`, and
committed by `take_positions` as soon as this member is assigned something.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from messaging.drivers.kafka import clients, configuration
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.options import KafkaSettings
from messaging.drivers.kafka.reasons import code_of, missing_topic, of_connection
from messaging.errors import ConnectFailed, MessagingError, Rejected

__all__ = ["Place", "Positions", "Prepared", "find_topics", "prepare", "take_positions"]

_log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Topic and number of a partition."""

_NO_OFFSET = -1001
_NO_LEADER_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
}
_ROUNDS = 5
_HAS_MEMBERS = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.STALE_MEMBER_EPOCH,
}


class Prepared(NamedTuple):
    """A consumer that may join; `starts`: where it begins in partitions that have no position and could not be given
    one.
    """

    consumer: Consumer
    troubles: Troubles
    starts: Mapping[Place, int]


class Positions(NamedTuple):
    """`notes`: what the commits of partitions say beside a position; `begun`: where those begin that had none."""

    notes: Mapping[Place, str | None]
    begun: Mapping[Place, int]


def find_topics(
    settings: KafkaSettings,
    user: configuration.Login,
    topics: Sequence[str],
    *,
    create: bool,
    listens: bool,
    retries: Collection[str] = (),
) -> dict[str, int]:
    """Return how many partitions each topic has, after creating those that are missing, if that is allowed.

    `retries`, the retry topics among them, get one partition: those who assign partitions share out their number,
    whatever topic they are of, so that with as many for retries one listener could get all of these, and no others.

    Raises NoRoute for one that does not exist, ConnectFailed, AuthFailed, Rejected.
    """
    conf = configuration.urgent(configuration.common(settings, user, clients.client_id(settings.client_id, "topics")))
    found = _describe(conf, topics, settings.connect_timeout)
    missing = [topic for topic in topics if topic not in found]
    if missing and not create:
        raise missing_topic(missing[0], listens)
    if missing:
        _create(conf, settings, missing, retries)
        # Whoever asks another broker than the one that has created it may be told that it is not there yet.
        for _ in range(_ROUNDS):
            found |= _describe(conf, missing, settings.connect_timeout)
            if all(found.get(topic) for topic in topics):
                break
        else:
            raise ConnectFailed(f"the Kafka topics {', '.join(missing)} were created, but have no leader yet")
    return found


def _describe(conf: dict[str, Any], topics: Sequence[str], timeout: float) -> dict[str, int]:
    def question(admin: AdminClient) -> dict[str, Any]:
        return admin.describe_topics(TopicCollection(list(topics)), request_timeout=timeout)

    found = {}
    for topic, future in clients.ask(conf, question, timeout).items():
        try:
            found[topic] = len(future.result().partitions)
        except KafkaException as error:
            reason = code_of(error)
            if reason is None or reason.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _refusal(error, topic, "looked up") from error
    return found


def _create(conf: dict[str, Any], settings: KafkaSettings, topics: Sequence[str], retries: Collection[str]) -> None:
    partitions = -1 if settings.partitions is None else settings.partitions
    wanted = [
        NewTopic(
            topic,
            num_partitions=1 if topic in retries else partitions,
            replication_factor=-1 if settings.replication is None else settings.replication,
        )
        for topic in topics
    ]
    timeout = settings.connect_timeout
    futures = clients.ask(conf, lambda admin: admin.create_topics(wanted, request_timeout=timeout), timeout)
    for topic, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            reason = code_of(error)
            if reason is None or reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _refusal(error, topic, "created") from error


def _refusal(error: KafkaException, topic: str, done: str) -> MessagingError:
    reason = code_of(error)
    if reason is not None and reason.code() in (
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
    ):
        return of_connection(reason)
    told = reason.str() if reason is not None else str(error)
    return Rejected(
        f"the Kafka topic {topic!r} could not be {done}: {told}; "
        f"create it by hand (kafka-topics.sh --create --topic {topic}) or allow it to this user",
        retryable=False,
    )


def prepare(
    settings: KafkaSettings,
    conf: dict[str, Any],
    user: configuration.Login,
    topics: Sequence[str],
    retries: Sequence[str],
    dead: str | None,
    *,
    from_beginning: bool,
) -> Prepared:
    """Make a consumer whose group has positions; see above. Raises what `find_topics` does."""
    # Of dead letters the topic is both.
    wanted = list(dict.fromkeys([*topics, *retries, *([dead] if dead is not None else [])]))
    create = settings.create_topics != "no"
    counts = find_topics(settings, user, wanted, create=create, listens=True, retries=retries)
    troubles = Troubles()
    consumer = clients.make_consumer(conf, troubles)
    starts: dict[Place, int] = {}
    try:
        for topic in topics:
            starts |= _set_positions(consumer, topic, counts[topic], from_beginning, settings.connect_timeout)
        for retry in retries:
            _set_positions(consumer, retry, counts[retry], True, settings.connect_timeout)
    except KafkaException as error:
        clients.dispose([consumer])
        reason = code_of(error)
        failure: MessagingError | None = troubles.outage()
        if failure is None and reason is not None and reason.code() == KafkaError._TIMED_OUT:
            failure = _refused_group(settings, user, conf["group.id"])
        if failure is None:
            failure = of_connection(reason) if reason is not None else ConnectFailed(str(error))
        raise failure from error
    return Prepared(consumer, troubles, starts)


def _refused_group(settings: KafkaSettings, user: configuration.Login, group: str) -> Rejected | None:
    """The error where this user may not use a group. The library says nothing of it, and looks for the coordinator."""
    conf = configuration.urgent(configuration.common(settings, user, clients.client_id(settings.client_id, "groups")))
    timeout = settings.connect_timeout
    futures = clients.ask(conf, lambda admin: admin.describe_consumer_groups([group], request_timeout=timeout), timeout)
    error = futures[group].exception()
    reason = code_of(error) if error is not None else None
    if reason is None or reason.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
        return None
    return Rejected(f"this user may not use the Kafka group {group!r}; allow it to READ that group", retryable=False)


def _ends(consumer: Consumer, partition: TopicPartition, timeout: float) -> tuple[int, int]:
    """Ask where a partition begins and ends; that of a topic which somebody has just created may have no leader yet."""
    patience = time.monotonic() + timeout
    while True:
        try:
            ends: tuple[int, int] = consumer.get_watermark_offsets(partition, timeout=timeout)
            return ends
        except KafkaException as error:
            reason = code_of(error)
            if reason is None or reason.code() not in _NO_LEADER_YET or time.monotonic() >= patience:
                raise
        # Who leads it now; the round trip is the pause between two attempts.
        consumer.list_topics(partition.topic, timeout)


def _set_positions(
    consumer: Consumer, topic: str, count: int, from_beginning: bool, timeout: float
) -> dict[Place, int]:
    """Commit where partitions begin that have no position; or return where they are to, if not at their beginning."""
    partitions = [TopicPartition(topic, number) for number in range(count)]
    kept: dict[Place, int] = {}
    for _ in range(_ROUNDS):
        committed = consumer.committed(partitions, timeout=timeout)
        fresh = [each for each in committed if each.offset == _NO_OFFSET]
        if not fresh:
            return {}
        known = len(fresh) < len(committed)
        starts = []
        for each in fresh:
            low, high = _ends(consumer, each, timeout)
            starts.append(TopicPartition(topic, each.partition, low if known or from_beginning else high))
        try:
            for done in consumer.commit(offsets=starts, asynchronous=False):
                if done.error is not None:
                    raise KafkaException(done.error)
            return {}
        except KafkaException as error:
            reason = code_of(error)
            if reason is None or reason.code() not in _HAS_MEMBERS:
                raise
            # Only members may commit while there are some. Mostly they have set positions before they joined.
            kept = {} if known or from_beginning else {(topic, each.partition): each.offset for each in starts}
    return kept


def take_positions(
    consumer: Consumer, partitions: Sequence[TopicPartition], starts: Mapping[Place, int], timeout: float
) -> Positions:
    """Ask what is committed of partitions that a member was assigned. Of those in `starts` nothing may be: then commit
    these, for other members too, since one that is asked later would find a topic which the group reads already.
    """
    assigned = {(each.topic, each.partition) for each in partitions}
    asked = [*partitions, *(TopicPartition(*place) for place in starts if place not in assigned)]
    committed = consumer.committed(asked, timeout=timeout)
    begun = {
        place: starts[place]
        for each in committed
        if each.offset == _NO_OFFSET and each.error is None and (place := (each.topic, each.partition)) in starts
    }
    if begun:
        try:
            consumer.commit(
                offsets=[TopicPartition(*place, start) for place, start in begun.items()], asynchronous=False
            )
        except KafkaException as error:
            # They are committed again with what is read.
            committed = [each for each in committed if (each.topic, each.partition) in assigned]
            _log.info("where %s begin could not be committed yet: %s", ", ".join(map(str, begun)), error)
    return Positions({(each.topic, each.partition): each.metadata for each in committed}, begun)
