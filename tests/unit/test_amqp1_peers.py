"""amqp1:// on real peers, beyond the conformance suite: logins, TLS, several hosts, refusals, and RabbitMQ."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import aio, notify, rpc
from messaging.drivers.base import Role
from messaging.errors import AuthFailed, DeadlineExceeded, Delivered, MessagingError, NoRoute, Rejected, Unsupported
from messaging.message import Outcome, Route, Source, SourceKind
from messaging.target import Target
from messaging.testing.conformance.bare import Bare, together
from messaging.testing.conformance.checks import Log
from tests.brokers.artemis import Artemis
from tests.brokers.broker_j import BrokerJ
from tests.brokers.certificates import Certificates
from tests.brokers.ports import free_port
from tests.brokers.rabbit import Rabbit
from tests.unit.silent_address import silent_first


class Service:
    """Answers."""

    @rpc.expose
    def ping_back(self, ctxt: dict[str, Any], value: str) -> str:
        """Return the argument."""
        return value


class Collector:
    """Keeps notifications; fails those that are told to."""

    def __init__(self, fail: Callable[[notify.Event[Any]], None] | None = None) -> None:
        self.events: Log[Any] = Log()
        self._fail = fail

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Keep one."""
        self.events.add(event.payload)
        if self._fail is not None:
            self._fail(event)


def _topic() -> str:
    return f"peers-{secrets.token_hex(4)}"


def _echoes(url: str, **options: Any) -> None:
    """A call over two transports of its own succeeds."""
    topic = _topic()
    with (
        messaging.open_transport(url, **options) as serving,
        messaging.open_transport(url, **options) as calling,
        rpc.Server(serving, Target(topic=topic, server="a"), [Service()]),
    ):
        assert rpc.Client(calling, Target(topic=topic), timeout=5).call({}, "ping_back", value="x") == "x"


def _error(url: str, timeout: float = 5.0, **options: Any) -> MessagingError:
    """What a call over a transport raises."""
    with messaging.open_transport(url, **options) as transport:
        with pytest.raises(MessagingError) as caught:
            rpc.Client(transport, Target(topic=_topic()), timeout=timeout).call({}, "ping_back", value="x")
    return caught.value


# Logins and TLS


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Artemis]:
    """An Artemis that wants a password, listens for TLS too, and makes nothing on demand."""
    folder = tmp_path_factory.mktemp("guarded")
    with Artemis(folder, login=("ann", "s3cret"), certificates=certificates, auto_create=False) as broker:
        yield broker


def _tls(broker: Artemis, host: str = "localhost", login: str = "ann:s3cret@") -> str:
    return f"amqp1://{login}{host}:{broker.tls_port}"


def test_a_password_over_tls(guarded: Artemis, certificates: Certificates) -> None:
    """A login by PLAIN through TLS whose certificate and name are checked; the host is a name that is looked up."""
    error = _error(_tls(guarded), tls_ca=str(certificates.authority))
    assert isinstance(error, NoRoute | Rejected), error


def test_a_wrong_password_is_final(guarded: Artemis) -> None:
    """AuthFailed at once, without the password."""
    error = _error(guarded.url.replace("s3cret", "wr0ng"), timeout=20)
    assert isinstance(error, AuthFailed)
    assert "wr0ng" not in str(error)


def test_a_missing_password_is_told_as_such(guarded: Artemis) -> None:
    """Artemis lets everybody in and closes the connection then, without a word of which product it is: AuthFailed at
    once, with where a login goes, and not that there is no profile for it.
    """
    error = _error(f"amqp1://127.0.0.1:{guarded.port}", timeout=20)
    assert isinstance(error, AuthFailed)
    assert "unauthorized-access" in str(error)
    assert "user and password" in str(error)


def test_credentials_may_be_a_function(guarded: Artemis) -> None:
    """It goes before what stands in the URL."""
    error = _error(f"amqp1://nobody:wrong@127.0.0.1:{guarded.port}", credentials=lambda: ("ann", "s3cret"))
    assert isinstance(error, NoRoute | Rejected), error


def test_credentials_are_asked_for_at_each_connect(guarded: Artemis) -> None:
    """What the function returns now counts: another answer than the refused one is tried."""
    answers = [("ann", "old"), ("ann", "s3cret")]
    asked = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return answers[min(len(asked), len(answers)) - 1]

    error = _error(f"amqp1://127.0.0.1:{guarded.port}", credentials=credentials)
    assert isinstance(error, NoRoute | Rejected), error
    assert len(asked) == 2


def test_the_same_credentials_are_refused_for_good(guarded: Artemis) -> None:
    """AuthFailed long before the deadline, after the function was asked once more."""
    asked = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return "ann", "always wrong"

    begun = time.monotonic()
    error = _error(f"amqp1://127.0.0.1:{guarded.port}", timeout=30, credentials=credentials)
    assert time.monotonic() - begun < 5
    assert isinstance(error, AuthFailed)
    assert "always wrong" not in str(error)
    assert len(asked) == 2


def test_credentials_that_fail_are_asked_for_again(guarded: Artemis) -> None:
    """A failure of the function, or an answer that is none, is that of one attempt, which is told where all fail."""
    answers: list[Any] = [OSError("the vault is sealed"), None, ("ann", "s3cret")]

    def credentials() -> tuple[str, str]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        given: tuple[str, str] = answer
        return given

    url = f"amqp1://127.0.0.1:{guarded.port}"
    error = _error(url, credentials=credentials)
    assert isinstance(error, NoRoute | Rejected), error
    answers[:] = [OSError("the vault is sealed")]
    error = _error(url, timeout=0.5, credentials=credentials)
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, error.delivered) == ("connect", Delivered.NO)
    assert "credentials= has failed: the vault is sealed" in str(error)


def test_credentials_that_never_come_are_told(guarded: Artemis) -> None:
    """A function that hangs is given up with its attempt, and the error does not blame the peer alone."""
    opened = threading.Event()

    def credentials() -> tuple[str, str]:
        opened.wait()
        return "ann", "s3cret"

    url = f"amqp1://127.0.0.1:{guarded.port}"
    try:
        error = _error(url, timeout=0.6, credentials=credentials, connect_timeout=0.2)
    finally:
        opened.set()
    assert isinstance(error, DeadlineExceeded)
    assert "credentials= no answer, after 0.2 s (connect_timeout)" in str(error)


def test_credentials_may_block(guarded: Artemis) -> None:
    """A function that waits for a vault does not hold up the loop in which its connection is pumped."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        asked, opened = asyncio.Event(), threading.Event()
        in_time = []

        def credentials() -> tuple[str, str]:
            loop.call_soon_threadsafe(asked.set)
            in_time.append(opened.wait(3))
            return "ann", "s3cret"

        async with aio.open_transport(f"amqp1://127.0.0.1:{guarded.port}", credentials=credentials) as transport:
            call = asyncio.ensure_future(
                aio.rpc.Client(transport, Target(topic=_topic()), timeout=10).call({}, "ping_back", value="x")
            )
            await asked.wait()
            opened.set()
            with pytest.raises((NoRoute, Rejected)):
                await call
        return all(in_time)

    assert asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "host", "told"),
    [
        ({"tls": True}, "localhost", "certificate is refused"),
        ({"tls_server_name": "other.example"}, "localhost", "certificate is refused"),
    ],
)
def test_tls_is_verified(
    guarded: Artemis, certificates: Certificates, options: dict[str, Any], host: str, told: str
) -> None:
    """An authority that is not trusted, and a certificate of another name, are no connection, and say why."""
    if "tls_server_name" in options:
        options = {**options, "tls_ca": str(certificates.authority)}
    error = _error(_tls(guarded, host), timeout=0.5, **options)
    assert isinstance(error, DeadlineExceeded)
    assert error.delivered is Delivered.NO
    assert told in str(error)


def test_a_port_without_tls_is_told(guarded: Artemis) -> None:
    """A peer that waits for the rest of what it does not understand: before connect_timeout the error says that nobody
    has answered, and after it what nobody has answered in.
    """
    url = guarded.url.replace("ann:s3cret@", "")
    early = _error(url, timeout=0.3, tls=True)
    late = _error(url, timeout=1.5, tls=True, connect_timeout=0.5)
    for error in (early, late):
        assert isinstance(error, DeadlineExceeded)
        assert (error.phase, error.delivered) == ("connect", Delivered.NO)
    assert "has not answered yet" in str(early)
    assert f":{guarded.port} did not answer TLS within 0.5 s (connect_timeout)" in str(late)


def test_an_address_that_is_not_made_on_demand_is_no_route(guarded: Artemis) -> None:
    """Calls and casts are told at once that there is nothing; a server says what it may not attach to."""
    with messaging.open_transport(guarded.url) as transport:
        client = rpc.Client(transport, Target(topic=_topic()), timeout=10)
        with pytest.raises(NoRoute, match="nothing at") as caught:
            client.cast({}, "ping_back", value="x")
        assert caught.value.delivered is Delivered.NO
        for _ in range(3):
            # The first one finds nobody at the connection; the next ones wait at it themselves.
            begun = time.monotonic()
            with pytest.raises(NoRoute, match="nothing at"):
                client.call({}, "ping_back", value="x")
            assert time.monotonic() - begun < 5
        with pytest.raises(MessagingError) as refused:
            rpc.Server(transport, Target(topic=_topic(), server="a"), [Service()]).start(10)
        assert "anycast" in str(refused.value) or "unicast" in str(refused.value)


def test_a_lone_call_is_not_woken_by_its_acceptance(artemis_broker: Artemis) -> None:
    """Whoever waits for an answer alone sleeps until something larger than an acceptance comes, for 5 ms at the most;
    with anything else under way every frame ends the wait.
    """
    with ExitStack() as stack:
        caller = Bare(artemis_broker.url, Role.RPC_CLIENT, {})
        stack.callback(caller.close)
        caller.connect()
        caller.subscribe(Source.reply())
        route = Route.any("ex", _topic())

        def waits(confirm: bool) -> float:
            caller.publish(route, reply_to=True, confirm=confirm)
            begun = time.monotonic()
            caller.pump(0.005)
            waited = time.monotonic() - begun
            caller.until(lambda: not caller.connection._sending.under_way, "the acceptance")  # type: ignore[attr-defined]
            return waited

        for _ in range(20):
            waits(True)
        # One of them may end for a heartbeat.
        assert sorted(waits(False) for _ in range(10))[1] >= 0.005
        assert min(waits(True) for _ in range(30)) < 0.005


# Hosts


def test_dead_letters_without_a_peer_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a listener that cannot start."""
    monkeypatch.setattr("messaging.notify.deadletter.START_TIMEOUT", 0.5)
    with messaging.open_transport(f"amqp1://127.0.0.1:{free_port()}") as transport:
        with pytest.raises(DeadlineExceeded, match="Connection refused"):
            notify.DeadLetters(transport, Target(topic=_topic())).__enter__()


def test_the_next_host_is_tried(artemis_broker: Artemis) -> None:
    """Where one of two hosts does not answer, the other serves."""
    host = artemis_broker.url.removeprefix("amqp1://").rstrip("/")
    for _ in range(3):
        _echoes(f"amqp1://127.0.0.1:{free_port()},{host}/")


def test_the_next_address_is_tried(artemis_broker: Artemis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose first address swallows a whole attempt is reached by its second one."""
    with silent_first(monkeypatch, "localhost", artemis_broker.port):
        login = artemis_broker.url.removeprefix("amqp1://").rpartition("@")[0]
        _echoes(f"amqp1://{login}{'@' if login else ''}localhost:{artemis_broker.port}/", connect_timeout=0.5)


def test_products_are_recognised(artemis_broker: Artemis, broker_j: BrokerJ, rabbit_amqp1_broker: Rabbit) -> None:
    """Without a profile each peer is known by what it says of itself, and its capabilities are told."""
    found = []
    for url in (artemis_broker.url, broker_j.url, rabbit_amqp1_broker.url_for("amqp1")):
        bare = Bare(url, Role.NOTIFIER, {})
        bare.connect()
        peer = bare.events.peer
        assert peer is not None
        found.append((peer.requeue, peer.rpc))
        bare.close()
    assert found == [("later", True), ("now", True), ("now", False)]


# Broker-J


def test_a_store_in_memory_says_how_it_wants_it(broker_j: BrokerJ) -> None:
    """Broker-J refuses durable messages where its store is in memory; the error names the option that cures it."""
    with messaging.open_transport(broker_j.url) as transport:
        notifier = notify.Notifier(transport, publisher_id="p", topics=[_topic()], timeout=5)
        with pytest.raises(Rejected, match="durable=no"):
            notifier.info({}, "event", {})


# Artemis


def test_what_comes_again_later_comes_to_its_pool_alone(artemis_broker: Artemis) -> None:
    """A copy with a delay: after it, to that pool, counted; the original is settled when the copy is confirmed."""
    topic = _topic()
    pools = [Source(SourceKind.POOLS, "ex", topic, pool=pool) for pool in ("a", "b")]
    listeners = [Bare(artemis_broker.url, Role.LISTENER, {}) for _ in pools]
    notifier = Bare(artemis_broker.url, Role.NOTIFIER, {})
    everyone = [*listeners, notifier]
    try:
        for bare in everyone:
            bare.connect()
        for bare, source in zip(listeners, pools, strict=True):
            bare.subscribe(source)
        notifier.publish(Route.pools("ex", topic), b"x", headers={"message-id": "m-1"})
        together(everyone, lambda: all(bare.events.deliveries for bare in listeners), "both pools have it")
        first, second = listeners
        (delivery,) = first.take()
        second.settle(second.take())
        clock = first.connection._clock  # type: ignore[attr-defined]
        begun = clock()
        first.connection.settle([delivery], Outcome.REQUEUE, 0.3)
        together(everyone, lambda: first.events.settled, "the original is settled")
        together(everyone, lambda: first.events.deliveries, "the copy")
        assert clock() - begun >= 0.3
        (again,) = first.take()
        assert (again.attempt, again.redelivered, again.headers.get("message-id")) == (2, True, "m-1")
        assert second.take() == []
        first.settle([again])
    finally:
        for bare in everyone:
            bare.close()


# RabbitMQ


def test_rabbitmq_carries_notifications(rabbit_amqp1_broker: Rabbit) -> None:
    """To a queue that is declared before anything is sent to it: what is notified before the first listener is there
    waits for it.
    """
    topic = _topic()
    url = rabbit_amqp1_broker.url_for("amqp1")
    with messaging.open_transport(url) as sending, messaging.open_transport(url) as receiving:
        notifier = notify.Notifier(sending, publisher_id="p", topics=[topic], timeout=5)
        for number in range(20):
            notifier.info({}, "event", number)
        collector = Collector()
        with notify.Listener(receiving, [Target(topic=topic)], [collector]):
            notifier.info({}, "event", 20)
            collector.events.wait(21, "notifications")
    assert sorted(collector.events.items) == list(range(21))


def test_rabbitmq_keeps_dead_letters(rabbit_amqp1_broker: Rabbit) -> None:
    """What is rejected is copied to a queue of its own, listed with its reason, and sent again."""
    topic = _topic()
    broken = threading.Event()
    broken.set()

    def fail(event: notify.Event[Any]) -> None:
        if broken.is_set():
            raise notify.Reject("broken for now")

    collector = Collector(fail)
    with messaging.open_transport(rabbit_amqp1_broker.url_for("amqp1"), profile="rabbitmq") as transport:
        with notify.Listener(transport, [Target(topic=topic)], [collector]):
            notify.Notifier(transport, publisher_id="p", topics=[topic], timeout=5).info({}, "event", "x")
            collector.events.wait(1, "the attempt that is rejected")
            broken.clear()
            with notify.DeadLetters(transport, Target(topic=topic)) as letters:
                (letter,) = letters.read(1.0)
                assert (letter.reason, letter.attempts) == ("broken for now", 1)
                letters.replay(letter)
            assert collector.events.wait(2, "the one that was sent again") == ["x", "x"]


def test_rabbitmq_refuses_rpc_with_its_reason(rabbit_amqp1_broker: Rabbit) -> None:
    """Found by itself: a client's first call and a server's start fail, for good, by name."""
    url = rabbit_amqp1_broker.url_for("amqp1")
    error = _error(url, timeout=20)
    assert isinstance(error, Unsupported)
    assert "rabbit://" in str(error)
    with messaging.open_transport(url) as transport:
        server = rpc.Server(transport, Target(topic=_topic(), server="a"), [Service()])
        with pytest.raises(Unsupported, match="dynamic reply addresses"):
            server.start(20)


def test_rabbitmq_refuses_rpc_when_a_client_is_built(rabbit_amqp1_broker: Rabbit) -> None:
    """Where it is named, with the same reason."""
    with messaging.open_transport(rabbit_amqp1_broker.url_for("amqp1"), profile="rabbitmq") as transport:
        with pytest.raises(Unsupported, match="notifications only, because RabbitMQ 3 has neither dynamic reply addr"):
            rpc.Client(transport, Target(topic=_topic()))


@pytest.mark.parametrize("profile", ["auto", "rabbitmq"])
def test_rabbitmq_refuses_other_pools(rabbit_amqp1_broker: Rabbit, profile: str) -> None:
    """A listener in a pool of its own would take what is the default pool's: it is refused, named or found by itself,
    and takes nothing.
    """
    topic = _topic()
    collector = Collector()
    with messaging.open_transport(rabbit_amqp1_broker.url_for("amqp1"), profile=profile) as transport:
        with pytest.raises(Unsupported, match="no pools"):
            notify.Listener(transport, [Target(topic=topic)], [collector], pool="mine").start(20)
        with notify.Listener(transport, [Target(topic=topic)], [collector]):
            notify.Notifier(transport, publisher_id="p", topics=[topic], timeout=5).info({}, "event", "x")
            assert collector.events.wait(1, "the notification") == ["x"]


def test_rabbitmq_without_its_plugin(rabbit_broker: Rabbit) -> None:
    """Its answer is AMQP 0-9-1, and the error names the plugin that is missing."""
    error = _error(rabbit_broker.url_for("amqp1"), timeout=1.0)
    assert isinstance(error, DeadlineExceeded)
    assert "rabbitmq_amqp1_0" in str(error)


def test_rabbitmq_has_virtual_hosts(rabbit_amqp1_broker: Rabbit) -> None:
    """A virtual host is opened in the form that RabbitMQ has for it, also where the peer was not known before."""
    rabbit_amqp1_broker.add_vhost("other")
    topic = _topic()
    for options in ({}, {"profile": "rabbitmq"}):
        with messaging.open_transport(rabbit_amqp1_broker.url_for("amqp1", vhost="other"), **options) as transport:
            notify.Notifier(transport, publisher_id="p", topics=[topic], timeout=5).info({}, "event", "x")
    queues = rabbit_amqp1_broker.queues("other")
    assert [(queue["name"].rpartition(".")[2], queue["messages"]) for queue in queues] == [(topic, 2)]


def test_a_certificate_may_be_the_login(tmp_path: Path, certificates: Certificates) -> None:
    """login=external is checked when the transport is built: the files, and that they are there."""
    transport = messaging.open_transport(
        "amqp1://localhost",
        login="external",
        tls_ca=str(certificates.authority),
        tls_cert=str(certificates.client),
        tls_key=str(certificates.client_key),
    )
    transport.close()
    with pytest.raises(messaging.ConfigError, match="tls_cert"):
        messaging.open_transport("amqp1://localhost", login="external", tls_cert=str(tmp_path / "none.pem"))
