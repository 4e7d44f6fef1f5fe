"""The pure parts of amqp1://: addresses, profiles, credit, outcomes, and what options cannot be meant."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

import messaging
from messaging.drivers.amqp1 import installed as reported
from messaging.drivers.amqp1.addresses import Artemis, BrokerJ, Destination, RabbitMQ, Router, Words
from messaging.drivers.amqp1.credit import change
from messaging.drivers.amqp1.dialing import Dialing
from messaging.drivers.amqp1.engine import Condition
from messaging.drivers.amqp1.installed import Installed, installed, report
from messaging.drivers.amqp1.opening import Opening
from messaging.drivers.amqp1.options import Amqp1Settings, mechanisms
from messaging.drivers.amqp1.outcomes import Answer, judged
from messaging.drivers.amqp1.profiles import PROFILES, known_by
from messaging.drivers.amqp1.sasl import Login
from messaging.drivers.amqp1.types import encode_symbol
from messaging.drivers.base import Role
from messaging.drivers.stream import Stream
from messaging.errors import (
    ConfigError,
    ConnectFailed,
    Delivered,
    InvalidUrl,
    NoRoute,
    Overloaded,
    Rejected,
    ServerLost,
    TooLarge,
    Unsupported,
)
from messaging.message import Route, Source, SourceKind
from messaging.url import parse_url

_POOL = Source(SourceKind.POOLS, "ex", "topic", pool="billing")


def test_router_addresses_are_those_of_the_predecessor() -> None:
    """A router that is set up for the predecessor's driver serves this one."""
    router = Router(Words(vhost="nova"))
    rpc, notify = "openstack.org/om/rpc", "openstack.org/om/notify"
    assert router.destination(Route.any("ex", "topic")) == Destination(f"{rpc}/anycast/nova/ex/topic")
    assert router.destination(Route.one("ex", "topic", "s")) == Destination(f"{rpc}/unicast/nova/ex/topic/s")
    assert router.destination(Route.all("ex", "topic")) == Destination(f"{rpc}/multicast/nova/ex/topic")
    assert router.destination(Route.pools("ex", "topic")) == Destination(f"{notify}/anycast/nova/ex/topic")
    assert router.destination(Route.reply("amqp:/_topo/0/x")) == Destination("amqp:/_topo/0/x")
    assert router.attachment(Source.reply()).address is None


def test_prefixes_are_options() -> None:
    """Every part of an address can be chosen."""
    router = Router(Words("r", "n", "all", "one", "any"))
    addresses = [router.destination(route).address for route in (Route.any("e", "t"), Route.one("e", "t", "s"))]
    assert addresses == ["r/any/e/t", "r/one/e/t/s"]
    assert router.destination(Route.pools("e", "t")).address == "n/any/e/t"


@pytest.mark.parametrize("kind", [Router, Artemis, BrokerJ, RabbitMQ])
def test_names_cannot_be_taken_for_each_other(kind: Any) -> None:
    """Whatever characters they have, different topics have different addresses, without those that peers interpret."""
    names = ["a", "a.b", "a/b", "a%2Fb", "a%2Eb", "a::b", "a#", "*", "a b", "ü"]
    routes = [Route.pools(exchange, topic) for exchange in names for topic in names]
    addresses = [kind(Words()).destination(route).address for route in routes]
    assert len(set(addresses)) == len(routes)
    assert not any(bad in address for address in addresses for bad in ("::", "#", "*", " "))


@pytest.mark.parametrize("kind", [Router, Artemis, BrokerJ])
def test_senders_and_receivers_agree(kind: Any) -> None:
    """What is sent to a route is received from its source."""
    addresses = kind(Words())
    for source, route in (
        (Source(SourceKind.ANY, "e", "t", "s"), Route.any("e", "t")),
        (Source(SourceKind.ONE, "e", "t", "s"), Route.one("e", "t", "s")),
        (Source(SourceKind.ALL, "e", "t", "s"), Route.all("e", "t")),
        (_POOL, Route.pools("ex", "topic")),
    ):
        assert addresses.attachment(source).address == addresses.destination(route).address


def test_pools_of_artemis_are_shared_subscriptions() -> None:
    """Each pool is a durable subscription of its name, and what comes again goes to its queue alone."""
    artemis = Artemis(Words())
    attachment = artemis.attachment(_POOL)
    assert attachment.capabilities == ("topic", "shared", "global")
    assert attachment.subscription == "openstack.org/om/notify/pool/ex/topic/billing"
    assert artemis.again(_POOL) == Destination(f"{attachment.address}::{attachment.subscription}:global")
    assert artemis.dead(_POOL).address == "openstack.org/om/notify/dead/ex/topic/billing"


def test_a_link_of_its_own_makes_of_an_address_what_a_message_makes() -> None:
    """Artemis is told by each in its way whether an unknown address is a queue or a topic; of answers, by neither."""
    artemis = Artemis(Words())
    routes = (Route.any("e", "t"), Route.one("e", "t", "s"), Route.all("e", "t"), Route.pools("e", "t"))
    for route, wanted in zip(routes, ("queue", "queue", "topic", "topic"), strict=True):
        _, annotations, capabilities = artemis.destination(route)
        assert capabilities == (wanted,)
        assert annotations == {"x-opt-jms-dest": {"queue": b"\x51\x00", "topic": b"\x51\x01"}[wanted]}
    assert artemis.destination(Route.reply("a")) == Destination("a")


def test_rabbitmq_declares_the_queue_that_it_sends_to() -> None:
    """Never to an exchange or a bare key, whose messages are dropped while nobody has declared the queue."""
    rabbit = RabbitMQ(Words())
    address = rabbit.destination(Route.pools("ex", "topic")).address
    assert address == "/queue/openstack.org.om.notify.pool.ex.topic"
    assert rabbit.attachment(Source(SourceKind.POOLS, "ex", "topic", pool="default")).address == address


@pytest.mark.parametrize(
    ("window", "unsettled", "credit", "wanted"),
    [
        (10, 0, 0, 10),
        (10, 0, 10, 0),
        (10, 3, 7, 0),
        (10, 0, 6, 0),
        (10, 0, 5, 5),
        (10, 9, 0, 1),
        (10, 10, 0, 0),
        (3, 0, 3, 0),
        (3, 0, 1, 2),
        (0, 0, 10, -10),
        (0, 4, 6, -6),
        (0, 4, 0, 0),
        (5, 4, 6, -5),
        (1, 0, 0, 1),
    ],
)
def test_credit_follows_the_window(window: int, unsettled: int, credit: int, wanted: int) -> None:
    """Granted in steps of half a window, at once when there is none, and taken back when the window shrinks."""
    assert change(window, unsettled, credit) == wanted


def test_credit_and_what_is_in_hand_never_exceed_the_window() -> None:
    """Over every small state, and there is always credit where there is room for a whole half."""
    for window in range(9):
        for unsettled in range(12):
            for credit in range(12):
                after = credit + change(window, unsettled, credit)
                assert after >= 0
                assert after + unsettled <= max(window, unsettled)
                assert after > 0 or unsettled >= window


@pytest.mark.parametrize(
    ("answer", "condition", "modified", "routed", "error", "delivered"),
    [
        (Answer.RELEASED, None, "", True, NoRoute, Delivered.NO),
        (Answer.RELEASED, None, "", False, Overloaded, Delivered.NO),
        (Answer.MODIFIED, None, "", False, Overloaded, Delivered.NO),
        (Answer.MODIFIED, None, "failed", False, ServerLost, Delivered.MAYBE),
        (Answer.MODIFIED, None, "failed undeliverable", True, Overloaded, Delivered.NO),
        (Answer.MODIFIED, None, "failed", True, ServerLost, Delivered.MAYBE),
        (Answer.MODIFIED, None, "", True, ServerLost, Delivered.MAYBE),
        (Answer.NONE, None, "", False, ServerLost, Delivered.MAYBE),
        (Answer.REJECTED, Condition("amqp:not-found", ""), "", False, NoRoute, Delivered.NO),
        (Answer.REJECTED, Condition("failed", "AMQ119002: no address"), "", False, NoRoute, Delivered.NO),
        (Answer.REJECTED, Condition("amqp:resource-limit-exceeded", ""), "", False, Overloaded, Delivered.NO),
        (Answer.REJECTED, Condition("amqp:link:message-size-exceeded", ""), "", False, TooLarge, Delivered.NO),
        (Answer.REJECTED, Condition("amqp:precondition-failed", "no"), "", False, Rejected, Delivered.NO),
        (Answer.REJECTED, None, "", False, Rejected, Delivered.NO),
    ],
)
def test_every_outcome_has_its_meaning(
    answer: Answer,
    condition: Condition | None,
    modified: str,
    routed: bool,
    error: type[Exception],
    delivered: Delivered,
) -> None:
    """The error, and whether the message may be sent again."""
    found = judged(
        answer,
        "the/address",
        "the peer",
        condition=condition,
        failed="failed" in modified,
        undeliverable="undeliverable" in modified,
        routed=routed,
    )
    assert type(found) is error
    assert found is not None
    assert found.delivered is delivered
    assert "the/address" in str(found)


def test_accepted_is_no_error() -> None:
    """Whoever it was that accepted."""
    assert judged(Answer.ACCEPTED, "a", "p") is None


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("apache-activemq-artemis", "artemis"),
        ("Apache Qpid Broker-J Core", "broker-j"),
        ("RabbitMQ", "rabbitmq"),
        ("qpid-dispatch-router", "router"),
        ("skupper-router", "router"),
    ],
)
def test_products_are_known(product: str, name: str) -> None:
    """By what they say of themselves."""
    found = known_by(product)
    assert found is not None
    assert found.name == name
    assert known_by("qpid-cpp") is None


def sent_by(login: Login) -> bytes:
    """What a login says to a peer that offers to be anonymous."""
    offer = b"\x00\x53\x40\xc0\x0c\x01" + encode_symbol("ANONYMOUS")
    login.receive(b"AMQP\x03\x01\x00\x00" + (len(offer) + 8).to_bytes(4) + b"\x02\x01\x00\x00" + offer)
    return login.output


def _settings(url: str = "amqp1://localhost", **options: Any) -> Amqp1Settings:
    return Amqp1Settings(url=parse_url(url), **options)


@pytest.mark.parametrize(
    ("options", "properties", "role", "error", "told"),
    [
        ({}, {"product": "qpid-dispatch-router"}, Role.LISTENER, ConfigError, "profile=router"),
        ({}, {"product": "unheard-of", "version": "9"}, Role.LISTENER, ConfigError, "unheard-of 9"),
        ({}, {}, Role.LISTENER, ConfigError, "does not name itself"),
        ({"profile": "artemis"}, {"product": "RabbitMQ"}, Role.LISTENER, ConfigError, "profile=rabbitmq"),
        ({}, {"product": "RabbitMQ", "version": "4.1.0"}, Role.LISTENER, ConfigError, "rabbit://"),
        ({}, {"product": "RabbitMQ", "version": "3.10.8"}, Role.RPC_CLIENT, Unsupported, "rabbit://"),
        ({"profile": "rabbitmq"}, {"product": "RabbitMQ", "version": "3.10.8"}, Role.RPC_SERVER, Unsupported, "RPC"),
    ],
)
def test_peers_that_cannot_be_used_are_told(
    options: dict[str, Any], properties: dict[str, str], role: Role, error: type[Exception], told: str
) -> None:
    """The error names the product and the cure."""
    with pytest.raises(error, match=told):
        Opening(_settings(**options)).profile(properties, role)


def test_a_named_profile_serves_for_products_that_are_not_known() -> None:
    """Who says what a peer is like is believed."""
    assert Opening(_settings(profile="router")).profile({"product": "else"}, Role.RPC_CLIENT) is PROFILES["router"]


def test_a_virtual_host_is_given_in_the_form_of_its_product() -> None:
    """RabbitMQ wants another form than was sent before it was known, so it is opened once more, at once."""
    opening = Opening(_settings("amqp1://localhost/nova"))
    host = opening._settings.url.hosts[0]
    assert b"nova" in sent_by(opening.login(host))
    rabbit = {"product": "RabbitMQ", "version": "3.10.8"}
    with pytest.raises(ConnectFailed, match="opened again"):
        opening.profile(rabbit, Role.LISTENER)
    assert opening.retry_at_once() is not None
    assert b"vhost:nova" in sent_by(opening.login(host))
    assert opening.profile(rabbit, Role.LISTENER).name == "rabbitmq"
    assert opening.retry_at_once() is None


class _Late:
    """Services that ask nobody before they are told to."""

    clock = time.monotonic

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def random(self) -> float:
        return 0.0

    def offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.jobs.append(lambda: done(function(), None))


def test_late_answers_do_not_hide_the_one_that_counts() -> None:
    """Those to earlier attempts, which may all come at once when a resolver or a vault is back, are passed over."""
    answers = iter(["first", "second", "third"])
    services = _Late()
    with closing(socket.create_server(("127.0.0.1", 0))) as server, ExitStack() as stack:
        stream = Stream()
        stack.callback(stream.dispose)
        settings = _settings(f"amqp1://127.0.0.1:{server.getsockname()[1]}", credentials=lambda: ("ann", next(answers)))
        dialing = Dialing(settings, services, stream)
        for _ in range(3):
            dialing.begin()
        for job in services.jobs:
            job()
        assert dialing.has_news
        assert dialing.connect()
        assert dialing.login == ("ann", "third")
        assert not dialing.has_news


@pytest.mark.parametrize(
    ("options", "with_login", "wanted"),
    [
        ({}, False, "ANONYMOUS"),
        ({}, True, "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 PLAIN"),
        ({"login": "plain"}, True, "PLAIN"),
        ({"tls_cert": "c.pem"}, False, "EXTERNAL"),
        ({"login": "scram"}, True, "SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1"),
        ({"login": "anonymous"}, True, "ANONYMOUS"),
    ],
)
def test_mechanisms_follow_from_what_is_given(options: dict[str, Any], with_login: bool, wanted: str) -> None:
    """A login by password, by certificate, or none."""
    assert " ".join(mechanisms(_settings(**options), with_login)) == wanted


@pytest.mark.parametrize(
    ("url", "options", "error", "told"),
    [
        ("amqp1://", {}, InvalidUrl, "needs the host"),
        ("amqp1+x://localhost", {}, InvalidUrl, "no variants"),
        ("amqp1://user:secret@example.org", {}, ConfigError, "clear text"),
        ("amqp1://localhost", {"login": "external"}, ConfigError, "tls_cert"),
        ("amqp1://localhost", {"tls_key": "k.pem"}, ConfigError, "tls_cert"),
        ("amqp1://localhost", {"tls_ca": "/nowhere/ca.pem"}, ConfigError, "tls_ca"),
        ("amqp1://localhost", {"profile": "qpid"}, ConfigError, "artemis"),
        ("amqp1://localhost?profile=rabbitmq", {"heartbeat": 0}, ConfigError, "heartbeat"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    url: str, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    """When the transport is built, with the cure, and without the password."""
    with pytest.raises(error, match=told) as caught:
        messaging.open_transport(url, **options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["amqp1://user:secret@127.0.0.1", "amqp1://user:secret@example.org?insecure=yes"])
def test_a_password_may_stay_here_or_be_allowed_to_leave(url: str) -> None:
    """On this machine nobody listens in; elsewhere it is the user's word."""
    messaging.open_transport(url).close()


def test_rpc_is_refused_where_the_profile_says_so() -> None:
    """Before anything is connected."""
    from messaging import rpc

    with messaging.open_transport("amqp1://localhost?profile=rabbitmq") as transport:
        with pytest.raises(Unsupported, match="notifications only"):
            rpc.Client(transport, messaging.Target(topic="t"))


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("sasl", [True, False])
def test_the_report_says_what_there_is(tls: bool, sasl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version, TLS and SASL, of which nothing depends on how proton was built."""
    assert installed().version in report()
    monkeypatch.setattr(reported, "installed", lambda: Installed("0.40.0", tls, sasl))
    text = report()
    assert "TLS: yes" in text
    assert all(name in text for name in ("ANONYMOUS", "PLAIN", "EXTERNAL", "SCRAM-SHA-256"))
    assert text.count("does not matter here") == (not tls) + (not sasl)
