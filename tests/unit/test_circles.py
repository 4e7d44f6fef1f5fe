"""A message and its operation refer to each other, and the garbage collector does not look at messages: however an
operation ends, its message has to be gone with it.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from messaging import MessagingError, Target, notify, rpc, testing
from messaging.message import Outgoing

_TIMES = 30


def _alive() -> int:
    # Each instance refers to its class.
    return sys.getrefcount(Outgoing)


class Echo:
    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value."""
        return value

    @rpc.expose
    def fail(self, ctxt: dict[str, Any]) -> None:
        """Fail."""
        raise ValueError("as it was asked to")


class Ignore:
    def info(self, *event: Any) -> None:
        """Do nothing."""


def _raises(function: Callable[[], object]) -> None:
    with pytest.raises(MessagingError):
        function()


def _answered(client: rpc.Client) -> None:
    client.call({}, "echo", value=1)


def _failed(client: rpc.Client) -> None:
    _raises(lambda: client.call({}, "fail"))


def _taken(client: rpc.Client) -> None:
    client.cast({}, "echo", value=1)
    client.prepare(fanout=True).cast({}, "echo", value=1)


def _nobody(client: rpc.Client) -> None:
    _raises(lambda: client.prepare(topic="nobody").call({}, "echo", value=1))


def _sent_again(client: rpc.Client) -> None:
    # One message for each attempt.
    _raises(lambda: client.prepare(topic="nobody", timeout=0.05, wait_for_ready=True).call({}, "echo", value=1))


def _unanswered(client: rpc.Client) -> None:
    with testing.fault(client.transport, "lose_reply"):
        _raises(lambda: client.prepare(timeout=0.01).call({}, "echo", value=1))


def _unencodable(client: rpc.Client) -> None:
    _raises(lambda: client.call({}, "echo", value=object()))


def _cancelled(client: rpc.Client) -> None:
    with testing.fault(client.transport, "lose_reply"):
        future = client.submit({}, "echo", value=1)
        assert future.cancel()


def _piped(client: rpc.Client) -> None:
    with client.pipeline() as pipeline:
        for value in range(3):
            pipeline.call({}, "echo", value=value)


def _notified(client: rpc.Client) -> None:
    notifier = notify.Notifier(client.transport, "unit", topics=["heard"])
    notifier.info({}, "unit.told", 1)
    with notifier.pipeline() as pipeline:
        for value in range(3):
            pipeline.info({}, "unit.told", value)


def _notified_again(client: rpc.Client) -> None:
    # One message for each attempt: what was not confirmed when the connection went is sent once more.
    notifier = notify.Notifier(client.transport, "unit", topics=["heard"], timeout=0.1)
    with testing.fault(client.transport, "withhold_confirms"):
        pipeline = notifier.pipeline()
        pipeline.info({}, "unit.told", 1)
        with testing.fault(client.transport, "disconnect"):
            _raises(lambda: notifier.info({}, "unit.told", 1))
        _raises(pipeline.wait)


def _broken_off(client: rpc.Client) -> None:
    notifier = notify.Notifier(client.transport, "unit", topics=["heard"])
    with contextlib.suppress(KeyError), notifier.pipeline() as pipeline:
        pipeline.info({}, "unit.told", 1)
        raise KeyError


@pytest.fixture
def client() -> Iterator[rpc.Client]:
    """A client of a server that echoes; somebody listens to `heard`."""
    with (
        testing.serve(Echo(), topic="circles") as client,
        notify.Listener(client.transport, [Target(topic="heard")], [Ignore()]),
    ):
        yield client


@pytest.mark.parametrize(
    "way",
    [
        _answered,
        _failed,
        _taken,
        _nobody,
        _sent_again,
        _unanswered,
        _unencodable,
        _cancelled,
        _piped,
        _notified,
        _notified_again,
        _broken_off,
    ],
)
def test_no_message_outlives_its_operation(way: Callable[[rpc.Client], None], client: rpc.Client) -> None:
    """However an operation ends, as often as it is done, no messages pile up."""
    way(client)
    before = _alive()
    for _ in range(_TIMES):
        way(client)
    until = time.monotonic() + 20.0
    # The last ones may still be in somebody's hands.
    while _alive() >= before + _TIMES // 2:
        assert time.monotonic() < until, f"{_alive() - before} messages are left of {_TIMES} times"
        gc.collect()
        time.sleep(0.01)
