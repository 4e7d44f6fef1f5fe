"""Which hub a URL of memory:// means, how long it lives, and what the driver says of itself."""

from __future__ import annotations

import os
import time

import pytest

from messaging.drivers.base import Connection, Role
from messaging.drivers.base import Driver as DriverContract
from messaging.drivers.memory import Driver, Settings, hub
from messaging.errors import ConfigError, InvalidUrl, NoRoute
from messaging.message import Route
from messaging.url import parse_url
from tests.unit.memory_peers import ANY, MemoryPeer, pool
from tests.unit.pumping import Recorder, Services

TO_ANY = Route.any("", "topic")
TO_POOLS = Route.pools("", "topic")


def connect(url: str) -> MemoryPeer:
    """A connection to the hub of a URL, in real time, that is READY."""
    events = Recorder()
    peer = MemoryPeer(Driver().connect(Settings(url=parse_url(url)), Role.ALL, events, Services()), events)
    peer.pump()
    return peer


def test_the_driver_fulfils_the_contract() -> None:
    """Driver and connection have the types of the contract."""
    driver: DriverContract = Driver()
    connection: Connection = connect("memory://").connection
    assert "memory" in driver.schemes
    assert connection.counts()["reconnects"] == 0


def test_what_is_declared() -> None:
    """A hub declares what a good broker can do, with the limit of its settings."""
    capabilities = Driver().capabilities(Settings(url=parse_url("memory://"), max_body=1000))
    assert (capabilities.max_body, capabilities.no_route, capabilities.fanout) == (1000, "consumer", "live")
    assert capabilities.threadsafe_publish
    assert capabilities.shared_roles
    assert capabilities.stable_reply_address


@pytest.mark.parametrize("other", ["memory://shared", "memory:///shared"])
def test_a_name_is_shared_in_the_process(other: str) -> None:
    """Connections to the same name meet, whichever way it is written."""
    server, client = connect("memory://shared"), connect(other)
    server.subscribe(ANY)
    client.send(TO_ANY, b"x")
    assert len(server.take()) == 1
    for peer in (server, client):
        peer.connection.close(0.0)
        peer.pump()


def test_without_a_name_a_hub_is_private() -> None:
    """Two connections to memory:// do not meet."""
    server, client = connect("memory://"), connect("memory://")
    server.subscribe(ANY)
    client.send(TO_ANY)
    assert [type(error) for error in client.events.errors] == [NoRoute]


def test_a_hub_goes_with_its_last_connection() -> None:
    """When the last connection is closed the name is free again, and nothing is left of what was stored."""
    first, second = connect("memory://leaving"), connect("memory://leaving")
    first.subscribe(pool("a"))
    first.connection.close(0.0)
    first.pump()
    second.send(TO_POOLS, b"kept while somebody is there")
    second.connection.close(0.0)
    second.pump()
    third = connect("memory://leaving")
    third.send(TO_POOLS)
    assert [type(error) for error in third.events.errors] == [NoRoute]


def test_tests_may_hold_a_hub_before_anybody_connects() -> None:
    """The hub that a test asked for is the one that later connections find."""
    held = hub("held")
    held.faults.refuse_connections()
    peer = connect("memory://held")
    assert peer.connection.hub is held
    assert peer.events.log == ["CONNECTING", "LOST"]


def test_a_hub_has_one_clock() -> None:
    """A connection on another clock is refused: budgets and delays would mean nothing."""
    held = hub("clocked")
    assert held.clock is time.monotonic
    with pytest.raises(ConfigError, match="another clock"):
        hub("clocked", lambda: 0.0)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory+fast://x", "variant"),
        ("memory://a,b", "hosts"),
        ("memory://a:1", "ports"),
        ("memory://u:secret@a", "logins"),
        ("memory://a/b", "'a' or 'b'"),
    ],
)
def test_a_url_with_more_than_a_name_is_refused(url: str, said: str) -> None:
    """What a URL of memory:// cannot mean is refused when it is looked at, without its password."""
    with pytest.raises(InvalidUrl, match=said) as caught:
        Driver().capabilities(Settings(url=parse_url(url)))
    assert "secret" not in str(caught.value)


def test_a_forked_child_has_its_own_hubs() -> None:
    """After a fork the child's names mean new hubs, and the parent's are unharmed."""
    server, client = connect("memory://forked"), connect("memory://forked")
    server.subscribe(ANY)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            inherited = hub("forked") is client.connection.hub
            peer = connect("memory://forked")
            peer.send(TO_ANY)
            errors = [type(error).__name__ for error in peer.events.errors]
            os.write(writer, f"{inherited} {errors}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert told.read() == "False ['NoRoute']"
    client.send(TO_ANY, b"x")
    assert len(server.take()) == 1
