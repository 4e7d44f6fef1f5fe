"""What the tests of the ZeroMQ driver share: connections pumped by hand in one thread, and a record of what they
tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import random
from typing import Any

from messaging.drivers.base import Capabilities, Connection, Role, State
from messaging.drivers.zmq import Driver
from messaging.drivers.zmq.connection import ZmqConnection
from messaging.message import Delivery, Outcome, Outgoing, Route, SentResult, Source, SourceKind, Stage, Token
from messaging.options import build_settings
from messaging.url import parse_url

__all__ = ["EXCHANGE", "Mark", "Member", "any_source", "pump_until"]

EXCHANGE = "messaging"


class Mark(Token):
    """A token that says nothing: the member records the news."""

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        raise AssertionError("the driver tells on_sent, not the token")


class Member:
    """A connection, its owner and its events in one."""

    def __init__(self, url: str, **options: Any) -> None:
        driver = Driver()
        parsed = parse_url(url)
        layers = [("URL", dict(parsed.options)), ("keyword", options)]
        self.settings = build_settings(driver.options, layers, url=parsed)
        self.capabilities = driver.capabilities(self.settings)
        self.clock = time.monotonic
        self.random = random
        self.states: list[State] = []
        self.subscribed: dict[Source, str] = {}
        self.refused: dict[Source, Exception] = {}
        self.news: list[SentResult] = []
        self.lost: list[tuple[str, Exception]] = []
        self.settled: list[tuple[Delivery, Exception | None]] = []
        self.deliveries: list[Delivery] = []
        self.on_delivery: Callable[[Delivery], None] | None = None
        connection: Connection = driver.connect(self.settings, Role.ALL, self, self)
        assert isinstance(connection, ZmqConnection)
        self.connection = connection

    def offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        try:
            result = function()
        except BaseException as error:
            done(None, error)
        else:
            done(result, None)

    def on_state(
        self, state: State, cause: Exception | None, retry_in: float | None, peer: Capabilities | None
    ) -> None:
        self.states.append(state)

    def on_subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        if error is None:
            self.subscribed[source] = address
        else:
            self.subscribed.pop(source, None)
            self.refused[source] = error

    def on_sent(self, results: Sequence[SentResult]) -> None:
        self.news += results

    def on_peer_lost(self, taker: str, error: Exception) -> None:
        self.lost.append((taker, error))

    def on_settled(self, deliveries: Sequence[Delivery], error: Exception | None) -> None:
        self.settled += [(delivery, error) for delivery in deliveries]

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            assert delivery.source == source
            self.deliveries.append(delivery)
            if self.on_delivery is not None:
                self.on_delivery(delivery)

    # Verbs

    def subscribe(self, *sources: Source, window: int = 1000) -> None:
        """Subscribe, and pump until every source is ready."""
        for source in sources:
            self.connection.subscribe(source, window)
        pump_until(lambda: all(source in self.subscribed for source in sources), self)

    def send(self, route: Route, body: bytes = b"x", *, timeout: float = 5.0, **fields: Any) -> Outgoing:
        """Publish a message."""
        outgoing = Outgoing(route, body, fields.pop("headers", {}), token=Mark(), **fields)
        outgoing.deadline = self.clock() + timeout if timeout else 0.0
        self.connection.publish(outgoing)
        return outgoing

    def of(self, outgoing: Outgoing) -> list[SentResult]:
        """The news of one message."""
        return [result for result in self.news if result.outgoing is outgoing]

    def accept(self, delivery: Delivery) -> None:
        """Settle a delivery as taken."""
        self.connection.settle([delivery], Outcome.ACCEPT)

    def echo(self, delivery: Delivery) -> None:
        """Answer a delivery with its own body, and settle it."""
        self.connection.publish(
            Outgoing(
                Route.reply(delivery.reply_to),
                delivery.body,
                {"correlation-id": delivery.headers.get("message-id")},
                confirm=False,
            )
        )
        self.accept(delivery)

    def close(self) -> None:
        """Close and pump to the end."""
        if State.CLOSED not in self.states:
            self.connection.close(0.0)
            pump_until(lambda: State.CLOSED in self.states, self)


def any_source(topic: str = "topic") -> Source:
    """The source of a topic's servers."""
    return Source(SourceKind.ANY, EXCHANGE, topic)


def pump_until(condition: Callable[[], object], *members: Member, within: float = 5.0) -> None:
    """Pump the members in turn until the condition holds; fail when that takes longer than `within` seconds."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        for member in members:
            if State.CLOSED not in member.states:
                member.connection.pump(0.002)
