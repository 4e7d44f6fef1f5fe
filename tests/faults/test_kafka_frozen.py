"""A real Kafka that stands still while notifications are under way."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import messaging
from messaging import DeadlineExceeded, notify
from messaging.drivers.kafka.clients import Troubles
from tests.brokers.kafka import Kafka
from tests.faults.processes import came_true

Plant = Callable[[pytest.MonkeyPatch], None]
TIMEOUT = 0.5


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka that is there to be frozen."""
    # By default it is fenced after two seconds, and then stores nothing of what has come meanwhile.
    with Kafka(tmp_path_factory.mktemp("frozen-kafka"), settings={"broker.session.timeout.ms": 30_000}) as server:
        yield server


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
