"""A driver's connection without anything above it, pumped by hand, and a recorder of what it tells.

This is how the scenarios of the driver contract look at a driver: what it says, when it says it, and how long it waits.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from messaging.drivers.base import Capabilities, Connection, Role, State
from messaging.message import Delivery, Outcome, Outgoing, Route, SentResult, Source, Stage, Token
from messaging.testing.conformance.checks import PATIENCE, Failure, check
from messaging.transport import BaseTransport

__all__ = ["Bare", "Events", "Services", "together"]


class Services:
    """What an owner lends to a connection. What blocks runs in a thread of its own, as it would anywhere."""

    def __init__(self) -> None:
        self.clock = time.monotonic
        self.random = random.random

    def offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        def run() -> None:
            try:
                result = function()
            except BaseException as error:
                done(None, error)
            else:
                done(result, None)

        threading.Thread(target=run, name="conformance-offload", daemon=True).start()


class Events:
    """ConnectionEvents that write everything down, and notice what comes at the wrong time."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.causes: list[Exception | None] = []
        self.retries: list[float | None] = []
        self.peer: Capabilities | None = None
        self.subscribed: dict[Source, str] = {}
        """The address of each source that is subscribed now."""
        self.unsubscribed: list[tuple[Source, Exception]] = []
        self.sent: list[SentResult] = []
        self.settled: list[Delivery] = []
        self.unsettled: list[tuple[Delivery, Exception]] = []
        self.deliveries: list[Delivery] = []
        self.lost_peers: list[str] = []
        self.pumping = False
        self.outside: list[str] = []
        """Events that fired while nobody pumped."""
        self.on_delivery: Callable[[Delivery], None] | None = None
        """What an owner does from an event: publish, subscribe, settle."""

    def _note(self, event: str) -> None:
        if not self.pumping:
            self.outside.append(event)

    def on_state(
        self, state: State, cause: Exception | None, retry_in: float | None, peer: Capabilities | None
    ) -> None:
        self._note(f"on_state({state.name})")
        self.states.append(state)
        self.causes.append(cause)
        self.retries.append(retry_in)
        if state is State.LOST:
            self.subscribed.clear()
        self.peer = peer or self.peer

    def on_subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        self._note(f"on_subscribed({source.kind.name})")
        if error is None:
            self.subscribed[source] = address
        else:
            self.subscribed.pop(source, None)
            self.unsubscribed.append((source, error))

    def on_sent(self, results: Sequence[SentResult]) -> None:
        self._note("on_sent")
        self.sent += results

    def on_taken(self, outgoings: Sequence[Outgoing]) -> None:
        self._note("on_taken")
        self.sent += [SentResult(outgoing, Stage.TAKEN) for outgoing in outgoings]

    def on_peer_lost(self, taker: str, error: Exception) -> None:
        self._note("on_peer_lost")
        self.lost_peers.append(taker)

    def on_settled(self, deliveries: Sequence[Delivery], error: Exception | None) -> None:
        self._note("on_settled")
        if error is None:
            self.settled += deliveries
        else:
            self.unsettled += [(delivery, error) for delivery in deliveries]

    def awaits_settled(self) -> bool:
        return True

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        self._note("on_deliveries")
        self.deliveries += batch
        if self.on_delivery is not None:
            for delivery in batch:
                self.on_delivery(delivery)

    def forget(self) -> None:
        """Let go of all messages."""
        messages: list[Any]
        for messages in (self.sent, self.settled, self.unsettled, self.deliveries):
            messages.clear()

    @property
    def state(self) -> State | None:
        """The last state told."""
        return self.states[-1] if self.states else None


class Bare:
    """One connection of a driver. Everything here runs on the thread of the scenario."""

    def __init__(self, url: str, role: Role, options: dict[str, Any]) -> None:
        # A transport that is never used: it finds the driver and checks the options.
        transport = BaseTransport(url, **options)
        self.capabilities = transport.capabilities
        self.events = Events()
        role = Role.ALL if transport.capabilities.shared_roles else role
        self.connection: Connection = transport._connect(role, self.events, Services())

    @property
    def slack(self) -> float:
        """Seconds for which a pump may stay beyond its timeout by declaration."""
        return self.capabilities.pump_stall

    def pump(self, timeout: float = 0.0) -> float:
        """Pump once; what it tells goes to `events`."""
        self.events.pumping = True
        try:
            return self.connection.pump(timeout)
        finally:
            self.events.pumping = False

    def until(self, predicate: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Pump until something is so."""
        together([self], predicate, what, seconds)

    def connect(self) -> None:
        """Pump until the connection is READY."""
        self.until(lambda: self.events.state is State.READY, "a connection that is READY")

    def subscribe(self, source: Source, window: int = 100) -> str:
        """Subscribe, pump until it is so, and return the address."""
        self.connection.subscribe(source, window)
        self.until(lambda: source in self.events.subscribed, f"a subscription to {source.kind.value}")
        return self.events.subscribed[source]

    def publish(self, route: Route, body: bytes = b"x", **options: Any) -> Outgoing:
        """Publish, without pumping."""
        outgoing = Outgoing(route, body, options.pop("headers", {}), options.pop("token", Token()), **options)
        self.connection.publish(outgoing)
        return outgoing

    def news(self, outgoing: Outgoing) -> list[SentResult]:
        """Everything that was told of a message."""
        return [result for result in self.events.sent if result.outgoing is outgoing]

    def final(self, outgoing: Outgoing) -> SentResult | None:
        """The last word on a message, if it was spoken: an error, or TAKEN where that is told, else WRITTEN.

        Of a message without `confirm` only errors need to be told; that it was written is in its `stage`.
        """
        for result in self.news(outgoing):
            if result.error is not None or result.stage is Stage.TAKEN:
                return result
            if not (outgoing.confirm and self.capabilities.confirms) and result.stage is Stage.WRITTEN:
                return result
        if not outgoing.confirm and outgoing.stage is not None:
            return SentResult(outgoing, outgoing.stage)
        return None

    def error(self, outgoing: Outgoing) -> Exception | None:
        """The error with which a message has ended, if it has."""
        final = self.final(outgoing)
        return final.error if final is not None else None

    def take(self) -> list[Delivery]:
        """The deliveries since the last call."""
        taken, self.events.deliveries = self.events.deliveries, []
        return taken

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome = Outcome.ACCEPT, **options: Any) -> None:
        """Settle, without pumping."""
        self.connection.settle(deliveries, outcome, **options)

    def close(self, grace: float = 0.5) -> None:
        """Close and pump to CLOSED. Raises Failure when it does not get there, and for events at the wrong time."""
        if self.events.state is not State.CLOSED:
            self.connection.close(grace)
            self.until(lambda: self.events.state is State.CLOSED, "CLOSED", grace + self.slack + 2.0)
        check(not self.events.outside, f"events outside of pump: {self.events.outside[:5]}")


def together(
    connections: Sequence[Bare], predicate: Callable[[], object], what: str, seconds: float = PATIENCE
) -> None:
    """Pump several connections in turn until something is so; none waits long enough to hold up the others."""
    until = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > until:
            states = [bare.events.state.name if bare.events.state else "NEW" for bare in connections]
            raise Failure(f"within {seconds:g} s it did not come about: {what} (connections: {states})")
        for bare in connections:
            bare.pump(0.002 if len(connections) > 1 else 0.02)
