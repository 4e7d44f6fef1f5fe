"""AMQP 1.0 with two brokers in the URL, of which the one in use is killed: servers, callers and listeners go on at the
other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import notify, rpc
from messaging.drivers.hosts import Hosts
from messaging.errors import ConnectionLost, MessagingError
from messaging.target import Target
from messaging.testing.conformance.checks import Log
from tests.brokers.artemis import Artemis
from tests.faults.processes import Stall, came_true, until

OVER = 5.0
"""Seconds from the death of the broker within which everything goes on at the other."""


class Service:
    """Answers, at once or never."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the argument."""
        return value

    @rpc.expose
    def held(self, ctxt: dict[str, Any]) -> None:
        """Wait for the end of the test."""
        self.begun.set()
        self.gate.wait(60)


class Collector:
    """Keeps notifications."""

    def __init__(self) -> None:
        self.events: Log[Any] = Log()

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Keep one."""
        self.events.add(event.payload)


@contextmanager
def _two(folder: Path) -> Iterator[tuple[Artemis, Artemis]]:
    """Two brokers, of which the second one is started when everybody is at the first."""
    second = Artemis(folder / "second")
    with Artemis(folder / "first") as first:
        try:
            yield first, second
        finally:
            second.close()


def _goes_on(client: rpc.Client, number: int) -> bool:
    try:
        return bool(client.call({}, "echo", value=number) == number)
    except MessagingError:
        return False


@pytest.mark.parametrize("planted", [False, True])
def test_the_second_broker_takes_over(tmp_path: Path, planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that was under way ends at once, in doubt; an idempotent one and a notification that meet the outage are
    delivered within their deadlines, and calls and notifications pass over the other broker. Planted: the first host is
    tried for ever.
    """
    if planted:
        monkeypatch.setattr(Hosts, "next", lambda self: self._hosts[0])
    service, collector = Service(), Collector()
    with ExitStack() as stack:
        stall = stack.enter_context(Stall())
        first, second = stack.enter_context(_two(tmp_path))
        url = f"amqp1://{first.host}:{first.port},{second.host}:{second.port}/"
        serving, calling = (stack.enter_context(messaging.open_transport(url)) for _ in range(2))
        for each in (
            rpc.Server(serving, Target(topic="t", server="a"), [service]),
            notify.Listener(serving, [Target(topic="events")], [collector]),
        ):
            each.start(10)
            stack.callback(each.stop, 1.0)
        stack.callback(service.gate.set)
        client = rpc.Client(calling, Target(topic="t"), timeout=10)
        notifier = notify.Notifier(calling, publisher_id="p", topics=["events"], timeout=10)
        assert _goes_on(client, 1)
        notifier.info({}, "event", "before")
        under_way = client.submit({}, "held")
        assert service.begun.wait(10)
        second.start()
        begun = time.monotonic()
        first.kill()
        assert isinstance(under_way.exception(10), ConnectionLost)
        assert time.monotonic() - begun < 1.0 + stall.worst
        prompt = client.prepare(timeout=1)
        if planted:
            assert not came_true(lambda: _goes_on(prompt, 2), OVER)
            return
        repeated = client.prepare(idempotent=True).submit({}, "echo", value=3)
        until(lambda: _goes_on(prompt, 2), "calls go on", OVER + stall.worst)
        # Again and again: until its listener has come the other broker has no pool that would keep them.
        until(lambda: _heard(notifier, collector), "notifications go on", OVER + stall.worst)
        assert repeated.result(10) == 3


def _heard(notifier: notify.Notifier, collector: Collector) -> bool:
    number = len(collector.events.items)
    notifier.info({}, "event", "after")
    return came_true(lambda: len(collector.events.items) > number, 0.5)
