"""At least once, judged by a history: connections break, handlers fail, a listener is replaced, and nothing is lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest

from messaging import Transport, notify, open_transport
from messaging.drivers.memory import hub
from tests.notify.rig import TARGETS, balanced, memory_url, until

_NUMBER = 1500


class Flaky:
    """Fails now and then, and writes down what it has done."""

    def __init__(self, done: Counter[int], source: random.Random) -> None:
        self._done = done
        self._source = source
        self._lock = threading.Lock()

    @notify.on("*")
    def take(self, event: notify.Event[int]) -> None:
        with self._lock:
            drawn = self._source.random()
            if drawn >= 0.06:
                self._done[event.payload] += 1
                return
        raise notify.Reject("never") if drawn < 0.01 else ValueError("not now")


class FlakyCoroutines(Flaky):
    """The same on a loop."""

    @notify.on("*")
    async def take(self, event: notify.Event[int]) -> None:  # type: ignore[override]
        Flaky.take(self, event)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost(seed: int) -> None:
    """Every notification that was taken is handled or buried, whatever breaks; and every count balances."""
    name = memory_url()
    broker = hub(name.partition("//")[2])
    source = random.Random(seed)
    done: Counter[int] = Counter()
    buried: Counter[int] = Counter()
    over = threading.Event()

    def bury(event: notify.Event[Any], reason: str, error: BaseException | None) -> None:
        buried[event.payload] += 1

    def listener(transport: Transport, endpoint: Any) -> notify.Listener:
        found = notify.Listener(
            transport, TARGETS, [endpoint], slots=4, backoff=0.002, max_attempts=50, dead_letter=bury
        )
        found.start()
        return found

    def break_connections() -> None:
        while not over.wait(0.04):
            broker.faults.disconnect()

    transports = [open_transport(name) for _ in range(3)]
    one, two, sender = transports
    breaker = threading.Thread(target=break_connections)
    first = listener(one, Flaky(done, source))
    second = listener(two, FlakyCoroutines(done, source))
    breaker.start()
    try:
        with notify.Notifier(sender, timeout=20.0).pipeline() as pipeline:
            for number in range(_NUMBER):
                pipeline.info(None, "x", number, key=str(number % 20) if number % 2 else None)
        assert first.stop(5.0)
        first = listener(one, Flaky(done, source))
        until(lambda: len(done.keys() | buried.keys()) == _NUMBER, timeout=30.0)
    finally:
        over.set()
        breaker.join(5.0)
    assert first.stop(5.0)
    assert second.stop(5.0)
    assert buried
    for transport in transports:
        transport.close()
        balanced(transport)
