"""kombu+redis:// on a real redis: what is kept, what comes again, what is refused, and what is left behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from messaging import Target, notify, open_transport, rpc
from messaging.drivers.base import Role, State
from messaging.drivers.kombu.redis_scripts import INDEX, UNACKED
from messaging.errors import AuthFailed, DeadlineExceeded, Delivered, NoRoute, Overloaded, Rejected
from messaging.message import Outcome, Route, Source, SourceKind
from messaging.testing.conformance.bare import Bare, together
from tests.brokers import Certificates, Redis
from tests.brokers.ports import free_port

EXCHANGE = "tests"


@pytest.fixture
def url(redis_server: Any) -> str:
    """The shared redis, by kombu."""
    return f"kombu+{redis_server.url}"


@pytest.fixture
def topic() -> str:
    """A topic that nobody else uses."""
    return f"topic-{secrets.token_hex(6)}"


@pytest.fixture
def store(redis_server: Any) -> Iterator[redis.Redis]:
    """The same redis, to look into."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@contextmanager
def connected(url: str, role: Role, **options: Any) -> Iterator[Bare]:
    """A connection that is pumped by hand."""
    bare = Bare(url, role, options)
    try:
        bare.connect()
        yield bare
    finally:
        bare.close()


def any_of(topic: str, server: str = "a") -> Source:
    """The source of one of a topic's servers."""
    return Source(SourceKind.ANY, EXCHANGE, topic, server)


def receive(bare: Bare, *others: Bare, seconds: float = 10.0) -> list[bytes]:
    """Wait for deliveries, and return their bodies; they stay unsettled."""
    together([bare, *others], lambda: bare.events.deliveries, "a delivery", seconds)
    return [bytes(delivery.body) for delivery in bare.events.deliveries]


def send(bare: Bare, route: Route, *bodies: bytes, **options: Any) -> None:
    """Send messages, and wait until redis has them."""
    messages = [bare.publish(route, body, **options) for body in bodies]
    bare.until(lambda: all(map(bare.final, messages)), "news of the messages")
    assert [bare.error(message) for message in messages] == [None] * len(messages)


def test_what_a_killed_process_held_comes_again(url: str, topic: str) -> None:
    """Messages that it had taken, and never settled, are given to another within the visibility timeout, in order."""
    program = Path(__file__).with_name("kombu_child.py")
    with connected(url, Role.RPC_CLIENT) as sender:
        send(sender, Route.any(EXCHANGE, topic), *(b"%d" % number for number in range(5)))
    child = subprocess.Popen(
        [sys.executable, str(program), url, EXCHANGE, topic],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    try:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline()) == ["0", "1", "2", "3", "4"]
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    with connected(url, Role.RPC_SERVER, visibility_timeout=1.0) as other:
        other.subscribe(any_of(topic))
        other.until(lambda: len(other.events.deliveries) == 5, "what the killed process held")
        assert receive(other) == [b"0", b"1", b"2", b"3", b"4"]
        assert {(each.redelivered, each.attempt) for each in other.events.deliveries} == {(True, 2)}
        other.settle(other.take())
        other.until(lambda: len(other.events.settled) == 5, "their settlement")


def test_what_a_living_process_holds_stays_with_it(url: str, topic: str) -> None:
    """A message that is in hand for three times the visibility timeout is not given to anybody else."""
    with (
        connected(url, Role.RPC_SERVER, visibility_timeout=1.0) as slow,
        connected(url, Role.RPC_SERVER, visibility_timeout=1.0) as other,
        connected(url, Role.RPC_CLIENT) as sender,
    ):
        slow.subscribe(any_of(topic))
        send(sender, Route.any(EXCHANGE, topic), b"long")
        receive(slow)
        other.subscribe(any_of(topic))
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            slow.pump(0.02)
            other.pump(0.02)
        assert other.take() == []
        slow.settle(slow.take())
        slow.until(lambda: slow.events.settled, "its settlement")
        assert slow.events.unsettled == []


def test_a_settlement_that_comes_too_late_says_so(url: str, topic: str) -> None:
    """Who stood still for longer than the visibility timeout is told that the message is somebody else's by now."""
    with (
        connected(url, Role.RPC_SERVER, visibility_timeout=1.0) as stopped,
        connected(url, Role.RPC_SERVER, visibility_timeout=1.0) as other,
        connected(url, Role.RPC_CLIENT) as sender,
    ):
        stopped.subscribe(any_of(topic))
        send(sender, Route.any(EXCHANGE, topic), b"long")
        receive(stopped)
        other.subscribe(any_of(topic))
        assert receive(other) == [b"long"]
        stopped.settle(stopped.take())
        stopped.until(lambda: stopped.events.unsettled, "the answer to the settlement")
        assert stopped.events.settled == []
        other.settle(other.take())
        other.until(lambda: other.events.settled, "the other's settlement")


def test_messages_come_in_order_and_what_is_handed_back_comes_first(url: str, topic: str) -> None:
    """A queue keeps its order; what is given back is the next one out, and counts its attempts."""
    with connected(url, Role.RPC_SERVER) as server, connected(url, Role.RPC_CLIENT) as sender:
        send(sender, Route.any(EXCHANGE, topic), *(b"%d" % number for number in range(6)))
        server.subscribe(any_of(topic), 3)
        server.until(lambda: len(server.events.deliveries) == 3, "a full window")
        first = server.take()
        server.settle(first, Outcome.REQUEUE)
        server.until(lambda: len(server.events.deliveries) == 3, "what was handed back")
        again = server.take()
        assert [bytes(each.body) for each in again] == [b"0", b"1", b"2"]
        assert {each.attempt for each in again} == {2}
        server.settle(again)
        server.until(lambda: len(server.events.deliveries) == 3, "the rest")
        rest = server.take()
        assert [(bytes(each.body), each.attempt) for each in rest] == [(b"3", 1), (b"4", 1), (b"5", 1)]
        server.settle(rest)
        server.until(lambda: len(server.events.settled) == 9, "all settlements")


def test_nothing_is_left_of_a_client_and_a_server(url: str, topic: str, store: redis.Redis) -> None:
    """After calls, to a topic, to a server and to all, redis has no key that does not expire."""

    class Echo:
        @rpc.expose
        def echo(self, ctxt: Any, value: Any) -> Any:
            """Return it."""
            return value

    before = {key for key in store.keys("*") if store.pttl(key) == -1}
    with (
        open_transport(url) as serving,
        open_transport(url) as calling,
        rpc.Server(serving, Target(topic=topic, server="one"), [Echo()]),
    ):
        client = rpc.Client(calling, Target(topic=topic), timeout=10)
        assert client.call(None, "echo", value=1) == 1
        assert client.prepare(server="one").call(None, "echo", value=2) == 2
        client.fanout(None, "echo", value=3)
        client.prepare(server="gone").cast(None, "echo", value=4)
    after = {key for key in store.keys("*") if store.pttl(key) == -1}
    assert after - before == set()
    left = store.keys(f"*{topic}*")
    assert left == [f"messaging:one:messaging:{topic}:gone".encode()]


def test_a_pool_keeps_what_comes_while_it_is_away_and_nobody_else_does(url: str, topic: str) -> None:
    """Each pool has a queue for good; a topic to which no pool has ever listened has no route."""
    with connected(url, Role.NOTIFIER) as sender:
        lost = sender.publish(Route.pools(EXCHANGE, topic))
        sender.until(lambda: sender.final(lost), "news of a notification to nobody")
        assert isinstance(sender.error(lost), NoRoute)
        pools = [Source(SourceKind.POOLS, EXCHANGE, topic, pool=name) for name in ("one", "two")]
        with connected(url, Role.LISTENER) as listener:
            for pool in pools:
                listener.subscribe(pool)
        send(sender, Route.pools(EXCHANGE, topic), b"kept")
        with connected(url, Role.LISTENER) as listener:
            for pool in pools:
                listener.subscribe(pool)
            listener.until(lambda: len(listener.events.deliveries) == 2, "one copy for each pool")
            one, two = sorted(listener.take(), key=lambda each: each.source.pool)
            assert (one.source, two.source) == tuple(pools)
            # kombu would give what comes back of one pool to all of them.
            listener.settle([one], Outcome.REQUEUE)
            listener.settle([two])
            listener.until(lambda: listener.events.deliveries, "what comes back")
            for _ in range(10):
                listener.pump(0.01)
            (again,) = listener.take()
            assert again.source == pools[0]
            listener.settle([again])
            listener.until(lambda: len(listener.events.settled) == 3, "all settlements")


def test_what_some_pools_have_is_in_doubt(url: str, topic: str, store: redis.Redis) -> None:
    """One pool's queue takes the message, another's refuses it: the sender is told MAYBE, and not NO."""
    with connected(url, Role.LISTENER) as listener, connected(url, Role.NOTIFIER) as sender:
        for name in ("good", "bad"):
            listener.subscribe(Source(SourceKind.POOLS, EXCHANGE, topic, pool=name), 0)
        store.set(f"messaging:pool:{EXCHANGE}:{topic}:bad", "no list")
        message = sender.publish(Route.pools(EXCHANGE, topic))
        sender.until(lambda: sender.final(message), "news of the notification")
        error = sender.error(message)
        assert isinstance(error, Rejected)
        assert error.delivered is Delivered.MAYBE
        assert store.llen(f"messaging:pool:{EXCHANGE}:{topic}:good") == 1


def test_a_pool_that_was_forgotten_is_bound_again(url: str, topic: str, store: redis.Redis) -> None:
    """Somebody has deleted the list of a topic's pools: who listens puts himself on it again."""
    pool = Source(SourceKind.POOLS, EXCHANGE, topic, pool="one")
    with connected(url, Role.LISTENER, heartbeat=0.5) as listener, connected(url, Role.NOTIFIER) as sender:
        listener.subscribe(pool)
        store.delete(f"_kombu.binding.messaging:pools:{EXCHANGE}:{topic}")

        def passes() -> bool:
            again = sender.publish(Route.pools(EXCHANGE, topic), b"found")
            together([sender, listener], lambda: sender.final(again), "news of a notification")
            return sender.error(again) is None

        together([listener], passes, "a notification that finds its pool")
        assert receive(listener) == [b"found"]
        listener.settle(listener.take())
        listener.until(lambda: listener.events.settled, "its settlement")


def test_a_dead_letter_says_where_it_came_from(url: str, topic: str) -> None:
    """Reason, attempt and origin travel with it, and its headers are as they were."""
    pool = Source(SourceKind.POOLS, EXCHANGE, topic, pool="one")
    dead = Source(SourceKind.DEAD, EXCHANGE, topic, pool="one")
    with connected(url, Role.LISTENER) as listener, connected(url, Role.NOTIFIER) as sender:
        listener.subscribe(pool)
        send(sender, Route.pools(EXCHANGE, topic), b"bad", headers={"message-id": "7", "x": b"\xff"})
        receive(listener)
        listener.settle(listener.take(), Outcome.REJECT, reason="does not fit")
        listener.until(lambda: listener.events.settled, "its settlement")
        listener.subscribe(dead)
        assert receive(listener) == [b"bad"]
        (letter,) = listener.take()
        told = {"message-id": "7", "x": b"\xff", "dead-reason": "does not fit", "dead-attempt": 1}
        assert letter.headers == told | {"dead-exchange": EXCHANGE, "dead-topic": topic, "dead-pool": "one"}
        listener.settle([letter])
        listener.until(lambda: len(listener.events.settled) == 2, "its settlement")


def test_foreign_messages_in_a_queue_are_counted_and_dropped(url: str, topic: str, store: redis.Redis) -> None:
    """What is no JSON, or JSON of something else, harms nobody and is not left behind."""
    queue = f"messaging:any:{EXCHANGE}:{topic}"
    with connected(url, Role.RPC_SERVER) as server, connected(url, Role.RPC_CLIENT) as sender:
        for garbage in (b"\xff\xfe", b"{", b"[]", b"{}", b'{"properties": 7}', b'{"headers": {}, "properties": {}}'):
            store.lpush(queue, garbage)
        server.subscribe(any_of(topic))
        send(sender, Route.any(EXCHANGE, topic), b"good")
        assert receive(server) == [b"good"]
        assert server.connection.counts()["undecodable"] == 6
        server.settle(server.take())
        server.until(lambda: server.events.settled, "the settlement of the good one")
    tags = {tag for tag, noted in store.hgetall(UNACKED).items() if topic.encode() in noted}
    assert tags == set()
    assert store.hlen(UNACKED) == store.zcard(INDEX)


def test_a_key_of_another_kind_is_told_and_got_over(url: str, topic: str, store: redis.Redis) -> None:
    """What is no list cannot be a queue: LOST with that cause, tried again, and well when it is gone."""
    queue = f"messaging:any:{EXCHANGE}:{topic}"
    store.set(queue, "no list")
    with connected(url, Role.RPC_SERVER) as server, connected(url, Role.RPC_CLIENT) as sender:
        refused = sender.publish(Route.any(EXCHANGE, topic))
        sender.until(lambda: sender.final(refused), "news of the message")
        assert isinstance(sender.error(refused), Rejected)
        server.connection.subscribe(any_of(topic), 10)
        server.until(lambda: State.LOST in server.events.states, "LOST")
        assert "WRONGTYPE" in str(server.events.causes[server.events.states.index(State.LOST)])
        store.delete(queue)
        send(sender, Route.any(EXCHANGE, topic), b"good")
        assert receive(server) == [b"good"]
        server.settle(server.take())
        server.until(lambda: server.events.settled, "its settlement")


def test_a_full_queue_is_told(url: str, topic: str) -> None:
    """Beyond `max_queue` senders get Overloaded, delivered NO, and room is found again."""
    route = Route.any(EXCHANGE, topic)
    with connected(url, Role.RPC_CLIENT, max_queue=10) as sender, connected(url, Role.RPC_SERVER) as server:
        send(sender, route, *[b"x"] * 11)
        late = sender.publish(route)
        sender.until(lambda: sender.final(late), "news of one too many")
        error = sender.error(late)
        assert isinstance(error, Overloaded)
        assert error.delivered is Delivered.NO
        server.subscribe(any_of(topic))
        server.until(lambda: len(server.events.deliveries) == 11, "what was let in")
        server.settle(server.take())
        server.until(lambda: len(server.events.settled) == 11, "their settlement")

        def passes() -> bool:
            again = sender.publish(route)
            sender.until(lambda: sender.final(again), "news of another one")
            return sender.error(again) is None

        sender.until(passes, "room again")


def test_a_stored_message_is_over_after_its_time(url: str, topic: str) -> None:
    """One that was stored for too short a time is not delivered, and counted."""
    one = Source(SourceKind.ONE, EXCHANGE, topic, "late")
    with connected(url, Role.RPC_CLIENT) as sender, connected(url, Role.RPC_SERVER) as server:
        send(sender, Route.one(EXCHANGE, topic, "late"), b"short", store=0.001)
        send(sender, Route.one(EXCHANGE, topic, "late"), b"long", store=60.0)
        server.subscribe(one)
        assert receive(server) == [b"long"]
        assert server.connection.counts()["expired"] == 1
        server.settle(server.take())
        server.until(lambda: server.events.settled, "its settlement")


def test_a_redis_without_memory_is_told() -> None:
    """A command that redis refuses is its message's own error; the connection lives."""
    with Redis(options=("maxmemory 3mb", "maxmemory-policy noeviction")) as server:
        with connected(server.url_for("kombu+redis"), Role.RPC_CLIENT) as sender:
            messages = [sender.publish(Route.any(EXCHANGE, "big"), bytes(500_000)) for _ in range(12)]
            sender.until(lambda: all(map(sender.final, messages)), "news of all")
            errors = [sender.error(message) for message in messages]
            assert any(isinstance(error, Overloaded) and "memory" in str(error) for error in errors)
            assert sender.events.states == [State.CONNECTING, State.READY]


def test_a_wrong_password_is_told_at_once_and_not_tried_again() -> None:
    """AuthFailed without a next attempt; the password is in no text."""
    with Redis(password="right") as server:
        url = f"kombu+redis://:wr0ng@{server.host}:{server.port}/0"
        bare = Bare(url, Role.RPC_CLIENT, {})
        bare.until(lambda: State.LOST in bare.events.states, "LOST")
        assert isinstance(bare.events.causes[-1], AuthFailed)
        assert bare.events.retries[-1] is None
        assert "wr0ng" not in str(bare.events.causes[-1])
        bare.close()
        with connected(server.url_for("kombu+redis"), Role.RPC_CLIENT) as good:
            assert good.events.state is State.READY


def test_messages_survive_a_redis_that_is_killed(tmp_path: Path) -> None:
    """One that writes its changes down has what it confirmed; connections come back by themselves."""
    with Redis(tmp_path, durable=True) as server:
        url = server.url_for("kombu+redis")
        pool = Source(SourceKind.POOLS, EXCHANGE, "topic", pool="one")
        with connected(url, Role.LISTENER) as listener, connected(url, Role.NOTIFIER) as sender:
            listener.subscribe(pool)
            listener.connection.unsubscribe(pool)
            send(sender, Route.pools(EXCHANGE, "topic"), b"kept")
            server.kill()
            together([sender, listener], lambda: State.LOST in sender.events.states, "LOST at the sender")
            server.start()
            listener.subscribe(pool)
            assert receive(listener, sender) == [b"kept"]
            listener.settle(listener.take())
            together([listener, sender], lambda: listener.events.settled, "its settlement")


def test_a_server_of_two_topics_and_two_servers_of_one(url: str, topic: str) -> None:
    """Sources that share a queue share its messages by their room; each fanout goes to both."""
    with connected(url, Role.RPC_SERVER) as server, connected(url, Role.RPC_CLIENT) as sender:
        first, second = any_of(topic, "a"), any_of(topic, "b")
        both = [Source(SourceKind.ALL, EXCHANGE, topic, name) for name in "ab"]
        for source, window in ((first, 1), (second, 3), (both[0], 5), (both[1], 5)):
            server.subscribe(source, window)
        send(sender, Route.any(EXCHANGE, topic), *[b"x"] * 6)
        server.until(lambda: len(server.events.deliveries) == 4, "two full windows")
        for _ in range(10):
            server.pump(0.01)
        sources = [delivery.source for delivery in server.take()]
        assert (sources.count(first), sources.count(second)) == (1, 3)
        send(sender, Route.all(EXCHANGE, topic), b"all")
        server.until(lambda: len(server.events.deliveries) == 2, "a fanout to both")
        assert {delivery.source for delivery in server.take()} == set(both)


def test_tls_is_verified(tmp_path: Path) -> None:
    """The authority has to be the right one, and the name of the certificate that of the host."""
    certificates = Certificates(tmp_path / "certificates", names=("localhost",))
    port = free_port()
    options = (
        f"tls-port {port}",
        f"tls-cert-file {certificates.server}",
        f"tls-key-file {certificates.server_key}",
        f"tls-ca-cert-file {certificates.authority}",
        "tls-auth-clients no",
    )
    with Redis(options=options):
        with connected(f"kombu+rediss://localhost:{port}/0?tls_ca={certificates.authority}", Role.RPC_CLIENT) as good:
            assert good.events.state is State.READY
        for bad in (f"localhost:{port}/0?tls_ca={certificates.stranger}", f"localhost.localdomain:{port}/0"):
            bare = Bare(f"kombu+rediss://{bad}", Role.RPC_CLIENT, {})
            bare.until(lambda bare=bare: State.LOST in bare.events.states, "LOST")  # type: ignore[misc]
            assert State.READY not in bare.events.states
            bare.close()


def test_a_call_to_nobody_ends_at_its_deadline_and_is_never_run(url: str, topic: str) -> None:
    """Nobody can tell that there is no server; what it left in the queue is over when one comes."""
    ran: list[str] = []

    class Late:
        @rpc.expose
        def work(self, ctxt: Any, task: str) -> None:
            """Note it."""
            ran.append(task)

    with open_transport(url) as transport, open_transport(url) as serving:
        client = rpc.Client(transport, Target(topic=topic), timeout=0.3)
        with pytest.raises(DeadlineExceeded) as caught:
            client.call(None, "work", task="early")
        assert caught.value.delivered is Delivered.MAYBE
        with rpc.Server(serving, Target(topic=topic, server="late"), [Late()]):
            # The server counts the budget from its receipt, so the early one may run if it is in time by that.
            client.prepare(timeout=10).call(None, "work", task="last")
    assert ran[-1] == "last"


def test_a_notification_is_handled_again_until_it_succeeds(url: str, topic: str) -> None:
    """The listener keeps a failed one in hand, with backoff; nothing is in hand afterwards."""
    attempts: list[int] = []

    class Flaky:
        @notify.on("*")
        def heard(self, event: notify.Event[Any]) -> None:
            """Fail twice."""
            attempts.append(event.attempt)
            if event.attempt < 3:
                raise ValueError("not yet")

    with open_transport(url) as transport:
        listener = notify.Listener(transport, [Target(topic=topic)], [Flaky()], backoff=0.02, max_backoff=0.05)
        with listener:
            notify.Notifier(transport, publisher_id="p", topics=[topic]).info(None, "event", {})
            until = time.monotonic() + 10.0
            while listener.health()["in_hand"] or len(attempts) < 3:
                assert time.monotonic() < until, attempts
                time.sleep(0.01)
    assert attempts == [1, 2, 3]
