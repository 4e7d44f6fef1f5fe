"""The parts of kafka:// that do no I/O: names, headers, positions, what waits for its time, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from messaging.drivers.kafka import headers, reasons
from messaging.drivers.kafka.commits import Commits
from messaging.drivers.kafka.delayed import Delayed
from messaging.drivers.kafka.offsets import Assignment, Partition, Tag, parse_note
from messaging.drivers.kafka.reading import origin_of, read
from messaging.drivers.kafka.settling import Settling
from messaging.drivers.kafka.topics import NativeNames, OsloNames
from messaging.errors import AuthFailed, ConnectionLost, Delivered, InvalidTarget, NoRoute, Rejected, TooLarge
from messaging.message import DEAD_ATTEMPT, Delivery, Outcome, Route, Source, SourceKind

NAMES = NativeNames()
WORDS = st.text(alphabet="ab._-x/ü", min_size=1, max_size=6)


def pool_of(exchange: str, topic: str, pool: str, kind: SourceKind = SourceKind.POOLS) -> Source:
    return Source(kind, exchange, topic, pool=pool)


def test_names_are_readable() -> None:
    """What is usual is written as it is."""
    source = pool_of("messaging", "notifications", "billing")
    assert NAMES.sending(Route.pools("messaging", "notifications")) == "messaging.notifications"
    assert NAMES.receiving(source) == "messaging.notifications"
    assert NAMES.group(source) == "billing@messaging.notifications"
    assert NAMES.retry(source) == "messaging.notifications..billing.retry"
    assert NAMES.dead(source) == "messaging.notifications..billing.dead"
    assert NAMES.receiving(source._replace(kind=SourceKind.DEAD)) == NAMES.dead(source)


@given(WORDS, WORDS, WORDS, WORDS, WORDS, WORDS)
def test_different_things_have_different_names(e1: str, t1: str, p1: str, e2: str, t2: str, p2: str) -> None:
    """No topic, retry topic, dead-letter topic or group is another's, whatever the names are; all are Kafka's."""

    def everything(exchange: str, topic: str, pool: str) -> list[str]:
        source = pool_of(exchange, topic, pool)
        return [NAMES.receiving(source), NAMES.retry(source), NAMES.dead(source), NAMES.group(source)]

    first, second = everything(e1, t1, p1), everything(e2, t2, p2)
    assert len({*first}) == 4
    for name in first[:3]:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    if (e1, t1) != (e2, t2):
        assert not {*first} & {*second}
    elif p1 != p2:
        assert not {*first[1:]} & {*second[1:]}


def test_long_names_are_refused() -> None:
    """Kafka's limit is told before anything is sent."""
    with pytest.raises(InvalidTarget, match="249"):
        NAMES.sending(Route.pools("e" * 100, "t" * 150))


def test_rpc_has_no_names() -> None:
    """Routes of RPC are refused."""
    with pytest.raises(InvalidTarget, match="notifications alone"):
        NAMES.sending(Route.any("messaging", "inventory"))
    with pytest.raises(InvalidTarget, match="notifications alone"):
        NAMES.receiving(Source(SourceKind.ANY, "messaging", "inventory"))


def test_the_predecessors_names() -> None:
    """A topic for each level, which is made above; one group for all, a retry topic for each, and no dead letters."""
    names = OsloNames("vhost", "oslo_messaging_consumer", listeners_too=False)
    info = pool_of("openstack", "notifications.info", "default")
    assert names.sending(Route.pools("openstack", "notifications.info")) == "notifications.info.vhost"
    assert names.receiving(info) == "notifications.info"
    assert names.group(info) == "oslo_messaging_consumer"
    assert names.group(info._replace(pool="billing")) == "billing"
    assert names.retry(info) == "notifications.info..oslo_messaging_consumer.retry"
    assert names.retry(info._replace(pool="billing")) == "notifications.info..billing.retry"
    assert OsloNames("vhost", "g", listeners_too=True).retry(info) == "notifications.info.vhost..g.retry"
    with pytest.raises(InvalidTarget, match="keeps no dead letters"):
        names.receiving(info._replace(kind=SourceKind.DEAD, topic="notifications"))


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != DEAD_ATTEMPT),
        st.text()
        | st.integers(-(2**63), 2**63)
        | st.binary()
        | st.booleans()
        | st.none()
        | st.lists(st.integers(0, 9)),
    )
)
def test_headers_come_as_they_went(told: dict[str, object]) -> None:
    """Whatever can be written is read again with its type."""
    written = [
        (name, value.encode() if isinstance(value, str) else value) for name, value in headers.encode(told).items()
    ]
    assert headers.decode(written) == told


def test_headers_of_others() -> None:
    """Text where it is text, bytes where it is not, None for a null; of two with one name the last."""
    assert headers.decode([("a", b"text"), ("b", b"\xff\xfe"), ("c", None), ("a", b"last"), ("d", b"\0\xc1")]) == {
        "a": "last",
        "b": b"\xff\xfe",
        "c": None,
        "d": b"\0\xc1",
    }
    assert headers.decode(None) == {}
    told = {"n": "12", "bad": "x", "huge": "9" * 30}
    assert [headers.number(told, name, 7) for name in ("n", "bad", "huge", "none")] == [12, 7, 7, 7]
    assert told == {}


def partition(*offsets: int) -> Partition:
    made = Partition("t", 0, 1)
    for offset in offsets:
        made.outstanding[offset] = Delivery(pool_of("e", "t", "p"), b"", {}, tag=Tag(made, offset, None, ""))
        made.next = offset + 1
    return made


def settle(of: Partition, *offsets: int) -> None:
    for offset in offsets:
        of.settled.append(of.outstanding.pop(offset))


def test_a_commit_never_passes_what_is_not_done() -> None:
    """Whatever the order of settling, the position is the first unsettled offset, and the note how far was read."""
    some = partition(5, 6, 7, 8)
    assert some.pending_commit() == (5, "handed-out:9")
    settle(some, 6, 8)
    assert some.position() == 5
    settle(some, 5)
    assert some.pending_commit() == (7, "handed-out:9")
    some.written()
    assert [delivery.tag.offset for delivery in some.acknowledged()] == [6, 5]
    assert some.pending_commit() is None
    settle(some, 7)
    assert some.pending_commit() == (9, "handed-out:9")
    some.written()
    assert [delivery.tag.offset for delivery in some.acknowledged()] == [8, 7]


@pytest.mark.parametrize("awaited", [True, False])
def test_what_is_settled_is_kept_for_who_waits_alone(awaited: bool) -> None:
    """Until its commit has arrived, and not at all while nobody waits; the position is the same."""
    some = partition(5, 6, 7)
    assignment = Assignment()
    assignment.add(some)
    copier: Any = None
    commits = Commits("g", assignment, 1.0, lambda: 0.0)
    settling = Settling(assignment, commits, copier, {"t": "retry"}, "dead", lambda: awaited)
    done = [some.outstanding[5], some.outstanding[6]]
    settling.settle(done, Outcome.ACCEPT, 0.0, "")
    kept = done if awaited else []
    assert (some.settled, some.pending_commit()) == (kept, (7, "handed-out:8"))
    some.written()
    assert some.acknowledged() == kept


def test_a_commit_that_fails_is_said_again() -> None:
    """What it covered waits for the next one."""
    some = partition(1, 2)
    settle(some, 1)
    some.written()
    some.refused()
    assert some.acknowledged() == []
    assert some.pending_commit() == (2, "handed-out:3")
    some.written()
    assert [delivery.tag.offset for delivery in some.acknowledged()] == [1]


class _Consumer:
    """Writes down what is committed."""

    def __init__(self) -> None:
        self.commits: list[list[TopicPartition]] = []

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.commits.append(offsets)


def test_the_answer_to_a_commit_at_a_rebalance_is_no_other_commits() -> None:
    """It comes while the next one is under way, tells nothing of that, and a refusal of that one is not overlooked."""
    gone, stays = partition(1, 2), partition(5, 6)
    stays.number = 1
    assignment = Assignment()
    assignment.add(gone)
    assignment.add(stays)
    commits = Commits("g", assignment, 1.0, lambda: 0.0)
    consumer: Any = _Consumer()
    settle(gone, 1)
    commits.at_revoke(consumer, assignment.take([("t", 0)]))
    commits.told.clear()
    settle(stays, 5)
    commits.soon()
    commits.write(consumer, 1.0)
    at_rebalance, usual = consumer.commits
    commits.answered(None, at_rebalance)
    assert commits.told == []
    commits.answered(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), usual)
    assert commits.told == []
    commits.write(consumer, commits.due)
    commits.answered(None, consumer.commits[2])
    ((told, error),) = commits.told
    assert [delivery.tag.offset for delivery in told] == [5]
    assert error is None


def test_only_holes_need_copies() -> None:
    """What was handed back at the end stays where it is; what is followed by something done has to be copied."""
    some = partition(1, 2, 3, 4, 5)
    settle(some, 1, 3)
    some.returned = {2, 4, 5}
    assert [delivery.tag.offset for delivery in some.holes()] == [2]
    assert partition().holes() == []


def test_the_end_of_an_assignment_makes_everything_stale() -> None:
    """What was handed out belongs to nobody any more, and what was settled without a commit is told."""
    some = partition(1, 2)
    kept = some.outstanding[2]
    settle(some, 1)
    assert [delivery.tag.offset for delivery in some.end()] == [1]
    assert kept.stale
    assert some.position() == 3


def test_an_assignment_counts_what_is_with_handlers() -> None:
    """What waits for its time does not count, and partitions that are gone do not either."""
    assignment = Assignment()
    one, two = partition(1, 2), partition(1, 2, 3)
    two.number = 1
    assignment.add(one)
    assignment.add(two)
    assert assignment.take([("t", 0), ("t", 9)]) == [one]
    for offset, delivery in two.outstanding.items():
        delivery.body = b"x" * offset
    assignment.recount([two.outstanding[1]])
    assert (assignment.unsettled, assignment.size) == (2, 5)


@pytest.mark.parametrize(
    ("note", "offset"),
    [("handed-out:17", 17), (None, 0), ("", 0), ("handed-out:", 0), ("handed-out:-1", 0), ("somebody else's", 0)],
)
def test_notes_of_others_are_no_notes(note: str | None, offset: int) -> None:
    """The metadata of a commit may be anybody's."""
    assert parse_note(note) == offset


def test_what_waits_comes_in_the_order_of_its_times() -> None:
    """A long delay does not hold up a short one behind it; what went stale meanwhile is forgotten."""
    some = partition(1, 2, 3)
    delayed = Delayed()
    for offset, due in ((1, 30.0), (2, 10.0), (3, 20.0)):
        some.outstanding[offset].body = b"x" * offset
        delayed.add(some.outstanding[offset], due)
    assert delayed.due == 10.0
    assert delayed.size == 6
    some.outstanding[3].stale = True
    delayed.forget_stale()
    assert delayed.size == 3
    assert [delivery.tag.offset for delivery in delayed.take(25.0, 5)] == [2]
    assert delayed.due == 30.0
    assert [delivery.tag.offset for delivery in delayed.clear()] == [1]
    assert delayed.size == 0
    assert delayed.due == math.inf


@pytest.mark.parametrize(
    ("code", "kind", "delivered"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, TooLarge, Delivered.NO),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, NoRoute, Delivered.NO),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Rejected, Delivered.NO),
        (KafkaError._AUTHENTICATION, AuthFailed, Delivered.NO),
        (KafkaError._PURGE_QUEUE, ConnectionLost, Delivered.MAYBE),
        (KafkaError._PURGE_INFLIGHT, ConnectionLost, Delivered.MAYBE),
        (KafkaError._MSG_TIMED_OUT, ConnectionLost, Delivered.MAYBE),
        (KafkaError.NOT_LEADER_FOR_PARTITION, ConnectionLost, Delivered.MAYBE),
    ],
)
def test_what_a_report_means_for_a_message(code: int, kind: type[Exception], delivered: Delivered) -> None:
    """NO only where the broker refused it."""
    error = reasons.of_message(KafkaError(code), "messaging.notifications")
    assert type(error) is kind
    assert error.delivered is delivered


class _Message:
    """A message of the library's, as far as it is read."""

    def __init__(self, offset: int, *, topic: str = "t", partition: int = 0, key: bytes | None = None) -> None:
        self._place = (topic, partition, offset)
        self._key = key

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._place[2]

    def headers(self) -> list[tuple[str, bytes]]:
        return [
            ("level", b"info"),
            ("messaging-attempt", b"3"),
            ("messaging-due", b"9000"),
            ("messaging-origin", b"t/0/1"),
        ]

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes:
        return b"body"


def test_what_was_read_is_not_read_again() -> None:
    """In one assignment every offset is handed out once; what belongs to a partition that is gone is left alone; what
    was handed out to somebody before is marked.
    """
    source = pool_of("e", "t", "p")
    assignment = Assignment()
    mine = Partition("t", 0, 7, source)
    mine.again_before = 2
    assignment.add(mine)
    messages: list[Any] = [_Message(1), _Message(2, key=b"k"), _Message(1), _Message(5, partition=9)]
    batch, later = read(messages, assignment, {"t": source}, 0.0, pytest.fail)
    assert [(each.tag.offset, each.redelivered, each.generation) for each in batch] == [(1, True, 7), (2, False, 7)]
    assert batch[1].headers["key"] == "k"
    assert later == []
    assert list(mine.outstanding) == [1, 2]


def test_a_copy_comes_when_it_is_due() -> None:
    """What stands in a retry topic says which source and attempt it is, and waits for its time."""
    source = pool_of("e", "t", "p")
    assignment = Assignment()
    assignment.add(Partition("t..p.retry", 0, 1))
    message: Any = _Message(4, topic="t..p.retry")
    batch, ((delay, delivery),) = read([message], assignment, {"t": source}, 8.5, pytest.fail)
    assert batch == []
    assert delay == 0.5
    assert (delivery.source, delivery.attempt, delivery.redelivered) == (source, 3, True)
    assert delivery.headers == {"level": "info"}
    assert origin_of(delivery) == "t/0/1"
