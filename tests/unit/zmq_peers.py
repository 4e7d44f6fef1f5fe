"""What the tests of the ZeroMQ driver share: connections pumped by hand in one thread, and servers in processes of
their own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from messaging.drivers.base import Role, State
from messaging.drivers.zmq import Driver
from messaging.drivers.zmq.connection import ZmqConnection
from messaging.message import (
    CORRELATION_ID,
    MESSAGE_ID,
    Delivery,
    Outcome,
    Outgoing,
    Route,
    SentResult,
    Source,
    Stage,
    Token,
)
from messaging.message import SourceKind as Kind
from messaging.options import build_settings
from messaging.url import parse_url
from tests.unit.pumping import Recorder

EXCHANGE = "messaging"
ANY = Route.any(EXCHANGE, "topic")


class Mark(Token):
    """A token that is never called: the members record what the driver tells."""

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        raise AssertionError("tokens are the owner's business")


class Member(Recorder):
    """A connection, its owner, its services and a record of its events."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__()
        driver = Driver()
        parsed = parse_url(url)
        layers = [("URL", dict(parsed.options)), ("keyword", options)]
        self.settings = build_settings(driver.options, layers, url=parsed)
        self.capabilities = driver.capabilities(self.settings)
        self.clock = time.monotonic
        self.random = random.Random(os.urandom(8)).random
        self.on_delivery: Callable[[Delivery], None] | None = None
        self.on_batch = self._each
        connection = driver.connect(self.settings, Role.ALL, self, self)
        assert isinstance(connection, ZmqConnection)
        self.connection = connection
        self._watch_waiting()

    def _watch_waiting(self) -> None:
        """Whatever a test does: nobody waits while something is to be written or told."""
        waiter, runtime = self.connection._waiter, self.connection._runtime
        wait = waiter.wait

        def checked(timeout: float) -> Any:
            assert timeout <= 0.0 or not (runtime.dirty or runtime.news.pending)
            return wait(timeout)

        waiter.wait = checked  # type: ignore[method-assign]

    def offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Services: at once, since what is offloaded here takes no time."""
        try:
            result = function()
        except Exception as error:
            done(None, error)
        else:
            done(result, None)

    def _each(self, batch: Any) -> None:
        for delivery in batch:
            if self.on_delivery is not None:
                self.on_delivery(delivery)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return State.CLOSED in self.states

    @property
    def counts(self) -> dict[str, int]:
        """The driver's counts."""
        return self.connection.counts()

    def subscribe(self, *sources: Source, window: int = 1000) -> None:
        """Subscribe, and pump until every source is ready."""
        for source in sources:
            self.connection.subscribe(source, window)
        pump_until(lambda: all(source in self.addresses for source in sources), self)

    def send(self, route: Route, body: bytes = b"x", *, timeout: float = 5.0, **fields: Any) -> Outgoing:
        """Publish a message that ends within `timeout` seconds (0: it has no deadline)."""
        deadline = self.clock() + timeout if timeout else 0.0
        outgoing = Outgoing(route, body, fields.pop("headers", {}), token=Mark(), deadline=deadline, **fields)
        self.connection.publish(outgoing)
        return outgoing

    def call(self, route: Route, body: bytes = b"x", id: str = "1", **fields: Any) -> Outgoing:
        """Publish a message as the layers above publish a call."""
        return self.send(route, body, headers={MESSAGE_ID: id}, reply_to=True, budget=True, confirm=False, **fields)

    def of(self, outgoing: Outgoing) -> list[SentResult]:
        """The news of one message."""
        return [result for result in self.sent if result.outgoing is outgoing]

    def outcome(self, outgoing: Outgoing, *others: Member) -> SentResult:
        """Pump everybody until there is news of a message, and return it."""
        pump_until(lambda: self.of(outgoing), self, *others)
        return self.of(outgoing)[0]

    def take_deliveries(self) -> list[Delivery]:
        """Take the deliveries since the last call."""
        taken, self.deliveries = self.deliveries, []
        return taken

    def accept(self, delivery: Delivery) -> None:
        """Settle a delivery as taken."""
        self.connection.settle([delivery], Outcome.ACCEPT)

    def echo(self, delivery: Delivery) -> None:
        """Answer a delivery with its own body, and settle it, as a server does."""
        headers = {CORRELATION_ID: delivery.headers.get(MESSAGE_ID)}
        self.connection.publish(Outgoing(Route.reply(delivery.reply_to), delivery.body, headers, confirm=False))
        self.accept(delivery)

    def close(self) -> None:
        """Close without grace, and pump to the end."""
        if not self.closed:
            self.connection.close(0.0)
            pump_until(lambda: self.closed, self)


def any_source(topic: str = "topic") -> Source:
    """What a server of a topic subscribes to."""
    return Source(Kind.ANY, EXCHANGE, topic)


def one_source(server: str, topic: str = "topic") -> Source:
    """What a named server subscribes to."""
    return Source(Kind.ONE, EXCHANGE, topic, server)


def all_source(server: str, topic: str = "topic") -> Source:
    """What a server subscribes to for fanouts."""
    return Source(Kind.ALL, EXCHANGE, topic, server)


def pool_source(pool: str, topic: str = "topic") -> Source:
    """What a listener of a pool subscribes to."""
    return Source(Kind.POOLS, EXCHANGE, topic, "", pool)


def pump_until(condition: Callable[[], object], *members: Member, within: float = 10.0) -> float:
    """Pump the members in turn until the condition holds, and return the seconds it took; fail after `within`
    seconds.
    """
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within, "it did not become so in time"
        for member in members:
            if not member.closed:
                member.connection.pump(0.001)
    return time.monotonic() - begin


def pump_for(seconds: float, *members: Member) -> None:
    """Pump the members for a while in which nothing is to happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for member in members:
            if not member.closed:
                member.connection.pump(0.001)


@contextmanager
def members(*made: Member) -> Iterator[None]:
    """Close all members in the end, whatever happened."""
    try:
        yield
    finally:
        for member in made:
            member.close()


class Process:
    """A server in a process of its own; see tests/unit/zmq_child.py for what it does."""

    def __init__(self, url: str, *words: str) -> None:
        root = Path(__file__).parents[2]
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.zmq_child", url, *words],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.expect("ready")

    def expect(self, word: str) -> str:
        """Read the lines of the child up to one that begins with a word, and return it."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"the child ended before it said {word!r}")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.child.send_signal(number)

    def kill(self) -> None:
        """End it without a chance to say goodbye; a stopped process too."""
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
