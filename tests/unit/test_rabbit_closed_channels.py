"""A channel that RabbitMQ closes because of one message: what becomes of the others that were written on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import messaging
from messaging import RemoteError, Target, rpc
from messaging.drivers.base import Role, State
from messaging.drivers.rabbit.properties import Properties
from messaging.errors import ConnectionLost, Delivered, NoRoute, TooLarge
from messaging.message import Outgoing, Route, Source, SourceKind, Stage
from messaging.testing.conformance.bare import Bare, together
from tests.faults.processes import until
from tests.unit.rabbit_bare import bare

SCHEMES = ["rabbit", "kombu"]
EACH = 5
LARGEST = 100_000


def limit(broker: Any, size: int) -> None:
    """Have the broker take no larger messages on channels that are opened from now on."""
    broker.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")


def close_channel(client: Bare) -> None:
    """Publish what the broker closes the channel of calls for."""
    publisher: Any = client.connection._publisher  # type: ignore[attr-defined]
    publisher._channels.traffic.publish(publisher._plain.channel, "no such exchange", "key", False, Properties(), b"")


@pytest.fixture(scope="module")
def strict_broker(rabbit_broker: Any) -> Iterator[Any]:
    """The broker with a low limit; to say so takes a second."""
    limit(rabbit_broker, LARGEST)
    yield rabbit_broker
    limit(rabbit_broker, 134_217_728)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("what", ["confirmed", "call", "answer"])
def test_a_message_too_large_harms_no_other(strict_broker: Any, scheme: str, what: str) -> None:
    """It is told TooLarge, NO; those before it have arrived, and those after it are written again: each comes once, and
    what was confirmed without anybody hearing of it is MAYBE at worst.
    """
    topic = f"large-{time.monotonic_ns()}"
    source = Source.reply() if what == "answer" else Source(SourceKind.ANY, "x", topic)
    with (
        bare(strict_broker, Role.RPC_SERVER, scheme) as server,
        bare(strict_broker, Role.RPC_CLIENT, scheme) as client,
    ):
        receiver, sender = (client, server) if what == "answer" else (server, client)
        address = receiver.subscribe(source)
        route = Route.reply(address) if what == "answer" else Route.any("x", topic)

        def publish(body: bytes) -> Outgoing:
            return sender.publish(route, body, confirm=what == "confirmed")

        publish(b"first")
        together([sender, receiver], lambda: receiver.events.deliveries, "the channel open")
        receiver.take()
        before = [publish(b"before %d" % number) for number in range(EACH)]
        large = publish(b"x" * (LARGEST + 1))
        after = [publish(b"after %d" % number) for number in range(EACH)]
        together([sender, receiver], lambda: len(receiver.events.deliveries) >= 2 * EACH, "all others")
        bodies = [delivery.body for delivery in receiver.take()]
        assert bodies == [outgoing.body for outgoing in (*before, *after)]
        error = sender.error(large)
        assert isinstance(error, TooLarge)
        assert error.delivered is Delivered.NO
        together([sender], lambda: all(sender.final(each) for each in (*before, *after)), "an end of each")
        assert [sender.error(each) for each in after] == [None] * EACH
        doubts = [error for each in before if (error := sender.error(each)) is not None]
        assert all(isinstance(doubt, ConnectionLost) and doubt.delivered is Delivered.MAYBE for doubt in doubts)
        assert what == "confirmed" or not doubts
        assert sender.events.states == [State.CONNECTING, State.READY]


class Wordy:
    """Says more than the broker carries, in one of two ways."""

    @rpc.expose
    def says(self, ctxt: dict[str, Any], size: int) -> str:
        """Return so many letters."""
        return "x" * size

    @rpc.expose
    def complains(self, ctxt: dict[str, Any], size: int) -> None:
        """Raise an error of so many letters."""
        raise LookupError("x" * size)


@pytest.mark.parametrize("query", ["", "?wire=oslo"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_caller_of_an_answer_too_large_is_told(strict_broker: Any, scheme: str, query: str) -> None:
    """An answer that the broker refuses becomes one that it carries: TooLarge with the broker's limit for a result, the
    error itself, shortened, for an error. What else is answered meanwhile arrives.
    """
    target = Target(topic=f"wordy-{time.monotonic_ns()}", server="one")
    url = strict_broker.url_for(scheme) + query
    with (
        messaging.open_transport(url) as serving,
        messaging.open_transport(url) as calling,
        rpc.Server(serving, target, [Wordy()]),
    ):
        client = rpc.Client(calling, target, timeout=20)
        others = [client.submit(None, "says", size=size) for size in range(EACH)]
        result, error = client.submit(None, "says", size=LARGEST), client.submit(None, "complains", size=LARGEST)
        others += [client.submit(None, "says", size=size) for size in range(EACH)]
        with pytest.raises(TooLarge, match=f"max size {LARGEST}; see its max_message_size") as refused:
            result.result(10)
        assert refused.value.delivered is Delivered.YES
        with pytest.raises(RemoteError, match="LookupError: xxx") as failed:
            error.result(10)
        assert failed.value.delivered is Delivered.YES
        assert [len(other.result(10)) for other in others] == [*range(EACH), *range(EACH)]
        counts = serving.stats()
    assert counts.get("server.undelivered_replies", 0) == 0
    assert counts["server.failed"] == 2


def test_an_answer_that_stays_too_large_is_given_up(strict_broker: Any) -> None:
    """Where the broker does not carry the shorter answer either, it is counted, and the next call is served."""
    target = Target(topic=f"wordy-{time.monotonic_ns()}", server="one")
    url = strict_broker.url_for("rabbit")
    limit(strict_broker, 150)
    try:
        with (
            messaging.open_transport(url) as serving,
            messaging.open_transport(url) as calling,
            rpc.Server(serving, target, [Wordy()]),
        ):
            client = rpc.Client(calling, target, timeout=20)
            lost = client.submit(None, "says", size=1_000)
            until(lambda: serving.stats().get("server.undelivered_replies", 0) == 1, "the answer given up")
            assert client.call(None, "says", size=1) == "x"
            assert not lost.done()
            assert lost.cancel()
    finally:
        limit(strict_broker, LARGEST)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_call_that_alone_can_be_to_blame_is(rabbit_broker: Any, scheme: str) -> None:
    """Of several calls one alone is neither accepted nor answered: it was refused, and no other is written again."""
    topic = f"alone-{time.monotonic_ns()}"
    with bare(rabbit_broker, Role.RPC_SERVER, scheme) as server, bare(rabbit_broker, Role.RPC_CLIENT, scheme) as client:
        server.subscribe(Source(SourceKind.ANY, "x", topic))
        sent = [client.publish(Route.any("x", topic), confirm=False) for _ in range(3)]
        together([client, server], lambda: len(server.events.deliveries) == 3, "three calls")
        blamed, accepted, answered = sent
        accepted.stage = Stage.TAKEN
        answered.token = None
        # No call goes to an exchange that could be missing, so another message has to stand for the refused one.
        close_channel(client)
        client.until(lambda: client.events.sent, "news")
        assert isinstance(client.error(blamed), NoRoute)
        client.publish(Route.any("x", topic), b"again", confirm=False)
        together([client, server], lambda: len(server.events.deliveries) >= 4, "the next call")
        assert [delivery.body for delivery in server.take()] == [b"x", b"x", b"x", b"again"]
        assert [result.outgoing for result in client.events.sent] == [blamed]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_calls_in_doubt_are_told_at_once(rabbit_broker: Any, scheme: str) -> None:
    """A message was refused, and nobody can say which of two: both are told ConnectionLost, MAYBE. A call that a server
    has accepted goes on, nothing is written twice, and the connection lives.
    """
    topic = f"doubt-{time.monotonic_ns()}"
    with bare(rabbit_broker, Role.RPC_SERVER, scheme) as server, bare(rabbit_broker, Role.RPC_CLIENT, scheme) as client:
        server.subscribe(Source(SourceKind.ANY, "x", topic))
        route = Route.any("x", topic)
        accepted, *others = [client.publish(route, confirm=False) for _ in range(3)]
        together([client, server], lambda: len(server.events.deliveries) == 3, "three calls")
        accepted.stage = Stage.TAKEN
        close_channel(client)
        client.until(lambda: len(client.events.sent) == 2, "news of two")
        for outgoing in others:
            error = client.error(outgoing)
            assert isinstance(error, ConnectionLost)
            assert error.delivered is Delivered.MAYBE
            assert "no such exchange" in str(error)
        assert client.news(accepted) == []
        client.publish(route, b"again", confirm=False)
        together([client, server], lambda: len(server.events.deliveries) >= 4, "the next call")
        assert [delivery.body for delivery in server.take()] == [b"x", b"x", b"x", b"again"]
        assert client.events.states == [State.CONNECTING, State.READY]
