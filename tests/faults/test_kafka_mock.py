"""Kafka brokers that answer with errors, late, or from one less: what a real one cannot be made to do on demand.

Each accident happens to the driver as it is, under both faces, and to one with a planted bug, which the same look has
to find.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

import messaging
from messaging import ConnectionLost, DeadlineExceeded, Delivered, MessagingError, Rejected, TooLarge, notify
from messaging.drivers.kafka import clients, notifying, reasons
from messaging.drivers.kafka.commits import Commits
from messaging.drivers.kafka.copies import Copier
from messaging.drivers.kafka.subscription import Subscription
from messaging.notify import base_notifier
from messaging.testing.conformance.faces import FACES, Face, SyncFace, open_face
from tests.brokers.kafka_clients import tune
from tests.brokers.mock_kafka import COMMIT, COORDINATOR, FETCH, HEARTBEAT, PRODUCE
from tests.faults.kafka_plants import stays_expelled
from tests.faults.processes import Stall, Worker, came_true, until

Plant = Callable[[pytest.MonkeyPatch], None]
LATE = 0.1
"""Seconds after its deadline by which an operation has ended, on a machine that lets it run."""
CLOSES = KafkaError._TRANSPORT
BROKERS = (1, 2, 3)


class Cluster:
    """Three brokers, and one topic for each test."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.face: Face = SyncFace()
        """How the next test uses it."""
        self.bootstrap: str = worker.expect("ready")["bootstrap"]
        self.do = worker.ask

    def topic(self) -> str:
        """Make a topic of one partition, with all that its default pool needs, and return its name for us."""
        name = f"t-{secrets.token_hex(4)}"
        for topic in (f"messaging.{name}", *(f"messaging.{name}..default.{kind}" for kind in ("retry", "dead"))):
            self.do("create", topic=topic)
            self.do("lead", topic=topic, partition=0, broker=2)
        self.do("lead", topic=f"messaging.{name}", partition=0, broker=1)
        self.do("coordinate", group=f"default@messaging.{name}", broker=2)
        return name

    def transport(self, **options: Any) -> messaging.Transport:
        """Open a transport; the cluster creates no topics."""
        settings = {"create_topics": "no", "heartbeat": 1.0, "session_timeout": 2.0, "connect_timeout": 2.0} | options
        return self.face.open(f"kafka://{self.bootstrap}/", **settings)

    def notifier(self, transport: messaging.Transport, topic: str, **options: Any) -> Any:
        """Make a notifier for a topic."""
        return self.face.notify("Notifier", transport, topics=[topic], **options)

    def listener(self, transport: messaging.Transport, topic: str, endpoint: object, **options: Any) -> Any:
        """Make a listener to a topic."""
        return self.face.notify("Listener", transport, [messaging.Target(topic=topic)], [endpoint], **options)

    def heal(self) -> None:
        """Let every broker do what it should."""
        self.worker.signal(signal.SIGCONT)
        for request in (PRODUCE, FETCH, COMMIT, COORDINATOR, HEARTBEAT):
            self.do("heal", request=request)
        self.do("delay", milliseconds=0)
        self.do("up")

    def stored(self, topic: str) -> int:
        """How many messages a topic has."""
        return self._asked(topic, lambda consumer, place: int(consumer.get_watermark_offsets(place, timeout=5)[1]))

    def committed(self, topic: str) -> int:
        """How many messages the default pool is done with."""
        return self._asked(topic, lambda consumer, place: int(consumer.committed([place], timeout=5)[0].offset))

    def _asked(self, topic: str, question: Callable[[Consumer, TopicPartition], int]) -> int:
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": f"default@messaging.{topic}", "log_level": 0}
        )
        try:
            return question(consumer, TopicPartition(f"messaging.{topic}", 0))
        finally:
            consumer.close()


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    """The cluster, in a process of its own."""
    worker = Worker("mock_kafka", brokers=len(BROKERS))
    try:
        yield Cluster(worker)
    finally:
        worker.close()


@pytest.fixture
def cluster(brokers: Cluster, face: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, used through a face, well at first and in the end."""
    # Unlike a real broker, these answer a fetch that finds nothing at the end of its wait, whatever has come meanwhile.
    tune(monkeypatch, "consumer", {"fetch.wait.max.ms": 50})
    brokers.face = open_face(face)
    yield brokers
    brokers.face.close()
    brokers.heal()


def proven(plant: Plant) -> pytest.MarkDecorator:
    """Run a test under both faces, and under one with a planted bug."""
    return pytest.mark.parametrize(("plant", "face"), [*((None, face) for face in FACES), (plant, "sync")])


class Numbers:
    """Writes down what it gets, and fails at each first attempt where it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.seen: list[int] = []
        self._fails = fails

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> None:
        if self._fails and event.attempt == 1:
            raise ValueError("not at the first attempt")
        self.seen.append(event.payload)


def outcome(notifier: Any, payload: Any = 1) -> MessagingError | None:
    """How one notification ends."""
    try:
        notifier.info({}, "event", payload)
    except MessagingError as error:
        return error
    return None


# Answers to what is sent

PASSING = {
    "the leader has changed": [KafkaError.NOT_LEADER_FOR_PARTITION] * 3,
    "too slow": [KafkaError.REQUEST_TIMED_OUT],
    "replicas are missing": [KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND],
    "the producer was forgotten": [KafkaError.UNKNOWN_PRODUCER_ID],
    "a disk fails": [KafkaError.KAFKA_STORAGE_ERROR],
    "the connection is closed": [CLOSES] * 2,
}


def gives_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that tries nothing again."""
    tune(monkeypatch, "producer", {"enable.idempotence": False, "message.send.max.retries": 0})


@proven(gives_up_at_once)
def test_what_passes_is_tried_again(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that pass, and connections that are closed in the middle, are the library's: each notification is
    confirmed, and stored once.
    """
    if plant is not None:
        plant(monkeypatch)
    found = {}
    for told, errors in PASSING.items():
        topic = cluster.topic()
        with cluster.transport() as transport:
            notifier = cluster.notifier(transport, topic, timeout=10, retry=0)
            assert outcome(notifier) is None
            cluster.do("fail", request=PRODUCE, errors=errors)
            found[told] = (outcome(notifier), cluster.stored(topic))
            cluster.heal()
    if plant is None:
        assert found == dict.fromkeys(PASSING, (None, 2))
    else:
        # That one the library does not count.
        assert [told for told, (error, _) in found.items() if error is None] == ["the leader has changed"]


STAYING = [
    (KafkaError.MSG_SIZE_TOO_LARGE, TooLarge, "max.message.bytes"),
    (KafkaError.RECORD_LIST_TOO_LARGE, TooLarge, "max.message.bytes"),
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, Rejected, "may not write"),
    (KafkaError.INVALID_RECORD, Rejected, "refused the message"),
    (KafkaError.POLICY_VIOLATION, Rejected, "refused the message"),
]


@pytest.mark.parametrize(("planted", "face"), [(False, "sync"), (False, "asyncio"), (True, "sync")])
def test_what_stays_is_told(cluster: Cluster, planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal ends it at once, proven NO, with its reason and the topic's name; the next notification is sent.
    Planted: all that fails is taken for a lost connection.
    """
    if planted:
        monkeypatch.setattr(notifying, "of_message", lambda error, topic: ConnectionLost(str(error)))
    wrong = []
    for code, kind, told in STAYING:
        topic = cluster.topic()
        with cluster.transport() as transport:
            notifier = cluster.notifier(transport, topic, timeout=10)
            assert outcome(notifier) is None
            cluster.do("fail", request=PRODUCE, errors=[code])
            error = outcome(notifier)
            if type(error) is not kind or error.delivered is not Delivered.NO or cluster.stored(topic) != 1:
                wrong.append(code)
                continue
            assert told in str(error)
            assert f"messaging.{topic}" in str(error)
            until(partial(lambda sends: outcome(sends) is None, notifier), "the next one is sent", 5)
    assert wrong == ([code for code, _, _ in STAYING] if planted else [])


def raises_fatal_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own way: a fatal error comes out of whatever polls."""
    monkeypatch.setattr(clients._Producer, "poll", Producer.poll)


@proven(raises_fatal_errors)
def test_a_producer_that_cannot_go_on_is_replaced(
    cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After OUT_OF_ORDER_SEQUENCE_NUMBER the library's producer is of no use; another one sends what it had, and what
    comes later.
    """
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    with cluster.transport() as transport, ThreadPoolExecutor(8) as threads:
        notifier = cluster.notifier(transport, topic, timeout=10)
        assert outcome(notifier) is None
        cluster.do("fail", request=PRODUCE, errors=[KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
        outcomes = list(threads.map(lambda number: outcome(notifier, number), range(40)))
    if plant is None:
        assert outcomes == [None] * 40
        assert cluster.stored(topic) == 41
    else:
        assert outcomes[-1] is not None


def keeps_its_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose producer of copies is never replaced."""
    monkeypatch.setattr(Copier, "replace", lambda self: [])


@proven(keeps_its_producer)
def test_copies_outlive_their_producer(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with copies for another attempt: another producer writes them, and what failed is handled."""
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    numbers = Numbers(fails=True)
    with cluster.transport() as transport:
        with cluster.listener(transport, topic, numbers, backoff=0.1):
            notifier = cluster.notifier(transport, topic, timeout=10)
            notifier.info({}, "event", 0)
            until(lambda: numbers.seen == [0], "the second attempt")
            cluster.do("fail", request=PRODUCE, errors=[0, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
            notifier.info({}, "event", 1)
            handled = came_true(lambda: numbers.seen == [0, 1], 10.0 if plant is None else 2.0)
            failed = transport.stats()["driver.copies_failed"]
            transport.close(1.0 if plant is None else 0.0)
    assert handled is (plant is None)
    assert failed == 0


def says_no_of_what_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library has in its queue counts as never sent."""
    failed, of_message = notifying.NotifierConnection._failed, reasons.of_message

    def trusting(self: notifying.NotifierConnection, outgoing: Any, error: KafkaError, topic: str) -> None:
        if error.code() == KafkaError._PURGE_QUEUE:
            outgoing.stage = None
        failed(self, outgoing, error, topic)

    def told(error: KafkaError, topic: str) -> Exception:
        queued = error.code() == KafkaError._PURGE_QUEUE
        return ConnectionLost("never written", delivered=Delivered.NO) if queued else of_message(error, topic)

    monkeypatch.setattr(notifying.NotifierConnection, "_failed", trusting)
    monkeypatch.setattr(notifying, "of_message", told)


@proven(says_no_of_what_is_queued)
def test_what_may_be_stored_is_not_sent_again_in_silence(
    cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification is stored and its confirmation is lost, so the library has it in its queue again; then another one
    brings it to an end. The first is told MAYBE, and not sent again for who does not want that.
    """
    if plant is not None:
        plant(monkeypatch)
    topic, other = cluster.topic(), cluster.topic()
    cluster.do("lead", topic=f"messaging.{other}", partition=0, broker=2)
    with cluster.transport(heartbeat=5.0) as transport, ThreadPoolExecutor(1) as threads:
        notifier = cluster.notifier(transport, topic, timeout=20, retry=0)
        others = cluster.notifier(transport, other, timeout=20)
        assert [outcome(notifier), outcome(others)] == [None, None]
        cluster.do("delay", broker=1, milliseconds=5_000)
        before = cluster.do("received", request=PRODUCE)
        sent: Future[MessagingError | None] = threads.submit(outcome, notifier)
        until(lambda: cluster.do("received", request=PRODUCE) > before, "the broker has it")
        cluster.do("down", broker=1)
        cluster.do("fail", request=PRODUCE, errors=[KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
        assert outcome(others) is None
        cluster.heal()
        error = sent.result(20)
    assert cluster.stored(topic) == (2 if plant is None else 3)
    assert getattr(error, "delivered", None) is (Delivered.MAYBE if plant is None else None)


# Answers to members of a group

STORM = {
    COMMIT: [
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        CLOSES,
        KafkaError.OFFSET_METADATA_TOO_LARGE,
    ],
    FETCH: [KafkaError.OFFSET_OUT_OF_RANGE, KafkaError.KAFKA_STORAGE_ERROR, CLOSES, KafkaError.UNKNOWN_TOPIC_OR_PART],
    HEARTBEAT: [KafkaError.REBALANCE_IN_PROGRESS, KafkaError.NOT_COORDINATOR],
    COORDINATOR: [KafkaError.COORDINATOR_NOT_AVAILABLE],
}


def stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that was expelled reads nothing of what it is assigned when it is back."""
    for method in ("_assigned", "_were_lost"):
        # What is planted here is taken out again at the end of the test.
        monkeypatch.setattr(Subscription, method, getattr(Subscription, method))
    stays_expelled()


def takes_commits_for_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that was refused counts as one that was not."""
    sound = Commits.answered

    def trusting(self: Commits, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        sound(self, None, [TopicPartition(each.topic, each.partition, each.offset) for each in places])

    monkeypatch.setattr(Commits, "answered", trusting)


@proven(stays_away)
def test_members_go_on(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, heartbeats and fetches that are refused, a member that is expelled, a coordinator that is away: each
    notification is handled, and in the end all are committed.
    """
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    numbers = Numbers()
    with cluster.transport() as transport:
        with cluster.listener(transport, topic, numbers):
            notifier = cluster.notifier(transport, topic, timeout=10)
            notifier.info({}, "event", 0)
            until(lambda: numbers.seen, "the first one is handled")
            for request, errors in STORM.items():
                cluster.do("fail", request=request, errors=errors)
            patience = 15.0 if plant is None else 3.0
            handled = all(
                outcome(notifier, number) is None
                and came_true(partial(lambda wanted: wanted in numbers.seen, number), patience)
                for number in range(1, 9)
            )
            if plant is None:
                until(lambda: cluster.committed(topic) == 9, "all are committed", every=0.1)
            transport.close(1.0)
    assert handled is (plant is None)


@proven(takes_commits_for_done)
def test_a_refused_commit_is_repeated(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing comes any more that would need another one."""
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    numbers = Numbers()
    with cluster.transport() as transport:
        with cluster.listener(transport, topic, numbers):
            cluster.do("fail", request=COMMIT, errors=[KafkaError.REBALANCE_IN_PROGRESS])
            cluster.notifier(transport, topic, timeout=10).info({}, "event", 0)
            until(lambda: numbers.seen == [0], "it is handled")
            committed = came_true(lambda: cluster.committed(topic) == 1, 10.0 if plant is None else 2.0)
    assert committed is (plant is None)


# Brokers that are late, or away


def overstays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every notification takes a second more than it was given."""
    given = base_notifier.timeout_seconds  # type: ignore[attr-defined]
    monkeypatch.setattr(base_notifier, "timeout_seconds", lambda *arguments: given(*arguments) + 1.0)


@proven(overstays)
def test_a_broker_that_answers_late(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round trip within the deadline is none of the sender's business; beyond it, he is told MAYBE in time, and it
    was stored.
    """
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    with Stall() as stall, cluster.transport(heartbeat=5.0) as transport:
        notifier = cluster.notifier(transport, topic, timeout=2)
        assert outcome(notifier) is None
        cluster.do("delay", milliseconds=300)
        assert outcome(notifier) is None
        cluster.do("delay", milliseconds=1_200)
        begun = time.monotonic()
        error = outcome(notifier.prepare(timeout=0.4))
        taken = time.monotonic() - begun
        cluster.do("delay", milliseconds=0)
    assert (taken < 0.4 + LATE + stall.worst) is (plant is None)
    if plant is None:
        assert isinstance(error, DeadlineExceeded)
        assert error.delivered is Delivered.MAYBE
    assert cluster.stored(topic) == 3


def takes_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away is taken for the end of all connections."""
    monkeypatch.setattr(reasons, "_OUTAGE", reasons._OUTAGE | {KafkaError._TRANSPORT})


@proven(takes_one_for_all)
def test_another_broker_takes_over(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three goes while it leads a partition, and another one while it keeps the positions of the group: each
    notification is confirmed and handled, and the connections count as there all the time.
    """
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    numbers = Numbers()
    with cluster.transport(heartbeat=5.0) as transport:
        with cluster.listener(transport, topic, numbers):
            notifier = cluster.notifier(transport, topic, timeout=10)
            notifier.info({}, "event", 0)
            cluster.do("down", broker=1)
            cluster.do("lead", topic=f"messaging.{topic}", partition=0, broker=3)
            outcomes = [outcome(notifier, number) for number in range(1, 11)]
            cluster.do("up", broker=1)
            cluster.do("down", broker=2)
            cluster.do("coordinate", group=f"default@messaging.{topic}", broker=3)
            cluster.do("lead", topic=f"messaging.{topic}..default.retry", partition=0, broker=3)
            outcomes += [outcome(notifier, number) for number in range(11, 21)]
            until(lambda: set(numbers.seen) == set(range(21)), "all are handled")
            until(lambda: cluster.committed(topic) == 21, "all are committed", every=0.1)
            reconnects = transport.stats()["driver.reconnects"]
    assert outcomes == [None] * 20
    assert (reconnects == 0) is (plant is None)


def never_tells_of_a_full_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room is held, and nobody hears of it."""
    monkeypatch.setattr(notifying.NotifierConnection, "_tell_room", lambda self: None)


@proven(never_tells_of_a_full_buffer)
def test_a_full_buffer_blocks(cluster: Cluster, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a broker stands still the library's buffer fills: the connection is BLOCKED, and a notification for which
    there is no room ends at its deadline, proven NO. When the broker goes on, everything that was taken is confirmed.
    """
    if plant is not None:
        plant(monkeypatch)
    topic = cluster.topic()
    body = secrets.token_hex(10_000)

    def states() -> set[str]:
        return {connection["state"] for connection in transport.health()["connections"].values()}

    with Stall() as stall, cluster.transport(heartbeat=10.0, buffer=100_000) as transport:
        notifier = cluster.notifier(transport, topic, timeout=20)
        assert outcome(notifier) is None
        cluster.worker.signal(signal.SIGSTOP)
        with notifier.pipeline() as pipeline:
            for _ in range(8):
                pipeline.info({}, "event", body)
            blocked = came_true(lambda: states() == {"blocked"}, 5.0 if plant is None else 1.0)
            begun = time.monotonic()
            error = outcome(notifier.prepare(timeout=0.4), body)
            taken = time.monotonic() - begun
            cluster.worker.signal(signal.SIGCONT)
        until(lambda: states() == {"ready"}, "there is room again")
        assert outcome(notifier) is None
    assert blocked is (plant is None)
    assert isinstance(error, DeadlineExceeded)
    assert error.delivered is Delivered.NO
    assert taken < 0.4 + LATE + stall.worst
    assert cluster.stored(topic) == 10
