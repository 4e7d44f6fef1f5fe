"""What tests of drivers share: a recorder of events, services, and pumps by hand until something is so."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from messaging.drivers.base import Capabilities, Connection, State
from messaging.message import Delivery, Outcome, Outgoing, Route, SentResult, Source, Stage


class Services:
    """The services of an owner; `offload` runs at once. Jitter is drawn from a seeded source."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] | None = None) -> None:
        self.clock = clock
        self.random = jitter if jitter is not None else random.Random(0).random

    def offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        done(function(), None)


class Recorder:
    """ConnectionEvents that write everything down, in order, and by kind."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.states: list[State] = []
        self.causes: list[Exception | None] = []
        self.retries: list[float | None] = []
        self.peers: list[Capabilities | None] = []
        self.addresses: dict[Source, str] = {}
        self.subscription_errors: list[tuple[Source, Exception]] = []
        self.sent: list[SentResult] = []
        self.settled: list[tuple[list[Delivery], Exception | None]] = []
        self.deliveries: list[Delivery] = []
        self.lost_peers: list[str] = []
        self.on_batch: Callable[[Sequence[Delivery]], None] | None = None
        self._changed = threading.Condition()

    def _note(self, entry: str) -> None:
        with self._changed:
            self.log.append(entry)
            self._changed.notify_all()

    def wait_for(self, true: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait until something is so, looking after each event, while another thread pumps."""
        with self._changed:
            assert self._changed.wait_for(true, timeout), f"it did not become so; events: {self.log}"

    def on_state(
        self, state: State, cause: Exception | None, retry_in: float | None, peer: Capabilities | None
    ) -> None:
        self.states.append(state)
        self.causes.append(cause)
        self.retries.append(retry_in)
        self.peers.append(peer)
        self._note(state.name)

    def on_subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        if error is None:
            self.addresses[source] = address
            self._note(f"subscribed {source.kind.name}")
        else:
            self.subscription_errors.append((source, error))
            self._note(f"unsubscribed {source.kind.name}")

    def on_sent(self, results: Sequence[SentResult]) -> None:
        self.sent += results
        self._note("sent")

    def on_taken(self, outgoings: Sequence[Outgoing]) -> None:
        self.on_sent([SentResult(outgoing, Stage.TAKEN) for outgoing in outgoings])

    def on_peer_lost(self, taker: str, error: Exception) -> None:
        self.lost_peers.append(taker)
        self._note("peer lost")

    def on_settled(self, deliveries: Sequence[Delivery], error: Exception | None) -> None:
        self.settled.append((list(deliveries), error))
        self._note("settled")

    def awaits_settled(self) -> bool:
        return True

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        self.deliveries += batch
        self._note(f"deliveries {source.kind.name}")
        if self.on_batch is not None:
            self.on_batch(batch)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all deliveries so far."""
        return [delivery.body for delivery in self.deliveries]

    @property
    def errors(self) -> list[Any]:
        """The errors of what was sent."""
        return [result.error for result in self.sent if result.error is not None]

    def last_state(self) -> State | None:
        """The last state told."""
        return self.states[-1] if self.states else None


class Peer:
    """A connection with its recorder, pumped by hand."""

    def __init__(self, connection: Connection, events: Recorder) -> None:
        self.connection = connection
        self.events = events

    def pump(self) -> float:
        """Pump until nothing more is ready, without waiting; returns how long it may be left alone."""
        for _ in range(100):
            rest = self.connection.pump(0.0)
            if rest > 0.0:
                return rest
        raise AssertionError("the connection always has more to do")

    def until(self, true: Callable[[], object], timeout: float = 10.0) -> None:
        """Pump until something is so; for connections whose events come from elsewhere."""
        deadline = time.monotonic() + timeout
        while not true():
            left = deadline - time.monotonic()
            assert left > 0.0, f"it did not become so; events: {self.events.log}"
            self.connection.pump(min(left, 0.1))

    def subscribe(self, source: Source, window: int = 10) -> str:
        """Subscribe, and return the address where the source is reachable."""
        self.connection.subscribe(source, window)
        self.pump()
        return self.events.addresses[source]

    def send(self, route: Route, body: bytes = b"x", **options: Any) -> Outgoing:
        """Publish, and pump."""
        outgoing = Outgoing(route, body, options.pop("headers", {}), **options)
        self.connection.publish(outgoing)
        self.pump()
        return outgoing

    def take(self) -> list[Delivery]:
        """Pump, and return the deliveries since the last call."""
        self.pump()
        taken, self.events.deliveries = self.events.deliveries, []
        return taken

    def accept(self, *deliveries: Delivery) -> None:
        """Settle as done, and pump."""
        self.connection.settle(deliveries, Outcome.ACCEPT)
        self.pump()
