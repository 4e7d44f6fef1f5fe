"""kafka:// on a real broker, where the suite does not look: missing topics and brokers, forks, long handlers, and what
a pool's topics hold.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

import messaging
from messaging import (
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    Delivered,
    Forked,
    NoRoute,
    TooLarge,
    Unsupported,
    notify,
    rpc,
)
from messaging.drivers.kafka.subscription import Subscription
from messaging.errors import InvalidUrl
from tests.brokers.kafka_clients import tune
from tests.brokers.ports import free_port
from tests.faults.processes import came_true, until


class Audit:
    """Writes down what it gets, and does with it what it is told."""

    def __init__(self, act: Callable[[notify.Event[Any]], object] = lambda event: None) -> None:
        self.events: list[notify.Event[Any]] = []
        self.act = act

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> object:
        self.events.append(event)
        return self.act(event)


@pytest.fixture
def topic() -> str:
    """A topic that nobody has used."""
    return f"t-{secrets.token_hex(6)}"


# Building


def test_rpc_is_refused_with_the_reason() -> None:
    """When a client or a server is built, and no broker has to be there for that."""
    with messaging.open_transport("kafka://localhost") as transport:
        with pytest.raises(Unsupported, match=r"kafka:// carries notifications only.*groups"):
            rpc.Client(transport, messaging.Target(topic="t"))
        with pytest.raises(Unsupported, match=r"kafka:// carries notifications only.*groups"):
            rpc.Server(transport, messaging.Target(topic="t", server="s"), [object()])


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("kafka://", "needs a broker"),
        ("kafka://localhost/vhost", "no virtual hosts"),
        ("kafka+x://localhost", "no variants"),
        ("kafka://a:b@one,c:d@two", "different ones"),
    ],
)
def test_urls_that_mean_nothing(url: str, told: str) -> None:
    """What is wrong is said before anything is connected."""
    with pytest.raises(InvalidUrl, match=told):
        messaging.open_transport(url)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tls_ca": "/nowhere"}, "without tls=yes"),
        ({"tls": True, "tls_ca": "/nowhere"}, "cannot be read"),
        ({"partitions": 0}, "at least 1"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], told: str) -> None:
    """They are named."""
    with pytest.raises(ConfigError, match=told):
        messaging.open_transport("kafka://localhost", **options)


# Connecting


def test_a_missing_broker_is_told_with_its_cause(topic: str) -> None:
    """A sender hears at its deadline, a listener at that of start(); nothing was sent."""
    url = f"kafka://127.0.0.1:{free_port()}"
    with messaging.open_transport(url) as transport:
        with pytest.raises(DeadlineExceeded, match="Connection refused") as caught:
            notify.Notifier(transport, topics=[topic], timeout=1.0).info({}, "event", 1)
        assert caught.value.delivered is Delivered.NO
        assert isinstance(caught.value.__cause__, ConnectFailed)
        listener = notify.Listener(transport, [messaging.Target(topic=topic)], [Audit()])
        with pytest.raises(DeadlineExceeded, match="Connection refused"):
            listener.start(1.0)


# Topics


def test_a_topic_that_nobody_has_listened_to(kafka_broker: Any, topic: str) -> None:
    """NoRoute names the topic and the cure; with create_topics=all it is created, and a pool may begin at its
    beginning.
    """
    with messaging.open_transport(kafka_broker.url) as transport:
        with pytest.raises(NoRoute, match=rf"messaging\.{topic}.*does not exist.*create_topics=all"):
            notify.Notifier(transport, topics=[topic]).info({}, "event", 1)
    audit = Audit()
    with messaging.open_transport(kafka_broker.url, create_topics="all", start="beginning") as transport:
        notify.Notifier(transport, topics=[topic]).info({}, "event", 2)
        with notify.Listener(transport, [messaging.Target(topic=topic)], [audit]):
            until(lambda: audit.events, "the notification of before")


def test_a_listener_that_may_not_create(kafka_broker: Any, topic: str) -> None:
    """start() fails with the topic's name and the cure."""
    with messaging.open_transport(kafka_broker.url, create_topics="no") as transport:
        with pytest.raises(NoRoute, match=rf"messaging\.{topic}.*create it.*kafka-topics"):
            notify.Listener(transport, [messaging.Target(topic=topic)], [Audit()]).start(20)


def test_a_message_that_the_topic_does_not_take(kafka_broker: Any, topic: str) -> None:
    """TooLarge from the broker names both limits."""
    with messaging.open_transport(kafka_broker.url, max_body=8_000_000, create_topics="all") as transport:
        with pytest.raises(TooLarge, match=r"message\.max\.bytes"):
            notify.Notifier(transport, topics=[topic], timeout=20).info({}, "event", os.urandom(3_000_000))


def overlooks_missing_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener to which it is nothing that its topic does not exist any more."""
    monkeypatch.setattr(Subscription, "_complain", lambda self, error: None)


@pytest.mark.parametrize("plant", [None, overlooks_missing_topics])
def test_a_topic_that_is_deleted(
    kafka_broker: Any, topic: str, plant: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its listener makes it anew as soon as it looks, and misses nothing that comes then."""
    if plant is not None:
        plant(monkeypatch)
    tune(monkeypatch, "consumer", {"topic.metadata.refresh.interval.ms": 300})
    name = f"messaging.{topic}"
    admin = AdminClient({"bootstrap.servers": kafka_broker.url.split("/")[2]})

    def identity() -> str:
        try:
            return str(admin.describe_topics(TopicCollection([name]))[name].result(10).topic_id)
        except KafkaException:
            return ""

    audit = Audit()
    with messaging.open_transport(kafka_broker.url) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [audit]):
            first = identity()
            admin.delete_topics([name])[name].result(10)
            back = came_true(lambda: identity() not in ("", first), 15.0 if plant is None else 2.0)
            if back:
                notify.Notifier(transport, topics=[topic], timeout=20).info({}, "event", 1)
                until(lambda: audit.events, "a notification of the new topic")
    assert back is (plant is None)


# Groups


def test_a_new_pool_begins_at_its_start(kafka_broker: Any, topic: str) -> None:
    """It gets nothing of before, and everything from start() on, though nothing was read meanwhile."""
    first, second = Audit(), Audit()
    with messaging.open_transport(kafka_broker.url) as transport:
        notifier = notify.Notifier(transport, topics=[topic])
        with notify.Listener(transport, [messaging.Target(topic=topic)], [first], pool="a"):
            notifier.info({}, "event", "before")
            until(lambda: first.events, "the first notification")
            with notify.Listener(transport, [messaging.Target(topic=topic)], [second], pool="b"):
                pass
            notifier.info({}, "event", "away")
            with notify.Listener(transport, [messaging.Target(topic=topic)], [second], pool="b"):
                until(lambda: second.events, "what came while it was away")
    assert [event.payload for event in second.events] == ["away"]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_new_topic_of_a_group_with_members(kafka_broker: Any, topic: str, protocol: str, shared: bool) -> None:
    """With wire=oslo one group reads all topics, and only its members may commit: a topic that is new to it begins at
    the start() of its first listener all the same, and what comes while that is away waits; over one transport or two.
    """
    options = {"wire": "oslo", "oslo_group": f"g-{topic}", "create_topics": "all", "partitions": 1}
    first, second = Audit(), Audit()
    with (
        messaging.open_transport(kafka_broker.url, **options, group_protocol=protocol) as transport,
        messaging.open_transport(kafka_broker.url, **options, group_protocol=protocol) as second_transport,
    ):
        other = transport if shared else second_transport
        notifier = notify.Notifier(transport, topics=[topic], timeout=20)
        with notify.Listener(transport, [messaging.Target(topic=f"{topic}-a")], [first]):
            notifier.info({}, "event", "before")
            with notify.Listener(other, [messaging.Target(topic=topic)], [second]):
                pass
            notifier.info({}, "event", "away")
            with notify.Listener(other, [messaging.Target(topic=topic)], [second]):
                notifier.info({}, "event", "there")
                until(lambda: second.events and second.events[-1].payload == "there", "the last notification")
    assert [event.payload for event in second.events] == ["away", "there"]
    assert not first.events


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_more_listeners_than_partitions(kafka_broker: Any, topic: str, protocol: str) -> None:
    """Whoever is left without a partition has started all the same, and takes over when the others go; by either
    protocol of groups.
    """
    options = {"group_protocol": protocol, "partitions": 1, "session_timeout": 2.0}
    audits = [Audit() for _ in range(3)]
    transports = [messaging.open_transport(kafka_broker.url, **options) for _ in audits]
    try:
        listeners = [
            notify.Listener(transport, [messaging.Target(topic=topic)], [audit])
            for transport, audit in zip(transports, audits, strict=True)
        ]
        for listener in listeners:
            listener.start()
        notifier = notify.Notifier(transports[2], topics=[topic], timeout=20)
        notifier.info({}, "event", 1)
        until(lambda: sum(len(audit.events) for audit in audits) == 1, "the first notification")
        for listener in listeners[:2]:
            listener.stop()
        notifier.info({}, "event", 2)
        until(lambda: [event.payload for event in audits[2].events][-1:] == [2], "the other at the one that is left")
    finally:
        for transport in transports:
            transport.close(1.0)


def polls_for_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that does not poll the library while it has no room."""
    monkeypatch.setattr(Subscription, "_serve", lambda self, consumer: None)


@pytest.mark.parametrize("plant", [None, polls_for_work_alone])
def test_a_long_handler_keeps_its_partitions(
    kafka_broker: Any, topic: str, plant: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that takes more than twice max.poll.interval, with the window full, is not thrown out of its group."""
    if plant is not None:
        plant(monkeypatch)
    tune(monkeypatch, "consumer", {"max.poll.interval.ms": 2000})
    gate = threading.Event()
    with messaging.open_transport(kafka_broker.url, session_timeout=2.0) as transport:
        with notify.BatchListener(
            transport, [messaging.Target(topic=topic)], [Batches(gate)], batch_size=1, slots=1
        ) as listener:
            connection = transport.operations(messaging.drivers.base.Role.LISTENER).reactor._connection
            (group,) = connection._groups.values()  # type: ignore[attr-defined]
            source = next(iter(group.sources.values()))
            connection.subscribe(source, 2)
            with notify.Notifier(transport, topics=[topic]).pipeline() as pipeline:
                for number in range(20):
                    pipeline.info({}, "event", number)
            until(lambda: listener.health()["in_hand"] == 2, "a full window")
            rebalances = transport.stats()["driver.rebalances"]
            threading.Event().wait(5.0)
            gate.set()
            until(lambda: set(Batches.seen) == set(range(20)), "all are handled")
            # Who does not poll is not told either, until then.
            assert (transport.stats()["driver.rebalances"] == rebalances) is (plant is None)
    assert (len(Batches.seen) == 20) is (plant is None)


class Batches:
    """Handles batches once a gate is open."""

    seen: ClassVar[list[Any]] = []

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate
        Batches.seen = []

    @notify.on("*")
    def all(self, events: list[notify.Event[Any]]) -> None:
        self._gate.wait(30)
        Batches.seen += [event.payload for event in events]


def test_large_notifications_are_held_by_their_size(kafka_broker: Any, topic: str) -> None:
    """Of notifications of 200,000 bytes a listener with `window_bytes=1_000_000` has about five in hand, and as many
    wait for another attempt; all are handled in the end, and small ones after them are held in larger numbers.
    """
    in_hand: list[int] = []
    waiting: list[int] = []
    sizes: list[int] = []
    small_are_held = threading.Event()

    class Handler:
        @notify.on("large")
        def large(self, event: notify.Event[Any]) -> None:
            in_hand.append(listener.health()["in_hand"])
            waiting.append(transport.stats()["driver.waiting_for_retry"])
            if event.attempt == 1:
                raise notify.Retry(after=0.2)
            sizes.append(len(event.payload))

        @notify.on("small")
        def small(self, event: notify.Event[Any]) -> None:
            if listener.health()["in_hand"] > 100:
                small_are_held.set()
            assert small_are_held.wait(30)

    with messaging.open_transport(kafka_broker.url, window_bytes=1_000_000) as transport:
        listener = notify.Listener(transport, [messaging.Target(topic=topic)], [Handler()])
        with listener:
            notifier = notify.Notifier(transport, "test", topics=[topic])
            with notifier.pipeline() as pipeline:
                for _ in range(40):
                    pipeline.info(None, "large", "x" * 200_000)
            assert came_true(lambda: len(sizes) == 40, within=30)
            with notifier.pipeline() as pipeline:
                for number in range(1_000):
                    pipeline.info(None, "small", number)
            assert came_true(lambda: transport.stats()["listener.handled"] == 1_040, within=30)
    assert sizes == [200_000] * 40
    assert max(in_hand) <= 6
    assert max(waiting) <= 12


def test_what_is_in_the_topics(kafka_broker: Any, topic: str) -> None:
    """Attempts go through the retry topic with their count; a dead letter carries reason, attempt and origin as text
    that any tool shows.
    """

    def fail(event: notify.Event[Any]) -> None:
        raise ValueError("it never works")

    audit = Audit(fail)
    with messaging.open_transport(kafka_broker.url) as transport:
        with notify.Listener(
            transport, [messaging.Target(topic=topic)], [audit], pool="p", backoff=0.05, max_attempts=3
        ):
            notify.Notifier(transport, topics=[topic]).info({}, "event", 1, key="k")
            until(lambda: transport.stats().get("listener.dead_lettered") == 1, "a dead letter")
    assert [event.attempt for event in audit.events] == [1, 2, 3]
    assert [event.redelivered for event in audit.events] == [False, True, True]
    (dead,) = messages(kafka_broker.url, f"messaging.{topic}..p.dead", 1)
    told = {name: value.decode() for name, value in dead.headers() if not value.startswith(b"\0")}
    assert dead.key() == b"k"
    assert "it never works" in told["dead-reason"]
    assert told["dead-attempt"] == "3"
    assert told["messaging-origin"].startswith(f"messaging.{topic}/0/")
    retries = messages(kafka_broker.url, f"messaging.{topic}..p.retry", 2)
    assert [dict(each.headers())["messaging-attempt"] for each in retries] == [b"2", b"3"]


def messages(url: str, topic: str, number: int) -> list[Any]:
    """Read so many messages of a topic with the bare library."""
    consumer = Consumer(
        {"bootstrap.servers": url.split("/")[2], "group.id": secrets.token_hex(4), "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    found: list[Any] = []

    def more() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append(message)
        return len(found) >= number

    until(more, f"{number} messages in {topic}")
    consumer.close()
    return found


def test_a_stranger_writes_garbage(kafka_broker: Any, topic: str) -> None:
    """A tombstone, a key without headers, and bytes that are nothing are dead letters; the rest is handled."""
    audit = Audit()
    with messaging.open_transport(kafka_broker.url) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [audit]):
            producer = Producer({"bootstrap.servers": kafka_broker.url.split("/")[2]})
            for value, key in ((None, b"k"), (b"garbage", None), (b"\xff" * 10, b"\xff\xfe")):
                producer.produce(f"messaging.{topic}", value, key)
            producer.flush(10)
            until(lambda: transport.stats().get("listener.undecodable") == 3, "the garbage is counted")
            notify.Notifier(transport, topics=[topic]).info({}, "event", "good")
            until(lambda: audit.events, "the good one")


# Forks


def _in_child(url: str, topic: str, results: Any, transport: Any) -> None:
    outcomes = []
    for opened in (transport, messaging.open_transport(url)):
        try:
            notify.Notifier(opened, topics=[topic], timeout=5).info({}, "event", 1)
        except Forked as error:
            outcomes.append(str(error))
        else:
            outcomes.append("sent")
    results.put(outcomes)


def test_a_forked_child_is_told(kafka_broker: Any, topic: str) -> None:
    """Both an inherited transport and a new one raise Forked, with the cure; the parent does not notice."""
    audit = Audit()
    with messaging.open_transport(kafka_broker.url) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [audit]):
            notifier = notify.Notifier(transport, topics=[topic])
            notifier.info({}, "event", "before")
            context = multiprocessing.get_context("fork")
            results = context.SimpleQueue()
            child = context.Process(target=_in_child, args=(kafka_broker.url, topic, results, transport))
            child.start()
            outcomes = results.get()
            child.join(20)
            assert child.exitcode == 0
            notifier.info({}, "event", "after")
            until(lambda: len(audit.events) == 2, "both notifications of the parent")
    assert ["spawn" in outcome for outcome in outcomes] == [True, True]


def test_a_forked_child_can_exit(kafka_broker: Any, topic: str, tmp_path: Path) -> None:
    """A child that has inherited clients and never uses them ends as any other."""
    with messaging.open_transport(kafka_broker.url, create_topics="all") as transport:
        notify.Notifier(transport, topics=[topic]).info({}, "event", 1)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=tmp_path.exists)
        child.start()
        child.join(20)
        assert child.exitcode == 0
