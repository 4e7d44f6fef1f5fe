"""Answers by direct reply-to, which do not come again: those that had come when the connection or its channel ended."""

from __future__ import annotations

import array
import fcntl
import termios
import time
from collections.abc import Sequence
from typing import Any

import pytest

from messaging.drivers.base import Role, State
from messaging.drivers.rabbit.properties import Properties
from messaging.errors import ConnectionLost, Delivered
from messaging.message import Outgoing, Route, Source, SourceKind
from messaging.testing.conformance.bare import Bare, together
from tests.faults.processes import until
from tests.unit.rabbit_bare import bare

SCHEMES = ["rabbit", "kombu"]


def asked(server: Bare, client: Bare, topic: str) -> tuple[Outgoing, Outgoing]:
    """Two requests that have arrived, of which the first is answered; the client has not looked for the answer."""
    server.subscribe(Source(SourceKind.ANY, "x", topic))
    client.subscribe(Source.reply())
    first, second = (
        client.publish(Route.any("x", topic), body, reply_to=True, confirm=False) for body in (b"first", b"second")
    )
    together([server, client], lambda: len(server.events.deliveries) == 2, "two requests")
    request = next(each for each in server.take() if each.body == b"first")
    answer = server.publish(Route.reply(request.reply_to), b"answer", confirm=False)
    server.until(lambda: server.final(answer), "the answer written")
    until(lambda: unread(client), "the answer at the client's socket")
    return first, second


def unread(client: Bare) -> int:
    """How many bytes the client has not looked at."""
    stream: Any = client.connection.stream  # type: ignore[attr-defined]
    count = array.array("i", [0])
    fcntl.ioctl(stream.socket_number, termios.FIONREAD, count)
    return count[0]


def watch(client: Bare, requests: Sequence[Outgoing]) -> list[int]:
    """Note at each answer how much was told of the requests before it."""
    told: list[int] = []
    client.events.on_delivery = lambda _: told.append(sum(len(client.news(request)) for request in requests))
    return told


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("end", ["connection", "channel"])
def test_an_answer_that_came_just_before_the_end_is_told(rabbit_broker: Any, scheme: str, end: str) -> None:
    """Read in one turn with the broker's close it is told first; the request that has no answer is told MAYBE."""
    topic = f"direct-{time.monotonic_ns()}"
    with (
        bare(rabbit_broker, Role.RPC_SERVER, scheme) as server,
        bare(rabbit_broker, Role.RPC_CLIENT, scheme, replies="direct") as client,
    ):
        first, second = asked(server, client, topic)
        told = watch(client, (first, second))
        connection: Any = client.connection
        before = unread(client)
        if end == "connection":
            rabbit_broker.close_connection(connection.stream._socket.getsockname()[1])
        else:
            publisher = connection._publisher
            channel = publisher._asking.channel
            publisher._channels.traffic.publish(channel, "no such exchange", "key", False, Properties(), b"")
            connection.stream.flush()
        until(lambda: unread(client) > before, "the broker's close at the client's socket")
        client.until(lambda: client.error(second), "news of the request without an answer")
        assert [delivery.body for delivery in client.take()] == [b"answer"]
        assert told == [0]
        error = client.error(second)
        assert isinstance(error, ConnectionLost)
        assert error.delivered is Delivered.MAYBE
        assert (State.LOST in client.events.states) == (end == "connection")
