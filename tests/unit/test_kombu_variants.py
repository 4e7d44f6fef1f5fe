"""Which URLs kombu serves, what is told about the others, and plain queues by the transport that needs no server."""

from __future__ import annotations

from collections.abc import Callable

import kombu
import pytest

from messaging import open_transport
from messaging.drivers import load_driver
from messaging.drivers.base import State
from messaging.drivers.kombu import Driver, VirtualSettings, plain_session, variants
from messaging.drivers.kombu.connection import KombuConnection
from messaging.errors import ConfigError, DriverNotInstalled, InvalidUrl, Unsupported
from messaging.message import Outcome, Outgoing, Route, Source, SourceKind, Token
from messaging.url import parse_url
from tests.unit.pumping import Recorder, Services

EXCHANGE = "tests"


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("kombu+memory://", Unsupported, ["loses messages", "memory://"]),
        ("kombu+filesystem:///tmp", Unsupported, ["loses messages", "405 were lost"]),
        ("kombu+nonsense://host/", InvalidUrl, ["nonsense", "kombu+redis://", "untested", "kombu+sqs://"]),
        ("kombu+redi://host/", InvalidUrl, ["did you mean 'redis'"]),
        ("kombu+amqp://host/", InvalidUrl, ["kombu://", "tls=yes"]),
        ("kombu+redis://", InvalidUrl, ["host", "6379"]),
        ("kombu+redis://host/name", InvalidUrl, ["number of a database", "name"]),
        ("kombu+redis://host/0?tls_ca=/no/such/file", ConfigError, ["tls_ca", "/no/such/file"]),
        ("kombu+redis://host/0?visibilty_timeout=3", ConfigError, ["visibility_timeout", "of kombu+redis://"]),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(url: str, kind: type[Exception], words: list[str]) -> None:
    """Before anything is connected, with the cure or the alternatives."""
    with pytest.raises(kind) as caught:
        open_transport(url)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the transport is opened, not when it first connects."""

    def missing(variant: str) -> type:
        raise ModuleNotFoundError("No module named 'botocore'")

    monkeypatch.setattr(variants, "get_transport_cls", missing)
    with pytest.raises(DriverNotInstalled, match=r"kombu\+sqs://.*botocore"):
        open_transport("kombu+sqs://host/")


def test_other_transports_promise_no_more_than_all_of_them_can() -> None:
    """No fanout, pools, storage or confirmations where nothing was tried."""
    capabilities = open_transport("kombu+pyro://host/").capabilities
    assert (capabilities.fanout, capabilities.pools, capabilities.storage) == ("none", False, False)
    assert (capabilities.confirms, capabilities.redelivers) == (False, "none")


def test_an_unknown_version_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of kombu's inner parts is known of one minor version."""
    monkeypatch.setattr(kombu, "__version__", "5.8.1")
    with pytest.raises(ConfigError, match=r"5\.8\.1 is installed.*pip install 'kombu==5\.7"):
        open_transport("kombu+redis://host/")


def test_a_variant_has_the_driver_that_knows_it() -> None:
    """RabbitMQ is served without a variant, and by another driver."""
    assert isinstance(load_driver("kombu", "redis"), Driver)
    assert isinstance(load_driver("kombu", "pyro"), Driver)
    assert not isinstance(load_driver("kombu"), Driver)


def test_plain_queues_carry_messages_and_settlements() -> None:
    """By nothing but what every transport of kombu's has: sent, answered, handed back, closed."""
    # kombu's own memory transport is refused in a URL because it loses what it holds; here nothing is to be kept.
    settings = VirtualSettings(url=parse_url("kombu+memory://"))
    recorder = Recorder()
    connection = KombuConnection(settings, plain_session.connect, recorder, Services())
    requests = Source(SourceKind.ANY, EXCHANGE, "topic", "a")

    def until(true: Callable[[], object], what: str) -> None:
        for _ in range(500):
            if true():
                return
            connection.pump(0.01)
        raise AssertionError(what)

    until(lambda: recorder.states[-1:] == [State.READY], "READY")
    connection.subscribe(requests, 2)
    connection.subscribe(Source.reply(), 100)
    until(lambda: len(recorder.addresses) == 2, "subscriptions")
    for number in range(3):
        connection.publish(Outgoing(Route.any(EXCHANGE, "topic"), b"%d" % number, {"x": "y"}, Token(), reply_to=True))
    until(lambda: len(recorder.deliveries) == 2, "a full window")
    first, second = recorder.deliveries
    assert [(each.body, each.headers, each.attempt) for each in (first, second)] == [
        (b"0", {"x": "y"}, 1),
        (b"1", {"x": "y"}, 1),
    ]
    connection.publish(Outgoing(Route.reply(first.reply_to), b"answer", {}, Token(), confirm=False))
    connection.settle([first], Outcome.ACCEPT)
    connection.settle([second], Outcome.REQUEUE)
    until(lambda: len(recorder.deliveries) == 5, "the answer, the third request, and what was handed back")
    assert sorted(each.body for each in recorder.deliveries[2:]) == [b"1", b"2", b"answer"]
    assert [each.attempt for each in recorder.deliveries[2:] if each.body == b"1"] == [2]
    connection.settle([each for each in recorder.deliveries[2:] if each.source == requests], Outcome.ACCEPT)
    connection.close(1.0)
    until(lambda: recorder.states[-1] is State.CLOSED, "CLOSED")
