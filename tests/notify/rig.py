"""What tests of notifications share: transports at places of their own, and endpoints that write down what they get."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from messaging import Target, Transport
from messaging.notify import Event, on

TOPIC = "notifications"
TARGETS = [Target(topic=TOPIC)]
LONG = 10.0
"""Seconds that no test waits unless something is lost."""


def memory_url() -> str:
    """A hub of its own, which several transports may share."""
    return f"memory://notify-{secrets.token_hex(6)}"


def zmq_url(directory: Path) -> str:
    """Discovery of its own."""
    return f"zmq+local://{directory}/{secrets.token_hex(4)}"


class Seen:
    """What handlers got, in order; tests wait for it. Thread-safe."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._changed = threading.Condition()

    def add(self, thing: Any) -> None:
        """Write one down."""
        with self._changed:
            self.all.append(thing)
            self._changed.notify_all()

    def wait(self, count: int = 1, timeout: float = LONG) -> list[Any]:
        """Return everything as soon as there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count, timeout), f"{len(self.all)} of {count} came"
            return list(self.all)


class Everything:
    """An endpoint that writes down every event, and then does what `act` says."""

    def __init__(self, act: Callable[[Event[Any]], Any] | None = None) -> None:
        self.seen = Seen()
        self._act = act

    @on("*")
    def take(self, event: Event[Any]) -> Any:
        self.seen.add(event)
        return self._act(event) if self._act is not None else None


def until(true: Callable[[], object], timeout: float = LONG) -> None:
    """Wait until something is so that nobody tells: counters, which other threads raise."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not true():
        assert time.monotonic() < deadline, "it did not become so"
        pause.wait(0.002)


def count(transport: Transport, name: str) -> int:
    """One of the transport's counts."""
    return transport.stats().get(name, 0)


def balanced(transport: Transport) -> None:
    """Assert that every notification that was sent, and every one that was received, has one outcome."""
    stats = transport.stats()
    sent = ("taken", "refused", "unroutable", "expired", "in_doubt", "cancelled", "closed", "in_flight")
    assert stats.get("notify.sent", 0) == sum(stats.get(f"notify.{name}", 0) for name in sent), stats
    ended = ("handled", "ignored", "requeued", "dead_lettered", "dropped", "stale")
    assert stats.get("listener.received", 0) == sum(stats.get(f"listener.{name}", 0) for name in ended), stats
