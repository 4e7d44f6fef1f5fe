"""A real Kafka that stands still while notifications are under way: each ends at its deadline, and what is told of it
is true when the broker goes on and everything that was stored can be read.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

import messaging
from messaging import DeadlineExceeded, Delivered, notify
from messaging.drivers.base import Role
from messaging.drivers.kafka.clients import Troubles
from messaging.drivers.kafka.notifying import NotifierConnection
from messaging.message import Outgoing, SentResult, Stage
from messaging.notify import base_notifier
from tests.brokers.kafka import Kafka
from tests.brokers.kafka_clients import tune
from tests.faults.processes import Stall, came_true, until

Plant = Callable[[pytest.MonkeyPatch], None]
TIMEOUT = 0.5
NUMBER = 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka that is there to be frozen."""
    # By default it is fenced after two seconds, and then stores nothing of what has come meanwhile.
    with Kafka(tmp_path_factory.mktemp("frozen-kafka"), settings={"broker.session.timeout.ms": 30_000}) as server:
        yield server


def after_writing(monkeypatch: pytest.MonkeyPatch, do: Callable[[NotifierConnection, Outgoing], object]) -> None:
    """Have something done as soon as the library has taken a notification."""
    write = NotifierConnection._write

    def bugged(self: NotifierConnection, topic: str, outgoing: Outgoing) -> bool:
        done = write(self, topic, outgoing)
        if outgoing.stage is not None:
            do(self, outgoing)
        return done

    monkeypatch.setattr(NotifierConnection, "_write", bugged)


def confirms_what_it_has_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library has taken counts as stored."""
    after_writing(monkeypatch, lambda self, outgoing: self._tell(SentResult(outgoing, Stage.TAKEN)))


def denies_what_it_has_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has confirmed counts as never written."""
    after_writing(monkeypatch, lambda self, outgoing: setattr(outgoing, "stage", None))


def overstays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every notification takes half a second more than it was given."""
    given = base_notifier.timeout_seconds  # type: ignore[attr-defined]
    monkeypatch.setattr(base_notifier, "timeout_seconds", lambda *arguments: given(*arguments) + 0.5)


@pytest.mark.parametrize("plant", [None, confirms_what_it_has_handed_over, denies_what_it_has_handed_over, overstays])
def test_what_is_told_of_a_frozen_broker_is_true(
    broker: Kafka, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handed to the library before anybody knew is told as MAYBE, in time: some of it is stored, and some is
    not. What is sent when the standstill is known is told as NO, in time, and is not stored.
    """
    if plant is not None:
        plant(monkeypatch)
    # What is behind the first two stays in the library's queue.
    tune(monkeypatch, "producer", {"max.in.flight": 1, "batch.num.messages": 2})
    topic = f"t{secrets.token_hex(4)}"
    told: dict[str, BaseException | None] = {}
    took: list[float] = []
    options: dict[str, Any] = {"create_topics": "all", "partitions": 1, "heartbeat": 2.0}
    with Stall() as stall, messaging.open_transport(broker.url, **options, send_timeout=1.0) as transport:
        notifier = notify.Notifier(transport, topics=[topic], timeout=TIMEOUT)
        patient = notifier.prepare(timeout=20)

        def send(id: str) -> Future[None]:
            begun = time.monotonic()
            future = notifier.submit("info", {}, "event", 1, headers={"id": id})
            future.add_done_callback(lambda _: took.append(time.monotonic() - begun))
            return future

        patient.info({}, "event", 1, headers={"id": "before"})
        connection: Any = transport.operations(Role.NOTIFIER).reactor._connection
        broker.pause()
        try:
            futures = {f"handed over {number}": send(f"handed over {number}") for number in range(NUMBER)}
            told = {id: future.exception(10) for id, future in futures.items()}
            until(lambda: not len(connection._producer), "the library has given them up")
        finally:
            broker.resume()
        patient.info({}, "event", 1, headers={"id": "between"})
        broker.pause()
        try:
            # Somebody has to ask it for something.
            told["unnoticed"] = send("unnoticed").exception(10)
            until(lambda: not transport.health()["connected"], "the standstill is noticed")
            told["held back"] = send("held back").exception(10)
        finally:
            broker.resume()
        patient.info({}, "event", 1, headers={"id": "after"})
    found = stored(broker, topic, "after")
    untrue = [id for id, error in told.items() if error is None and id not in found]
    untrue += [id for id, error in told.items() if getattr(error, "delivered", None) is Delivered.NO and id in found]
    in_time = max(took) < TIMEOUT + 0.1 + stall.worst
    assert (untrue == [] and in_time) is (plant is None)
    if plant is None:
        assert {id: error for id, error in told.items() if not isinstance(error, DeadlineExceeded)} == {}
        last = told.pop("held back")
        assert getattr(last, "delivered", None) is Delivered.NO
        assert {getattr(error, "delivered", None) for error in told.values()} == {Delivered.MAYBE}
        assert 0 < sum(id.startswith("handed over") for id in found) < NUMBER
        assert len(found) == len(set(found))


def takes_silence_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the library gives a notification up counts as a word of the broker's."""
    monkeypatch.setattr(Troubles, "suspect", lambda self: None)


@pytest.mark.parametrize("plant", [None, takes_silence_for_an_answer])
def test_a_standstill_is_noticed_by_what_is_given_up(
    broker: Kafka, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library gives notifications up before two heartbeats are over (`send_timeout`), and has nothing else
    under way for which it would look for the broker: the connection is lost all the same.
    """
    if plant is not None:
        plant(monkeypatch)
    # It may tell of the connection that it closes then, or not.
    monkeypatch.setattr(Troubles, "note", lambda self, error: None)
    topic = f"t{secrets.token_hex(4)}"
    options: dict[str, Any] = {"create_topics": "all", "heartbeat": 2.0, "connect_timeout": 2.0}
    with messaging.open_transport(broker.url, **options, send_timeout=1.0) as transport:
        notifier = notify.Notifier(transport, topics=[topic], timeout=20)
        notifier.info({}, "event", 1)
        broker.pause()
        try:
            with pytest.raises(DeadlineExceeded):
                notifier.prepare(timeout=TIMEOUT).info({}, "event", 2)
            noticed = came_true(lambda: not transport.health()["connected"], 20.0 if plant is None else 8.0)
        finally:
            broker.resume()
        notifier.info({}, "event", 3)
    assert noticed is (plant is None)


def stored(broker: Kafka, topic: str, last: str) -> list[str]:
    """The ids of what a topic of one partition has, up to a last one."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic})
    consumer.assign([TopicPartition(f"messaging.{topic}", 0, 0)])
    found: list[str] = []

    def all_read() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            headers: dict[str, Any] = dict(message.headers() or [])
            found.append(headers["id"].decode())
        return found[-1:] == [last]

    until(all_read, f"{last!r} is read")
    consumer.close()
    return found
