"""The same promises where the backend can do less: what it cannot do, the listener does from memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from messaging import ConnectionLost, Delivered, Transport, Unsupported, notify, open_transport
from messaging.drivers.memory import hub
from tests.notify.rig import LONG, TARGETS, Everything, balanced, count, memory_url, until

Make = Callable[..., Transport]


@pytest.fixture
def limited() -> Iterator[Make]:
    """Make a transport with storage whose backend is said to be able to do less."""
    opened: list[Transport] = []

    def make(**less: Any) -> Transport:
        transport = open_transport(memory_url())
        transport.capabilities = msgspec.structs.replace(transport.capabilities, **less)
        opened.append(transport)
        return transport

    yield make
    for transport in opened:
        transport.close()
        balanced(transport)


def _fail_twice(event: notify.Event[Any]) -> None:
    if event.event_type == "bad" and event.attempt <= 2:
        raise ValueError(event.attempt)


@pytest.mark.parametrize("requeue", ["now", "copy", "none"])
def test_without_delays_it_is_repeated_from_memory(limited: Make, requeue: str) -> None:
    """Where the backend cannot delay or count, the listener does, and the message stays unsettled meanwhile."""
    transport = limited(requeue=requeue)
    endpoint = Everything(_fail_twice)
    with notify.Listener(transport, TARGETS, [endpoint], backoff=0.01):
        notify.Notifier(transport).info(None, "bad", 1)
        attempts = endpoint.seen.wait(3)
        until(lambda: count(transport, "listener.handled") == 1)
    assert [event.attempt for event in attempts] == [1, 2, 3]
    assert count(transport, "listener.repeated") == 2
    assert count(transport, "listener.received") == 1


def test_what_is_held_is_bounded(limited: Make) -> None:
    """No more wait in memory than there are slots; the others go back to the backend at once."""
    transport = limited(requeue="now")
    endpoint = Everything(lambda event: notify.REQUEUE if count(transport, "listener.requeued") < 5 else None)
    with notify.Listener(transport, TARGETS, [endpoint], slots=2, backoff=0.1, max_attempts=None) as listener:
        with notify.Notifier(transport).pipeline() as pipeline:
            for number in range(4):
                pipeline.info(None, "x", number)
        until(lambda: count(transport, "listener.requeued") >= 5)
        assert listener.health()["held"] <= 2
        until(lambda: count(transport, "listener.handled") == 4)


def test_what_is_held_goes_back_at_a_stop(limited: Make) -> None:
    """A drain hands back what waits for another attempt."""
    transport = limited(requeue="now")
    endpoint = Everything(_fail_twice)
    listener = notify.Listener(transport, TARGETS, [endpoint], backoff=60.0)
    listener.start()
    notify.Notifier(transport).info(None, "bad", 1)
    until(lambda: listener.health()["held"] == 1)
    assert listener.stop(5.0)
    other = Everything(_fail_twice)
    with notify.Listener(transport, TARGETS, [other], backoff=0.01):
        assert other.seen.wait()[0].redelivered
        until(lambda: count(transport, "listener.handled") == 1)


def test_a_failure_during_a_drain_goes_back(limited: Make) -> None:
    """A handler that fails while the listener stops is not repeated there."""
    transport = limited(requeue="now")
    gate = threading.Event()

    def act(event: notify.Event[Any]) -> None:
        gate.wait(LONG)
        raise ValueError("late")

    listener = notify.Listener(transport, TARGETS, [Everything(act)], backoff=60.0)
    listener.start()
    notify.Notifier(transport).info(None, "x", 1)
    until(lambda: listener.health()["in_hand"] == 1)
    threading.Timer(0.05, gate.set).start()
    assert listener.stop(5.0)
    assert count(transport, "listener.requeued") == 1
    assert listener.health()["held"] == 0


@pytest.mark.parametrize("reject", ["drop", "redeliver"])
def test_without_dead_letters_the_loss_is_told(limited: Make, reject: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where a reject drops, or would only bring it again, it ends here: logged and counted, and no endless loop."""
    transport = limited(reject=reject)

    def act(event: notify.Event[Any]) -> None:
        raise notify.Reject("never")

    endpoint = Everything(act)
    with caplog.at_level(logging.ERROR, logger="messaging.notify"):
        with notify.Listener(transport, TARGETS, [endpoint]):
            notify.Notifier(transport).info(None, "x", 1)
            until(lambda: count(transport, "listener.dropped") == 1)
    assert len(endpoint.seen.all) == 1
    # A reject that would bring it again is not asked for.
    assert count(transport, "driver.hub_dead_letters") == (0 if reject == "redeliver" else 1)
    assert any("never" in record.getMessage() for record in caplog.records)


def test_without_storage_a_doubt_is_raised(limited: Make) -> None:
    """Where nobody keeps it, what may have been delivered is not sent again."""
    transport = limited(storage=False)
    faults = hub(transport.url.hosts[0].name).faults
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        faults.withhold_confirms()
        future = notify.Notifier(transport).submit("info", None, "x", 1)
        endpoint.seen.wait()
        faults.disconnect()
        faults.release_confirms()
        error = future.exception(LONG)
        until(lambda: count(transport, "listener.received") == count(transport, "listener.handled"))
    assert isinstance(error, ConnectionLost)
    assert error.delivered is Delivered.MAYBE
    assert count(transport, "notify.in_doubt") == 1
    assert len({event.message_id for event in endpoint.seen.all}) == 1


def test_pools_are_refused_where_there_are_none(limited: Make) -> None:
    """A named pool needs a transport with pools, and is refused when the listener is built."""
    transport = limited(pools=False)
    with pytest.raises(Unsupported, match="no pools"):
        notify.Listener(transport, TARGETS, [Everything()], pool="billing")
    notify.Listener(transport, TARGETS, [Everything()])
