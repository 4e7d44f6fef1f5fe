"""What is there at RabbitMQ and what is not: accounts that may not declare, other arguments, full queues, mailboxes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest

import messaging
from messaging import Target, rpc
from messaging.drivers.base import Role, State
from messaging.drivers.rabbit.methods import Bind, DeclareExchange, DeclareQueue
from messaging.drivers.rabbit.topology import NativeTopology
from messaging.errors import ConnectionLost, Delivered, NoRoute, Overloaded, Rejected
from messaging.message import Outcome, Route, Source, SourceKind
from messaging.testing.conformance.bare import together
from tests.unit.rabbit_bare import bare

SCHEMES = ["rabbit", "kombu"]


class Echo:
    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        """Return it."""
        return value


def unique(name: str) -> str:
    return f"{name}-{time.monotonic_ns()}"


@contextmanager
def by_hand(broker: Any) -> Iterator[Any]:
    """A channel of pika's own, as another program would have it."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url_for("amqp", vhost="/")))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_arguments_are_one_clear_error(rabbit_broker: Any, scheme: str) -> None:
    """The error has both sides' arguments and the cure; nothing is deleted, nothing is tried again, and the other
    sources of the connection do not notice.
    """
    topic = unique("inequivalent")
    name = f"messaging/any/messaging/{topic}"
    with by_hand(rabbit_broker) as channel:
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 7})
        with bare(rabbit_broker, Role.RPC_SERVER, scheme) as server:
            other = Source(SourceKind.ANY, "messaging", unique("other"))
            server.subscribe(other)
            source = Source(SourceKind.ANY, "messaging", topic)
            server.connection.subscribe(source, 10)
            server.until(lambda: server.events.unsubscribed, "the refusal")
            ((refused, error),) = server.events.unsubscribed
            assert refused == source
            assert isinstance(error, Rejected)
            for part in (name, "x-max-length", "1000000", "'7'", "delete_queue"):
                assert part in str(error)
            sender, route = server.publish(Route.any("messaging", other.topic)), other
            server.until(lambda: server.final(sender) is not None, "the message to the other source")
            server.until(server.take, f"a delivery from {route.topic}")
            assert server.connection.counts()["reconnects"] == 0
        assert channel.queue_declare(name, passive=True).method.message_count == 0
        channel.queue_delete(name)


def test_a_server_says_why_it_cannot_start(rabbit_broker: Any) -> None:
    """What a user sees of it: start() raises that error."""
    topic = unique("server")
    with by_hand(rabbit_broker) as channel, messaging.open_transport(rabbit_broker.url) as transport:
        channel.queue_declare(f"messaging/any/messaging/{topic}", durable=True)
        with pytest.raises(messaging.MessagingError, match="with other arguments"):
            rpc.Server(transport, Target(topic=topic, server="a"), [Echo()]).start()
        channel.queue_delete(f"messaging/any/messaging/{topic}")


def provide(channel: Any, target: Target) -> None:
    """Declare what a server needs, as an administrator would."""
    made = NativeTopology("anybody", provided=True)
    for kind in (SourceKind.ANY, SourceKind.ONE, SourceKind.ALL):
        for method in made.intake(Source(kind, "messaging", target.topic or "", target.server or "")).methods:
            if isinstance(method, DeclareExchange):
                channel.exchange_declare(method.name, method.type, durable=True)
            elif isinstance(method, DeclareQueue):
                channel.queue_declare(method.name, durable=True, arguments=dict(method.arguments))
            elif isinstance(method, Bind):
                channel.queue_bind(method.queue, method.exchange, method.key)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_declaring_everything_works_that_is_there(rabbit_broker: Any, scheme: str) -> None:
    """declare=no: a user who may configure nothing serves and calls over what others have made; what is not there is
    named.
    """
    target = Target(topic=unique("provided"), server="a")
    user = unique("plain")
    rabbit_broker.add_user(user, "pw", configure="^$")
    with by_hand(rabbit_broker) as channel:
        provide(channel, target)
    url = rabbit_broker.url_for(scheme, user=user, password="pw")
    with messaging.open_transport(url, declare=False) as transport, rpc.Server(transport, target, [Echo()]):
        client = rpc.Client(transport, target, timeout=10)
        assert client.call({}, "echo", value=1) == 1
        assert client.prepare(server="a").call({}, "echo", value=2) == 2
        client.fanout({}, "echo", value=3)
        missing = rpc.Server(transport, Target(topic=unique("missing"), server="a"), [Echo()])
        with pytest.raises(messaging.MessagingError, match="declare=no, and what is needed is not there"):
            missing.start()
    with messaging.open_transport(url) as transport, pytest.raises(messaging.MessagingError, match="declare=no"):
        rpc.Server(transport, Target(topic=unique("refused"), server="a"), [Echo()]).start()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_deleted_queue_is_made_again(rabbit_broker: Any, scheme: str) -> None:
    """The broker cancels its consumer: told as ConnectionLost, made and read again, and the connection lives."""
    topic = unique("deleted")
    source = Source(SourceKind.ANY, "messaging", topic)
    with by_hand(rabbit_broker) as channel, bare(rabbit_broker, Role.RPC_SERVER, scheme) as server:
        server.subscribe(source)
        first = server.publish(Route.any("messaging", topic))
        server.until(lambda: server.final(first) is not None and server.events.deliveries, "one")
        held = server.take()
        channel.queue_delete(f"messaging/any/messaging/{topic}")
        server.until(lambda: server.events.unsubscribed and source in server.events.subscribed, "the source again")
        assert isinstance(server.events.unsubscribed[0][1], ConnectionLost)
        assert held[0].stale
        again = server.publish(Route.any("messaging", topic), b"again")
        server.until(lambda: server.final(again) is not None, "the second message")
        server.until(lambda: server.events.deliveries, "its delivery")
        assert server.events.states == [State.CONNECTING, State.READY]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_full_queue_refuses(rabbit_broker: Any, scheme: str) -> None:
    """Beyond max_length the sender gets Overloaded, delivered NO, and the option's name; what fits is kept."""
    topic = unique("full")
    source = Source(SourceKind.ANY, "messaging", topic)
    with bare(rabbit_broker, Role.RPC_SERVER, scheme, max_length=3) as server:
        server.subscribe(source, 0)
        sent = [server.publish(Route.any("messaging", topic), b"%d" % number) for number in range(10)]
        server.until(lambda: all(server.final(each) for each in sent), "an end of each")
        errors = [server.error(each) for each in sent]
        refused = [error for error in errors if error is not None]
        assert all(isinstance(error, Overloaded) for error in refused)
        assert {error.delivered for error in refused if isinstance(error, Overloaded)} == {Delivered.NO}
        assert "max_length" in str(refused[0])
        kept = errors.count(None)
        assert 3 <= kept < 10
        server.connection.subscribe(source, 100)
        server.until(lambda: len(server.events.deliveries) == kept, "what was kept")


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_delay_comes_back_counted_and_blocks_nobody(rabbit_broker: Any, queue_type: str) -> None:
    """REQUEUE with a delay: others pass it, it comes again after its delay with attempt 2 and its headers, once."""
    topic = unique("delay")
    source = Source(SourceKind.POOLS, "messaging", topic, pool="p")
    with bare(rabbit_broker, Role.LISTENER, queue_type=queue_type) as listener:
        listener.subscribe(source)
        first = listener.publish(Route.pools("messaging", topic), b"late", headers={"message-id": "m-1", "mine": 1})
        listener.until(lambda: listener.final(first) is not None and listener.events.deliveries, "the delivery")
        (delivery,) = listener.take()
        began = time.monotonic()
        listener.settle([delivery], Outcome.REQUEUE, delay=0.4)
        listener.until(lambda: listener.events.settled, "its settlement")
        second = listener.publish(Route.pools("messaging", topic), b"in time")
        listener.until(lambda: listener.final(second) is not None and listener.events.deliveries, "the other")
        assert [bytes(each.body) for each in listener.take()] == [b"in time"]
        listener.until(lambda: listener.events.deliveries, "the first again", 10.0)
        assert 0.4 <= time.monotonic() - began < 3.0
        (again,) = listener.take()
        assert (bytes(again.body), again.attempt, again.headers["message-id"]) == (b"late", 2, "m-1")
        assert again.headers["mine"] == 1
        assert again.budget is None
        listener.settle([again], Outcome.REQUEUE, delay=0.05)
        listener.until(lambda: listener.events.deliveries, "the third attempt", 10.0)
        assert listener.events.deliveries[0].attempt == 3


@pytest.mark.parametrize(("queue_type", "attempts"), [("classic", [1, 2, 2, 2]), ("quorum", [1, 2, 3, 4])])
def test_only_quorum_queues_count_lost_listeners(rabbit_broker: Any, queue_type: str, attempts: list[int]) -> None:
    """Of a notification whose listener dies each time, a classic queue tells that it came before, a quorum queue how
    often.
    """
    topic = unique("lost")
    source = Source(SourceKind.POOLS, "messaging", topic, pool="p")
    seen = []
    for number in range(4):
        with bare(rabbit_broker, Role.LISTENER, queue_type=queue_type) as listener:
            listener.subscribe(source)
            if number == 0:
                listener.publish(Route.pools("messaging", topic), b"poison")
            listener.until(lambda: listener.events.deliveries, "the delivery")
            seen.append(listener.events.deliveries[0].attempt)
            listener.connection.stream.shut_down()  # type: ignore[attr-defined]
    assert seen == attempts


def test_a_rejected_notification_is_kept_with_its_reason(rabbit_broker: Any) -> None:
    """REJECT: a copy in the queue of dead letters, with the reason, the attempt and where it came from."""
    topic = unique("dead")
    source = Source(SourceKind.POOLS, "messaging", topic, pool="p")
    with bare(rabbit_broker, Role.LISTENER) as listener:
        listener.subscribe(source)
        sent = listener.publish(Route.pools("messaging", topic), b"bad", headers={"message-id": "m-1"})
        listener.until(lambda: listener.final(sent) is not None and listener.events.deliveries, "the delivery")
        listener.settle(listener.take(), Outcome.REJECT, reason="no good")
        listener.until(lambda: listener.events.settled, "its settlement")
        listener.subscribe(Source(SourceKind.DEAD, "messaging", topic, pool="p"))
        listener.until(lambda: listener.events.deliveries, "the dead letter")
        (dead,) = listener.take()
        assert bytes(dead.body) == b"bad"
        assert dead.headers["dead-reason"] == "no good"
        assert dead.headers["dead-attempt"] == 1
        assert dead.headers["dead-topic"] == topic
        assert dead.headers["message-id"] == "m-1"


def test_a_copy_that_cannot_be_kept_leaves_the_original(rabbit_broker: Any) -> None:
    """Where the queue of dead letters cannot be made, settling is told as failed, and the original comes again."""
    topic = unique("unburied")
    source = Source(SourceKind.POOLS, "messaging", topic, pool="p")
    name = f"messaging/dead/messaging/{topic}/p"
    with by_hand(rabbit_broker) as channel:
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 1})
        with bare(rabbit_broker, Role.LISTENER) as listener:
            listener.subscribe(source)
            sent = listener.publish(Route.pools("messaging", topic), b"bad")
            listener.until(lambda: listener.final(sent) is not None and listener.events.deliveries, "the delivery")
            (delivery,) = listener.take()
            listener.settle([delivery], Outcome.REJECT, reason="no good")
            listener.until(lambda: listener.events.unsettled, "the failure")
            assert not delivery.stale
            listener.settle([delivery], Outcome.REQUEUE)
            listener.until(lambda: listener.events.deliveries, "the original again")
        channel.queue_delete(name)
        channel.queue_delete(f"messaging/pool/messaging/{topic}/p")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_mailbox_waits_for_its_server(rabbit_broker: Any, scheme: str) -> None:
    """What is stored for a server that is not there is delivered when it comes, and is the only queue of a sender."""
    topic = unique("stored")
    with bare(rabbit_broker, Role.RPC_CLIENT, scheme) as sender, bare(rabbit_broker, Role.RPC_SERVER) as server:
        stored = sender.publish(Route.one("messaging", topic, "later"), b"kept", store=60.0)
        refused = sender.publish(Route.one("messaging", topic, "later"), b"not kept")
        sender.until(lambda: sender.final(stored) and sender.final(refused), "both ends")
        assert sender.error(stored) is None
        assert isinstance(sender.error(refused), NoRoute)
        server.subscribe(Source(SourceKind.ONE, "messaging", topic, "later"))
        server.until(lambda: server.events.deliveries, "the stored message")
        assert [bytes(each.body) for each in server.events.deliveries] == [b"kept"]


def test_the_window_holds_over_both_queues_of_a_server(rabbit_broker: Any) -> None:
    """A named server reads its mailbox beside its own queue; together no more than the window is unsettled."""
    topic = unique("both")
    route = Route.one("messaging", topic, "a")
    source = Source(SourceKind.ONE, "messaging", topic, "a")
    with bare(rabbit_broker, Role.RPC_SERVER) as server:
        server.subscribe(source, 0)
        sent = [server.publish(route, b"%d" % number, store=60.0 * (number % 2)) for number in range(20)]
        server.until(lambda: all(server.final(each) for each in sent), "twenty messages taken")
        server.connection.subscribe(source, 3)
        seen: set[bytes] = set()
        while len(seen) < 20:
            server.until(lambda: server.events.deliveries, "more")
            server.pump(0.01)
            batch = server.take()
            assert len(batch) <= 3
            seen.update(bytes(each.body) for each in batch)
            server.settle(batch)
        assert len(seen) == 20


def test_both_schemes_are_two_ends_of_one_wire(rabbit_broker: Any) -> None:
    """A client over one library and a server over the other, in both directions."""
    for served, called in (("rabbit", "kombu"), ("kombu", "rabbit")):
        target = Target(topic=unique("mixed"), server="a")
        with (
            messaging.open_transport(rabbit_broker.url_for(served)) as there,
            messaging.open_transport(rabbit_broker.url_for(called)) as here,
            rpc.Server(there, target, [Echo()]),
        ):
            assert rpc.Client(here, target, timeout=10).call({}, "echo", value="x" * 300_000) == "x" * 300_000


def test_nothing_of_a_process_is_left_at_the_broker(rabbit_broker: Any) -> None:
    """After closing, its reply, fanout and server queues are gone, and so are its connections."""
    topic = unique("tidy")
    with (
        messaging.open_transport(rabbit_broker.url) as transport,
        rpc.Server(transport, Target(topic=topic, server="a"), [Echo()]),
    ):
        assert rpc.Client(transport, Target(topic=topic), timeout=10).call({}, "echo", value=1) == 1
    with by_hand(rabbit_broker) as channel, pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        channel.queue_declare(f"messaging/one/messaging/{topic}/a", passive=True)


@pytest.mark.parametrize(("served", "called"), [("own", "library"), ("library", "own")])
def test_codecs_are_two_ends_of_one_wire(rabbit_broker: Any, served: str, called: str) -> None:
    """The own codec and the library's read what the other writes: bodies, headers and confirmations."""
    topic = unique("codecs")
    headers = {"message-id": "m", "priority": 3, "text": "ü", "number": 2**40, "list": [1, "a"], "no": None}
    with bare(rabbit_broker, Role.LISTENER, codec=served) as listener:
        listener.subscribe(Source(SourceKind.POOLS, "messaging", topic, pool="p"))
        with bare(rabbit_broker, Role.NOTIFIER, codec=called) as notifier:
            sent = notifier.publish(Route.pools("messaging", topic), b"z" * 200_000, headers=dict(headers))
            together(
                [listener, notifier],
                lambda: notifier.final(sent) and listener.events.deliveries,
                "confirmed and delivered",
            )
            assert notifier.error(sent) is None
        (delivery,) = listener.take()
        assert delivery.headers == headers
        assert len(delivery.body) == 200_000


def test_an_exchange_that_has_gone_is_made_again(rabbit_broker: Any) -> None:
    """What goes to an exchange that somebody deleted is not in doubt: the exchange is declared and the message sent
    again, once, and then it is taken, or told that no queue takes it.
    """
    exchange = unique("gone")
    route = Route.pools(exchange, "t")
    with by_hand(rabbit_broker) as channel, bare(rabbit_broker, Role.NOTIFIER) as notifier:
        first = notifier.publish(route)
        notifier.until(lambda: notifier.final(first) is not None, "an end of the first")
        channel.exchange_delete(f"messaging/{exchange}")
        second = notifier.publish(route)
        notifier.until(lambda: notifier.final(second) is not None, "an end of the second")
        assert isinstance(notifier.error(second), NoRoute)
        channel.exchange_delete(f"messaging/{exchange}")
        fanout = notifier.publish(Route.all(exchange, "t"))
        notifier.until(lambda: notifier.final(fanout) is not None, "an end of the fanout")
        assert notifier.error(fanout) is None
        assert len(notifier.news(second)) == 1
