"""CURVE over the ZeroMQ driver: who gets in, who does not, what each is told; and which options are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import zmq

from messaging.drivers.zmq import Driver
from messaging.errors import AuthFailed, ConfigError, ConnectFailed, Delivered, InvalidUrl
from messaging.message import Stage
from messaging.options import build_settings, describe_options
from messaging.url import parse_url
from tests.unit.zmq_peers import ANY, Member, any_source, members, pump_until

SERVER_PUBLIC, SERVER_SECRET = (key.decode() for key in zmq.curve_keypair())
CLIENT_PUBLIC, CLIENT_SECRET = (key.decode() for key in zmq.curve_keypair())
OTHER_PUBLIC, OTHER_SECRET = (key.decode() for key in zmq.curve_keypair())


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


@pytest.fixture
def server(url: str) -> Iterator[Member]:
    """A server that lets in the client's key alone."""
    member = Member(url, curve_key=SERVER_SECRET, curve_allowed=CLIENT_PUBLIC)
    with members(member):
        member.on_delivery = member.accept
        member.subscribe(any_source())
        yield member


def test_an_allowed_key_gets_in(url: str, server: Member) -> None:
    """With the server's public key and a secret key that the server has allowed, messages pass."""
    client = Member(url, curve_key=CLIENT_SECRET, curve_server_key=SERVER_PUBLIC)
    with members(client):
        assert client.outcome(client.send(ANY), server).stage is Stage.TAKEN
    assert server.counts["refused_keys"] == 0


def test_processes_may_share_one_key_pair(url: str) -> None:
    """With curve_key alone on all sides, exactly those who hold that key reach each other."""
    server, client, other = (
        Member(url, curve_key=SERVER_SECRET),
        Member(url, curve_key=SERVER_SECRET),
        Member(url, curve_key=OTHER_SECRET, curve_server_key=SERVER_PUBLIC),
    )
    with members(server, client, other):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        assert client.outcome(client.send(ANY), server).stage is Stage.TAKEN
        assert isinstance(other.outcome(other.send(ANY), server).error, AuthFailed)


@pytest.mark.parametrize(
    ("options", "kind", "cure"),
    [
        ({"curve_key": OTHER_SECRET, "curve_server_key": SERVER_PUBLIC}, AuthFailed, "curve_allowed"),
        ({"curve_key": CLIENT_SECRET, "curve_server_key": OTHER_PUBLIC}, AuthFailed, "curve_server_key"),
        # ZeroMQ does not always say more than that the other side broke off.
        ({}, ConnectFailed, "set curve_key"),
    ],
)
def test_everybody_else_is_refused_and_told_the_cure(
    url: str, server: Member, options: dict[str, Any], kind: type[ConnectFailed], cure: str
) -> None:
    """A key that is not allowed, a wrong server key, and no key at all: NO at once, and the error names the option."""
    client = Member(url, **options)
    with members(client):
        sent = client.send(ANY)
        error = client.outcome(sent, server).error
        assert isinstance(error, kind)
        assert error.delivered is Delivered.NO
        assert cure in str(error)
        assert client.clock() < sent.deadline - 2.0
    assert server.deliveries == []


def test_a_client_with_curve_does_not_talk_to_a_plain_server(url: str) -> None:
    """Encryption is not given up because the other side has none."""
    server, client = Member(url), Member(url, curve_key=CLIENT_SECRET, curve_server_key=SERVER_PUBLIC)
    with members(server, client):
        server.subscribe(any_source())
        error = client.outcome(client.send(ANY), server).error
        assert isinstance(error, ConnectFailed)
        assert "no curve_key" in str(error)
    assert server.deliveries == []


def test_keys_may_stand_in_files(url: str, tmp_path: Path) -> None:
    """Paths instead of keys, one allowed key on each line."""
    secret, public, allowed = tmp_path / "secret", tmp_path / "public", tmp_path / "allowed"
    secret.write_text(CLIENT_SECRET + "\n")
    public.write_text(SERVER_PUBLIC)
    allowed.write_text(f"{OTHER_PUBLIC}\n{CLIENT_PUBLIC}\n")
    server = Member(url, curve_key=SERVER_SECRET, curve_allowed=str(allowed))
    client = Member(url, curve_key=str(secret), curve_server_key=str(public))
    with members(server, client):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        assert client.outcome(client.send(ANY), server).stage is Stage.TAKEN


def settings(url: str, **options: Any) -> Any:
    """The settings of a URL, checked as a transport checks them."""
    parsed = parse_url(url)
    made = build_settings(Driver.options, [("URL", dict(parsed.options)), ("keyword", options)], url=parsed)
    Driver().capabilities(made)
    return made


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"curve_key": "short"}, "curve_key"),
        ({"curve_key": "~" * 40}, "Z85"),
        ({"curve_key": "/no/such/file"}, "No such file"),
        ({"curve_server_key": SERVER_PUBLIC}, "needs curve_key"),
        ({"curve_allowed": SERVER_PUBLIC}, "needs curve_key"),
        ({"curve_key": SERVER_SECRET, "curve_allowed": SERVER_PUBLIC + ",bad"}, "curve_allowed"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_sent(options: dict[str, Any], told: str) -> None:
    """The error names the option and what it wants, and shows no key."""
    with pytest.raises(ConfigError) as caught:
        settings("zmq://", **options)
    assert told in str(caught.value)
    assert SERVER_SECRET not in str(caught.value)


def test_secret_keys_are_not_shown() -> None:
    """Neither the settings' repr nor their URL's shows them."""
    made = settings(f"zmq://?curve_key={quote(SERVER_SECRET, safe='')}")
    assert made.curve_key == SERVER_SECRET
    for shown in (repr(made), str(made), str(made.url)):
        assert SERVER_SECRET not in shown
        assert quote(SERVER_SECRET, safe="") not in shown


@pytest.mark.parametrize("bind", ["0.0.0.0", "*", "192.0.2.1", "::", "some-host"])
def test_listening_in_the_open_needs_curve(bind: str) -> None:
    """Off loopback, plain is refused unless insecure=yes says that it is meant."""
    with pytest.raises(ConfigError, match="insecure=yes"):
        settings("zmq://", bind=bind)
    settings("zmq://", bind=bind, insecure="yes")
    settings("zmq://", bind=bind, curve_key=SERVER_SECRET)
    settings("zmq://", bind="::1")
    settings("zmq://", bind="localhost")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"advertise": "0.0.0.0"}, "advertise"),
        ({"ports": "5000-4000"}, "low-high"),
        ({"ports": "0"}, "1 and 65535"),
        ({"ports": "70000"}, "1 and 65535"),
        ({"ports": "many"}, "49152-65535"),
        ({"heartbeat": "0"}, "0.1"),
        ({"max_messages": "5"}, "max_message"),
        ({"max_message": "5"}, "1024"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], told: str) -> None:
    """Each refusal names the option and what is allowed, or the nearest spelling."""
    with pytest.raises(ConfigError) as caught:
        settings("zmq://", **options)
    assert told in str(caught.value)
    assert next(iter(options)) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kind", "told"),
    [
        ("zmq://host:5555", InvalidUrl, "zmq+static://"),
        ("zmq+static://", InvalidUrl, "h1:5555"),
        ("zmq+static://h1", InvalidUrl, "h1:5555"),
        ("zmq+statik://h1:5555", ConfigError, "'static'"),
    ],
)
def test_urls_that_cannot_be_meant_are_refused(url: str, kind: type[Exception], told: str) -> None:
    """The error says how it is written."""
    with pytest.raises(kind) as caught:
        settings(url)
    assert told in str(caught.value)


def test_every_option_is_described() -> None:
    """The documentation is made from the table, so nothing may be missing in it."""
    described = list(describe_options(Driver.options))
    assert {"bind", "advertise", "ports", "curve_key", "heartbeat", "max_peers", "lease"} <= {o.name for o in described}
    assert all(option.description and option.allowed for option in described)


def test_a_taken_port_is_passed_over_and_a_lack_of_ports_told(url: str) -> None:
    """Of a range, a free port is found; when none is free the subscription fails with the range's cure."""
    first = Member(url)
    with members(first):
        first.subscribe(any_source())
        port = int(first.connection._callers.endpoint.rpartition(":")[2])
        low = port if port < 65535 else port - 1
        second, third = Member(url, ports=f"{low}-{low + 1}"), Member(url, ports=str(port))
        with members(second, third):
            second.connection.subscribe(any_source(), 10)
            third.connection.subscribe(any_source(), 10)
            pump_until(lambda: third.subscription_errors, second, third)
            error = third.subscription_errors[0][1]
            assert isinstance(error, ConnectFailed)
            assert "ports" in str(error)


def test_an_address_that_is_not_ours_fails_the_subscription(url: str) -> None:
    """Binding to a foreign address is told by name, and the connection lives on."""
    member = Member(url, bind="192.0.2.1", insecure=True)
    with members(member):
        member.connection.subscribe(any_source(), 10)
        pump_until(lambda: member.subscription_errors, member)
        assert "192.0.2.1" in str(member.subscription_errors[0][1])
        assert os.path.isdir(url.removeprefix("zmq+local://"))
