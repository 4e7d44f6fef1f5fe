"""Further attempts over kafka:// with `wire=oslo`, where one group reads the topics of many services and levels, on a
real broker: they come to a member of the group that listens to that topic.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import messaging
from messaging import notify
from messaging.drivers.kafka.settling import Settling
from messaging.drivers.kafka.topics import OsloNames
from messaging.message import Source
from tests.faults.processes import came_true, until

Plant = Callable[[pytest.MonkeyPatch], None]


def one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener writes all copies for further attempts to the retry topic of its first topic."""
    monkeypatch.setattr(Settling, "_retry_of", lambda self, delivery: next(iter(self._retries.values())))


def one_for_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topic for further attempts is named by the pool, which all groups of listeners without one share."""

    def retry(self: OsloNames, source: Source) -> str:
        return f"{self.receiving(source)}..{source.pool}.retry"

    monkeypatch.setattr(OsloNames, "retry", retry)


def endpoint(seen: list[Any], levels: tuple[str, ...], *, fails: bool = False) -> SimpleNamespace:
    """Something that takes these levels, and writes down what it gets."""

    def handle(ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        seen.append(payload)
        if fails:
            raise ValueError("not in this process")

    return SimpleNamespace(**dict.fromkeys(levels, handle))


@pytest.mark.parametrize("apart", ["topics", "levels"])
@pytest.mark.parametrize("plant", [None, one_for_all])
def test_attempts_come_to_who_listens_to_their_topic(
    kafka_broker: Any, apart: str, plant: Plant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that listens to two topics, or levels, fails at a notification of each and ends; of two others in its
    group, with one of them each, each handles its own.
    """
    if plant is not None:
        plant(monkeypatch)
    name = f"t-{secrets.token_hex(6)}"
    options = {"wire": "oslo", "oslo_group": f"g-{name}", "create_topics": "all", "partitions": 1}
    topics = {"a": f"{name}-a", "b": f"{name}-b"} if apart == "topics" else {"a": name, "b": name}
    levels = {"a": ("info",), "b": ("info",)} if apart == "topics" else {"a": ("info",), "b": ("error",)}
    failed: list[Any] = []
    seen: dict[str, list[Any]] = {"a": [], "b": []}
    with messaging.open_transport(kafka_broker.url, **options) as transport:
        targets = [messaging.Target(topic=topic) for topic in dict.fromkeys(topics.values())]
        both = tuple(dict.fromkeys((*levels["a"], *levels["b"])))
        with notify.Listener(transport, targets, [endpoint(failed, both, fails=True)], backoff=0.5, max_attempts=None):
            for key in ("a", "b"):
                notifier = notify.Notifier(transport, topics=[topics[key]], timeout=20)
                getattr(notifier, levels[key][0])({}, "event", key)
            until(lambda: {*failed} == {"a", "b"}, "both have failed")
    for key in ("a", "b"):
        with messaging.open_transport(kafka_broker.url, **options) as transport:
            target = messaging.Target(topic=topics[key])
            with notify.Listener(transport, [target], [endpoint(seen[key], levels[key])]):
                came_true(lambda: key in seen[key], 20.0 if plant is None else 3.0)  # noqa: B023
    assert (seen == {"a": ["a"], "b": ["b"]}) is (plant is None)


@pytest.mark.parametrize("plant", [None, one_for_all_groups])
def test_attempts_stay_in_their_group(kafka_broker: Any, plant: Plant | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed in one group comes again there; another one, which has handled it, gets nothing of it."""
    if plant is not None:
        plant(monkeypatch)
    topic = f"t-{secrets.token_hex(6)}"
    options = {"wire": "oslo", "create_topics": "all", "partitions": 1}
    failing: list[Any] = []
    sound: list[Any] = []
    with (
        messaging.open_transport(kafka_broker.url, **options, oslo_group=f"g1-{topic}") as one,
        messaging.open_transport(kafka_broker.url, **options, oslo_group=f"g2-{topic}") as two,
    ):
        targets = [messaging.Target(topic=topic)]
        with (
            notify.Listener(one, targets, [endpoint(failing, ("info",), fails=True)], backoff=0.1, max_attempts=3),
            notify.Listener(two, targets, [endpoint(sound, ("info",))]),
        ):
            notify.Notifier(one, topics=[topic], timeout=20).info({}, "event", 1)
            until(lambda: one.stats().get("listener.dropped") == 1, "it has failed for good")
            # Behind what may have come by way of the other group.
            notify.Notifier(one, topics=[topic], timeout=20).info({}, "event", 2)
            until(lambda: 2 in sound, "the next one")
            repeated = came_true(lambda: sound.count(1) > 1, 0.0 if plant is None else 10.0)
    assert failing.count(1) == 3
    assert repeated is (plant is not None)
