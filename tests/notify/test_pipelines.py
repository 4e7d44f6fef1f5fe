"""What pipelines of notifications promise: every outcome, in its place, with little kept meanwhile."""

from __future__ import annotations

import threading
from typing import Any
from unittest.mock import Mock

import pytest

from messaging import ConfigError, DeadlineExceeded, PipelineFailed, Transport, notify
from messaging.drivers.memory import hub
from messaging.notify.base_notifier import SentAround
from messaging.notify.base_pipeline import LIMIT, BasePipeline
from messaging.pending import Pending
from tests.notify.rig import LONG, TARGETS, Everything, Seen, count, until


def test_a_pipeline_waits_for_all(transport: Transport) -> None:
    """Leaving the block waits for every outcome; failures carry the index of their notification."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        with notify.Notifier(transport).pipeline() as pipeline:
            for number in range(500):
                pipeline.info(None, "x", number)
        assert sorted(event.payload for event in endpoint.seen.wait(500)) == list(range(500))
    pipeline = notify.Notifier(transport, topics=["nobody"]).pipeline()
    pipeline.info(None, "x", 1)
    pipeline.error(None, "x", 2)
    with pytest.raises(PipelineFailed) as caught:
        pipeline.wait()
    assert [getattr(error, "index", None) for error in caught.value.exceptions] == [0, 1]


def test_a_long_pipeline_does_not_grow(stored: Transport) -> None:
    """What has gone well is forgotten while a pipeline goes on; what has not keeps its index."""
    notifier = notify.Notifier(stored)
    pipeline = BasePipeline(notifier, LIMIT)
    everything = pipeline._sent
    failed, slow, waiting = SentAround(), SentAround(), Mock(ended=False, value=None, error=None)
    failed.errors.append(OSError("disk full"))
    slow.sendings.append(waiting)
    for number in range(100_000):
        everything.add(number, {10: slow, 50_000: failed}.get(number) or SentAround())
        assert len(everything._kept) <= 3 * LIMIT
    failure = pipeline._failure()
    assert failure is not None
    assert [getattr(error, "index", None) for error in failure.exceptions] == [50_000]


@pytest.mark.parametrize("headers", [None, {"x": "1"}], ids=["short way", "long way"])
def test_a_pipeline_waits_where_its_limit_is_under_way(stored: Transport, headers: dict[str, Any] | None) -> None:
    """With three allowed and a broker that confirms nothing for a while the fourth waits; in the end all are sent."""
    faults = hub(stored.url.hosts[0].address).faults
    sent = Seen()

    def send() -> None:
        with notify.Notifier(stored).pipeline(limit=3) as pipeline:
            for number in range(7):
                pipeline.info(None, "x", number, headers=headers)
                sent.add(number)

    with notify.Listener(stored, TARGETS, [Everything()]):
        faults.withhold_confirms()
        sender = threading.Thread(target=send)
        sender.start()
        sent.wait(3)
        until(lambda: count(stored, "notify.in_flight") == 3)
        sender.join(0.1)
        assert sent.all == [0, 1, 2]
        faults.release_confirms()
        sender.join(LONG)
        assert sent.all == list(range(7))
    with pytest.raises(ConfigError, match="limit must be a whole number of at least 1, not 0"):
        notify.Notifier(stored).pipeline(limit=0)


@pytest.mark.parametrize("headers", [None, {"x": "1"}], ids=["short way", "long way"])
def test_a_full_pipeline_waits_for_an_owner_that_is_late(
    stored: Transport, headers: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where whoever ends what is overdue gets the processor half a second later, each ends at its deadline all the
    same.
    """
    overdue = Pending.overdue
    monkeypatch.setattr(Pending, "overdue", lambda self, now: overdue(self, now - 0.5))
    with notify.Listener(stored, TARGETS, [Everything()]):
        hub(stored.url.hosts[0].address).faults.withhold_confirms()
        pipeline = notify.Notifier(stored, timeout=0.1).pipeline(limit=3)
        for number in range(4):
            pipeline.info(None, "x", number, headers=headers)
        with pytest.raises(PipelineFailed) as caught:
            pipeline.wait()
    assert [type(error) for error in caught.value.exceptions] == [DeadlineExceeded] * 4
