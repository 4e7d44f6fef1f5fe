"""The life of a ZeroMQ connection: states, pumping, its descriptor, closing, forking, and the static matchmaker's
URLs.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from messaging.drivers.base import State
from messaging.drivers.zmq.peer import PeerState
from messaging.errors import Cancelled, Closed, ConnectFailed, Delivered, Forked, NoRoute, ServerLost
from messaging.message import Outgoing, Route, Source, Stage
from tests.brokers.ports import free_port
from tests.faults.processes import Stall
from tests.unit.zmq_peers import (
    ANY,
    EXCHANGE,
    Member,
    all_source,
    any_source,
    members,
    one_source,
    pool_source,
    pump_for,
    pump_until,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Member, Member]]:
    """A server of the topic that answers, and a client that receives answers."""
    server, client = Member(url), Member(url)
    with members(client, server):
        server.on_delivery = server.echo
        server.subscribe(any_source())
        client.subscribe(Source.reply())
        yield server, client


def static(*ports: int) -> str:
    """A URL of fixed peers."""
    return f"zmq+static://{','.join(f'127.0.0.1:{port}' for port in ports)}/"


# States and pumping


def test_nothing_is_done_before_the_first_pump(tmp_path: Path) -> None:
    """Making a connection opens no socket and touches no directory; the first pump makes it READY."""
    member = Member(f"zmq+local://{tmp_path}/peers")
    assert not (tmp_path / "peers").exists()
    with members(member):
        member.connection.pump(0.0)
        assert member.states == [State.READY]
        assert (tmp_path / "peers").is_dir()


def test_pump_waits_no_longer_than_asked(pair: tuple[Member, Member]) -> None:
    """With nothing to do, a pump ends after its timeout, and says how long it may be left alone."""
    server, client = pair
    client.call(ANY)
    pump_until(lambda: client.deliveries, client, server)
    for timeout in (0.0, 0.01, 0.05):
        with Stall() as stall:
            begin = time.monotonic()
            rest = client.connection.pump(timeout)
            took = time.monotonic() - begin
        assert took < timeout + 0.05 + stall.worst
        assert rest >= 0.0


def test_wake_ends_a_waiting_pump(pair: tuple[Member, Member]) -> None:
    """From another thread, before or during the wait; one that comes before is not lost."""
    server, _client = pair
    pump_for(0.05, server)
    server.connection.wake()
    begin = time.monotonic()
    server.connection.pump(5.0)
    assert time.monotonic() - begin < 4.0
    timer = threading.Timer(0.05, server.connection.wake)
    timer.start()
    begin = time.monotonic()
    while time.monotonic() - begin < 0.05:
        server.connection.pump(5.0)
    assert time.monotonic() - begin < 4.0
    timer.join()


def test_the_descriptor_shows_that_there_is_work(pair: tuple[Member, Member]) -> None:
    """Pumped only when its descriptor is readable or its time has come, a connection misses nothing."""
    server, client = pair
    descriptor = server.connection.fileno()
    assert descriptor is not None
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    rest = 0.0
    for number in range(200):
        client.call(ANY, id=str(number))
        end = time.monotonic() + 5.0
        while len(client.deliveries) <= number:
            assert time.monotonic() < end
            client.connection.pump(0.0)
            if rest == 0.0 or poll.poll(0):
                rest = server.connection.pump(0.0)
    assert server.connection.fileno() == descriptor


def test_subscribing_twice_changes_the_window(pair: tuple[Member, Member]) -> None:
    """The second subscribe of a source is told nothing new, and its window counts."""
    server, client = pair
    server.on_delivery = None
    server.connection.subscribe(any_source(), 1)
    sent = [client.send(ANY) for _ in range(2)]
    pump_until(lambda: server.counts["busy"], client, server)
    assert len(server.deliveries) == 1
    server.connection.subscribe(any_source(), 2)
    pump_until(lambda: len(server.deliveries) == 2, client, server)
    assert all(message.stage is Stage.WRITTEN for message in sent)


def test_unsubscribing_is_answered_and_deregisters(pair: tuple[Member, Member], url: str) -> None:
    """Cancelled for the source, and with the last source the record is gone."""
    server, _client = pair
    directory = Path(url.removeprefix("zmq+local://"))
    assert len(list(directory.glob("*.record"))) == 1
    server.connection.unsubscribe(any_source())
    pump_until(lambda: server.subscription_errors, server)
    source, error = server.subscription_errors[0]
    assert source == any_source()
    assert isinstance(error, Cancelled)
    assert list(directory.iterdir()) == []


def test_too_much_waiting_blocks_the_connection(url: str) -> None:
    """While more wait than the mark for a peer that does not answer, the state is BLOCKED; READY afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        client = Member(static(port), connect_timeout=30.0)
        with members(client):
            body = bytes(2**20)
            sent = [client.send(ANY, body, timeout=1.0) for _ in range(65)]
            pump_until(lambda: State.BLOCKED in client.states, client)
            pump_until(lambda: client.states[-1] is State.READY, client)
            pump_until(lambda: len(client.sent) == len(sent), client)
            assert {getattr(result.error, "delivered", None) for result in client.sent} == {Delivered.NO}


# Closing


def test_closing_flushes_what_was_published(pair: tuple[Member, Member]) -> None:
    """A message published just before close with grace still arrives, and its sender hears so before CLOSED."""
    server, client = pair
    server.on_delivery = server.accept
    sent = client.send(ANY, b"last")
    client.connection.close(5.0)
    pump_until(lambda: client.closed, client, server)
    assert server.bodies == [b"last"]
    assert client.of(sent)[0].stage is Stage.TAKEN
    assert client.log[-1] == "CLOSED"


def test_closing_ends_in_time_when_a_peer_does_not_answer(pair: tuple[Member, Member]) -> None:
    """What is not settled within the grace is in doubt, what was not written is not delivered; then it is CLOSED."""
    server, client = pair
    server.on_delivery = None
    written = client.send(ANY, timeout=60.0)
    pump_until(lambda: server.deliveries, client, server)
    client.connection.close(0.3)
    seconds = pump_until(lambda: client.closed, client)
    assert 0.25 < seconds < 10.0
    error = client.of(written)[0].error
    assert error is not None
    assert getattr(error, "delivered", None) is Delivered.MAYBE


def test_closing_before_the_first_pump_is_closed_too(url: str) -> None:
    """Close is allowed in every state, twice as well; a message that never went is told as not delivered."""
    member = Member(url)
    sent = member.send(ANY)
    member.connection.close(0.0)
    member.connection.close(5.0)
    pump_until(lambda: member.closed, member)
    assert isinstance(member.of(sent)[0].error, Closed | NoRoute)
    assert member.connection.pump(1.0) > 1e9


def test_closing_a_server_tells_its_callers_at_once(pair: tuple[Member, Member], url: str) -> None:
    """The record goes first, the callers hear Bye, and a call that was taken and not answered is lost with its
    taker.
    """
    server, client = pair
    server.on_delivery = server.accept
    call = client.call(ANY)
    client.outcome(call, server)
    server.connection.close(1.0)
    assert list(Path(url.removeprefix("zmq+local://")).iterdir()) == []
    with Stall() as stall:
        seconds = pump_until(lambda: server.closed and client.lost_peers, client, server)
    assert seconds < 1.0 + stall.worst
    assert client.lost_peers == [call.taker]
    assert isinstance(client.outcome(client.send(ANY)).error, NoRoute)


def test_a_hundred_connections_leave_no_descriptors(url: str) -> None:
    """Sockets, contexts and wake-ups of closed connections are given back."""

    def once() -> None:
        server, client = Member(url), Member(url)
        with members(client, server):
            server.on_delivery = server.accept
            server.subscribe(any_source())
            client.outcome(client.send(ANY), server)

    once()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


# Forking


def test_a_forked_child_cannot_use_the_connection_and_does_not_harm_it(pair: tuple[Member, Member]) -> None:
    """Pumping in the child raises Forked; the parent's connection goes on, whatever the child destroys."""
    server, client = pair
    client.call(ANY, id="1")
    pump_until(lambda: client.deliveries, client, server)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.connection.pump(0.0)
        except Forked:
            client.connection.wake()
            server.__dict__.clear()
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    client.call(ANY, id="2")
    pump_until(lambda: len(client.deliveries) == 2, client, server)


# Fixed peers


def test_fixed_peers_tell_what_they_serve() -> None:
    """Two servers at two of three places: found by asking, chosen by name, counted in a fanout; nothing is written to
    disk.
    """
    ports = [free_port() for _ in range(3)]
    first, second, client = Member(static(*ports)), Member(static(*ports)), Member(static(*ports))
    with members(first, second, client):
        for server, name in ((first, "a"), (second, "b")):
            server.on_delivery = server.accept
            server.subscribe(any_source(), one_source(name), all_source(name), pool_source("pool"))
        endpoints = {server.connection._callers.endpoint for server in (first, second)}
        assert len(endpoints) == 2
        assert {int(endpoint.rpartition(":")[2]) for endpoint in endpoints} <= set(ports)
        for route, taker in (
            (ANY, None),
            (Route.one(EXCHANGE, "topic", "b"), second.addresses[any_source()]),
            (Route.pools(EXCHANGE, "topic"), None),
        ):
            result = client.outcome(client.send(route), first, second)
            assert (result.stage, result.error) == (Stage.TAKEN, None)
            assert taker is None or result.taker == taker
        assert client.outcome(client.send(Route.all(EXCHANGE, "topic")), first, second).taker == (2, 0)


def test_what_fixed_peers_do_not_serve_is_no_route_once_all_have_told() -> None:
    """With every place asked, an unknown topic is NoRoute; with one of them silent, ConnectFailed says which."""
    ports = [free_port() for _ in range(2)]
    server, client = Member(static(ports[0])), Member(static(ports[0]))
    with members(server, client):
        server.subscribe(any_source())
        assert isinstance(client.outcome(client.send(Route.any(EXCHANGE, "other")), server).error, NoRoute)
    server, client = Member(static(ports[0])), Member(static(*ports))
    with members(server, client):
        server.subscribe(any_source())
        error = client.outcome(client.send(Route.any(EXCHANGE, "other")), server).error
        assert isinstance(error, ConnectFailed)
        assert str(ports[1]) in str(error)


def test_a_fixed_peer_announces_what_it_begins_and_ceases_to_serve() -> None:
    """A source that is subscribed after the greeting is known to callers at once, and forgotten when it goes."""
    port = free_port()
    server, client = Member(static(port)), Member(static(port))
    with members(server, client):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        client.outcome(client.send(ANY), server)
        other = Route.any(EXCHANGE, "other")
        server.subscribe(any_source("other"))
        pump_until(lambda: other in client.connection._choices.one_of, client, server)
        assert client.outcome(client.send(other), server).error is None
        server.connection.unsubscribe(any_source("other"))
        pump_until(lambda: other not in client.connection._choices.one_of, client, server)
        assert isinstance(client.outcome(client.send(other), server).error, NoRoute)


def test_a_fixed_place_may_get_another_inhabitant() -> None:
    """A server that is restarted at its place is another one to its callers: the old one is lost, the new one found."""
    port = free_port()
    client = Member(static(port))
    with members(client):
        takers = []
        for round in range(2):
            server = Member(static(port))
            with members(server):
                server.on_delivery = server.accept
                server.subscribe(any_source())
                takers.append(client.outcome(client.send(ANY), server).taker)
            pump_until(partial(lambda number: len(client.lost_peers) == number, round + 1), client)
        assert len(set(takers)) == 2
        assert client.lost_peers == takers


def test_a_server_with_two_names_is_lost_by_both() -> None:
    """A URL that names one place twice makes two connections; what either has written is in doubt when it goes."""
    port = free_port()
    server, client = Member(static(port)), Member(f"zmq+static://127.0.0.1:{port},localhost:{port}/")
    with members(client, server):
        server.subscribe(any_source())
        sent = [client.send(ANY)]
        peers = client.connection._peers
        pump_until(lambda: [peer.state for peer in peers.open] == [PeerState.READY] * 2, client, server)
        sent += [client.send(ANY) for _ in range(3)]
        pump_until(lambda: len(server.deliveries) == 4, client, server)
        assert all(peer.unsettled for peer in peers.open)
        server.close()
        pump_until(lambda: all(client.of(message) for message in sent), client)
        assert {type(client.of(message)[0].error) for message in sent} == {ServerLost}


def test_names_of_hosts_are_looked_up_elsewhere() -> None:
    """A host name is resolved by offload; one that does not exist is ConnectFailed by name."""
    port = free_port()
    server = Member(static(port))
    client, lost = Member(f"zmq+static://localhost:{port}/"), Member(f"zmq+static://no-such-host.invalid:{port}/")
    with members(server, client, lost):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        assert client.outcome(client.send(ANY), server).error is None
        error = lost.outcome(lost.send(ANY)).error
        assert isinstance(error, ConnectFailed)
        assert "no-such-host.invalid" in str(error)


def test_a_message_without_a_token_is_sent_like_any_other(pair: tuple[Member, Member]) -> None:
    """Nobody asked for news, so there are none."""
    server, client = pair
    server.on_delivery = server.accept
    client.connection.publish(Outgoing(ANY, b"quiet", {}, confirm=False))
    pump_until(lambda: server.deliveries, client, server)
    pump_for(0.02, client, server)
    assert client.sent == []
