"""Peers that come, go, die, stall, or are not who they were: what the ZeroMQ driver tells, and how soon."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sized
from functools import partial
from pathlib import Path

import pytest
import zmq

from messaging.drivers.base import State
from messaging.drivers.zmq.frames import Hello, Welcome, decode, encode
from messaging.drivers.zmq.peer import Peer, PeerState
from messaging.errors import ConnectFailed, ConnectionLost, DeadlineExceeded, Delivered, NoRoute, ServerLost
from messaging.matchmaker.base import Record
from messaging.matchmaker.local import LocalMatchmaker
from messaging.message import Outgoing, Route, Source, Stage
from tests.brokers.ports import free_port
from tests.faults.processes import Stall
from tests.unit.zmq_peers import ANY, EXCHANGE, Member, Process, any_source, members, one_source, pump_for, pump_until

ONE = Route.one(EXCHANGE, "topic", "child")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


@pytest.fixture
def client(url: str) -> Iterator[Member]:
    """A client that receives answers."""
    member = Member(url)
    with members(member):
        member.subscribe(Source.reply())
        yield member


def register(url: str, endpoint: str, *sources: Source, instance: str = "dead") -> None:
    """Write a record as a process would that is not there any more, but whose pid is."""
    directory = Path(url.removeprefix("zmq+local://"))
    keeper = LocalMatchmaker(directory, lease=60.0, refresh=60.0)
    keeper.start(lambda: None, 0.0)
    record = Record(instance=instance, endpoint=endpoint, revision=1, sources=dict(enumerate(sources, 1)))
    keeper.register(record, 0.0)
    assert keeper.registered == record


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def below(floor: int) -> bool:
    """Whether no more descriptors than that are open."""
    return descriptors() <= floor


def reached(things: Sized, number: int) -> bool:
    """Whether there are as many things."""
    return len(things) == number


def test_a_killed_server_is_noticed_at_once(url: str, client: Member) -> None:
    """SIGKILL: within a second its caller learns that the written message is in doubt, and who is lost; the record is
    gone, so the next message is told that nobody is there.
    """
    with Process(url, "hold") as process:
        call = client.call(ANY, b"hello")
        pump_until(lambda: call.stage is Stage.WRITTEN, client)
        process.expect("got hello")
        process.kill()
        with Stall() as stall:
            seconds = pump_until(lambda: client.of(call), client)
        assert seconds < 1.0 + stall.worst
        error = client.of(call)[0].error
        assert isinstance(error, ServerLost)
        assert error.delivered is Delivered.MAYBE
        assert client.lost_peers == [call.taker]
        assert isinstance(client.outcome(client.send(ANY)).error, NoRoute)
        assert list(Path(url.removeprefix("zmq+local://")).iterdir()) == []


def test_a_taken_call_is_lost_by_its_taker(url: str, client: Member) -> None:
    """A call that was taken and not answered is told by on_peer_lost, since it is not unsettled any more."""
    with Process(url, "take") as process:
        call = client.call(ANY)
        assert client.outcome(call).stage is Stage.TAKEN
        process.kill()
        pump_until(lambda: client.lost_peers, client)
        assert client.lost_peers == [call.taker]
        assert len(client.of(call)) == 1


def test_a_stalled_server_is_noticed_within_two_heartbeats(url: str) -> None:
    """SIGSTOP: no bytes, no end of the connection; heartbeats tell. After SIGCONT it serves again."""
    client = Member(url, heartbeat=0.3)
    with members(client), Process(url, "hold") as process:
        client.subscribe(Source.reply())
        call = client.call(ANY, b"hello")
        pump_until(lambda: call.stage is Stage.WRITTEN, client)
        process.signal(signal.SIGSTOP)
        seconds = pump_until(lambda: client.of(call), client)
        assert seconds < 2 * 0.3 + 0.5
        assert isinstance(client.of(call)[0].error, ServerLost)
        late = client.call(ONE, b"late", id="2", timeout=20.0)
        process.signal(signal.SIGCONT)
        pump_until(lambda: late.stage is Stage.WRITTEN or client.of(late), client)
        assert client.of(late) == []


def test_a_peer_that_takes_no_more_holds_up_nobody_else(url: str) -> None:
    """A stopped server's socket is full after a while: what is for it alone waits or expires unwritten, everything else
    goes to others, and when it goes on it gets what still waits, once.
    """
    client, other = Member(url, send_hwm=2, heartbeat=60.0), Member(url, receive_hwm=2)
    with members(client, other), Process(url, "take") as process:
        other.on_delivery = other.accept
        other.subscribe(any_source())
        client.outcome(client.send(ONE, b"first"))
        process.signal(signal.SIGSTOP)
        body = b"x" * 1_000_000
        sent = [client.send(ONE, body, timeout=60.0) for _ in range(50)]
        peer = next(iter(client.connection._runtime.links.values()))
        assert isinstance(peer, Peer)
        pump_until(lambda: peer.state is PeerState.FULL, client, other)
        expired = client.send(ONE, timeout=0.05)
        error = client.outcome(expired, other).error
        assert isinstance(error, DeadlineExceeded)
        assert error.delivered is Delivered.NO
        elsewhere = [client.send(ANY) for _ in range(20)]
        pump_until(lambda: all(client.of(message) for message in elsewhere), client, other)
        assert len(other.deliveries) == 20
        assert any(message.stage is None for message in sent)
        process.signal(signal.SIGCONT)
        pump_until(lambda: all(client.of(message) for message in sent), client, other)
        assert {client.of(message)[0].error for message in sent} == {None}
        assert len(client.sent) == 1 + 50 + 1 + 20


def test_a_server_that_dies_does_not_take_others_along(url: str, client: Member) -> None:
    """With two servers, calls go on over the one that lives; what the dead one had not settled is in doubt, no more."""
    with Process(url, "echo") as first, Process(url, "echo"):
        calls = [client.call(ANY, str(n).encode(), id=str(n)) for n in range(50)]
        pump_until(lambda: len(client.deliveries) == 50, client)
        pump_until(lambda: len(client.connection._runtime.links) == 2, client)
        first.kill()
        calls += [client.call(ANY, str(n).encode(), id=str(n)) for n in range(50, 100)]

        def open_calls() -> list[Outgoing]:
            answered = {delivery.headers["correlation-id"] for delivery in client.deliveries}
            ended = [call for call in calls if any(result.error for result in client.of(call))]
            return [call for call in calls if call.headers["message-id"] not in answered and call not in ended]

        pump_until(lambda: not open_calls(), client)
        errors = [result.error for call in calls for result in client.of(call) if result.error is not None]
        assert all(isinstance(error, ServerLost) for error in errors)
        client.call(ANY, b"more", id="more")
        pump_until(lambda: b"more" in client.bodies, client)


def test_a_server_that_closes_says_what_it_never_saw(url: str, client: Member) -> None:
    """What a closing server did not look at is proven undelivered and goes to another server; nothing is in doubt."""
    leaving, staying = Member(url), Member(url)
    with members(leaving, staying):
        leaving.on_delivery = leaving.echo
        leaving.subscribe(any_source())
        client.call(ANY, b"0", id="0")
        pump_until(lambda: len(client.deliveries) == 1, client, leaving)
        staying.on_delivery = staying.echo
        staying.subscribe(any_source())
        late = client.call(ANY, b"1", id="1")
        client.connection.pump(0.0)
        assert late.stage is Stage.WRITTEN
        leaving.connection.close(1.0)
        pump_until(lambda: len(client.deliveries) == 2, client, leaving, staying)
        assert client.of(late) == []
        assert client.lost_peers == [leaving.addresses[any_source()]]


def test_a_stale_address_is_not_given_to_its_new_owner(url: str, client: Member) -> None:
    """Another process has taken the port of a dead one: the greeting shows it, and nothing is handed over."""
    other = Member(url)
    with members(other):
        other.on_delivery = other.echo
        other.subscribe(Source.reply(), any_source("elsewhere"))
        endpoint = other.connection._callers.endpoint
        register(url, endpoint, any_source())
        error = client.outcome(client.send(ANY), other).error
        assert isinstance(error, ConnectFailed | NoRoute)
        assert error.delivered is Delivered.NO
        assert other.deliveries == []
        assert len(other.connection._callers) == 0


def test_a_stale_record_beside_a_living_server_costs_nothing(url: str, client: Member) -> None:
    """With one record of a dead process and one of a living one, every message reaches the living one."""
    server = Member(url)
    with members(server):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        register(url, f"tcp://127.0.0.1:{free_port()}", any_source())
        sent = [client.send(ANY) for _ in range(20)]
        pump_until(lambda: all(client.of(message) for message in sent), client, server)
        assert {client.of(message)[0].error for message in sent} == {None}


def test_a_known_server_that_cannot_be_reached_is_connect_failed(url: str, client: Member) -> None:
    """Its record stands, its port does not: ConnectFailed and NO, well within the deadline."""
    register(url, f"tcp://127.0.0.1:{free_port()}", one_source("child"))
    sent = client.send(ONE, timeout=10.0)
    error = client.outcome(sent).error
    assert isinstance(error, ConnectFailed)
    assert error.delivered is Delivered.NO
    assert "server 'child' of topic 'topic'" in str(error)
    assert client.clock() < sent.deadline - 5.0


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:99999", "tcp://127.0.0.1:many", "tcp://:1", "nonsense", ""])
def test_an_endpoint_that_is_none_is_a_failed_connect(url: str, client: Member, endpoint: str) -> None:
    """Whatever stands in a record, it ends as the error of those messages that were meant for it."""
    register(url, endpoint, one_source("child"))
    error = client.outcome(client.send(ONE)).error
    assert isinstance(error, ConnectFailed)
    assert error.delivered is Delivered.NO


def test_a_peer_that_does_not_greet_is_given_up(url: str) -> None:
    """A port that takes connections and says nothing ends as ConnectFailed after connect_timeout; messages for it wait
    until then, and expire at their deadline.
    """
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        register(url, f"tcp://127.0.0.1:{mute.getsockname()[1]}", any_source())
        client = Member(url, connect_timeout=0.4)
        with members(client):
            short, long = client.send(ANY, timeout=0.1), client.send(ANY, timeout=10.0)
            error = client.outcome(short).error
            assert isinstance(error, DeadlineExceeded)
            assert (error.phase, error.delivered) == ("connect", Delivered.NO)
            assert isinstance(client.outcome(long).error, ConnectFailed)


def test_a_peer_that_does_not_greet_is_passed_over(url: str, client: Member) -> None:
    """With a mute peer and one that answers, no message waits for the mute one."""
    server = Member(url)
    with socket.socket() as mute, members(server):
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        register(url, f"tcp://127.0.0.1:{mute.getsockname()[1]}", any_source())
        server.on_delivery = server.accept
        server.subscribe(any_source())
        sent = [client.send(ANY) for _ in range(20)]
        with Stall() as stall:
            seconds = pump_until(lambda: all(client.of(message) for message in sent), client, server)
        assert {client.of(message)[0].error for message in sent} == {None}
        assert seconds < 1.0 + stall.worst


def test_a_peer_of_another_version_is_refused_with_both_versions(url: str, client: Member) -> None:
    """Where no version is common the error names what both sides speak."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    try:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        register(url, f"tcp://127.0.0.1:{port}", any_source(), instance="future")
        sent = client.send(ANY)
        pump_until(lambda: router.poll(0), client)
        identity, data = router.recv_multipart()
        hello = decode(data)
        assert isinstance(hello, Hello)
        assert (hello.lowest, hello.highest, hello.instance) == (1, 1, "future")
        router.send_multipart([identity, encode(Welcome(0, "future", 1024, 1, [], 7, 9))])
        error = client.outcome(sent).error
        assert isinstance(error, ConnectFailed)
        assert "versions 7 to 9" in str(error)
    finally:
        router.close()
        context.term()


def test_a_caller_of_another_version_is_answered_and_not_served(url: str) -> None:
    """A greeting of versions that this one does not speak is answered with the own ones, and nothing is taken."""
    server = Member(url)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    try:
        with members(server):
            server.subscribe(any_source())
            dealer.connect(server.connection._callers.endpoint)
            dealer.send(encode(Hello("messaging", 7, 9, "future", "", 1024)))
            dealer.send(encode((0, [(1, 1, 0, None, {}, b"x")])))
            pump_until(lambda: server.counts["strangers"], server)
            welcome = decode(dealer.recv())
            assert isinstance(welcome, Welcome)
            assert (welcome.version, welcome.lowest, welcome.highest) == (0, 1, 1)
            assert server.deliveries == []
    finally:
        dealer.close()
        context.term()


def test_a_server_that_comes_back_is_used_again(url: str, client: Member) -> None:
    """A restarted server of the same name is another instance, found without waiting for the table."""
    for round in range(3):
        server = Member(url)
        with members(server):
            server.on_delivery = server.echo
            server.subscribe(one_source("child"))
            client.call(ONE, str(round).encode(), id=str(round))
            pump_until(partial(reached, client.deliveries, round + 1), client, server)
        pump_until(partial(reached, client.lost_peers, round + 1), client)
        assert isinstance(client.outcome(client.send(ONE)).error, NoRoute)


def test_a_broken_connection_is_made_anew(url: str, client: Member) -> None:
    """A peer that is cut off and still in the table is connected again by itself, and says so in the counts."""
    server = Member(url)
    with members(server):
        server.on_delivery = server.echo
        server.subscribe(any_source())
        client.call(ANY)
        pump_until(lambda: client.deliveries, client, server)
        peer = next(iter(client.connection._peers.open))
        peer.fail(ConnectionLost("cut"))
        pump_until(lambda: client.connection._runtime.links, client, server)
        client.call(ANY, id="2")
        pump_until(lambda: len(client.deliveries) == 2, client, server)
        assert client.counts["reconnects"] == 1
        assert State.LOST not in client.states


def test_idle_connections_are_closed_and_opened_again(url: str) -> None:
    """After idle_close without use the descriptors are back at the floor; the next message connects anew, and nobody
    is told a loss.
    """
    client, server = Member(url, idle_close=0.2), Member(url)
    with members(client, server):
        server.on_delivery = server.echo
        server.subscribe(any_source())
        client.subscribe(Source.reply())
        floor = 0
        for round in range(1, 4):
            client.call(ANY, id=str(round))
            pump_until(partial(reached, client.deliveries, round), client, server)
            used = descriptors()
            pump_until(lambda: not client.connection._peers.open, client, server)
            pump_until(lambda: len(server.connection._callers) == 0, client, server)
            pump_until(partial(below, used - 1), client, server)
            # The first round also made the client's context, which stays.
            floor = floor or descriptors()
            pump_until(partial(below, floor), client, server)
        assert client.lost_peers == []


def test_a_connection_with_a_call_under_way_is_not_idle(url: str) -> None:
    """A call that was taken and not answered keeps its connection, however quiet that is."""
    client, server = Member(url, idle_close=0.1), Member(url)
    with members(client, server):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        client.subscribe(Source.reply())
        client.outcome(client.call(ANY), server)
        pump_for(1.3, client, server)
        assert client.connection._peers.open
        server.echo(server.deliveries[0])
        pump_until(lambda: client.deliveries, client, server)
        pump_until(lambda: not client.connection._peers.open, client, server)


def test_no_more_peers_than_allowed_are_connected(url: str) -> None:
    """With max_peers=3 ten servers are still all reached, three at a time."""
    client = Member(url, max_peers=3)
    servers = [Member(url) for _ in range(10)]
    with members(client, *servers):
        for number, server in enumerate(servers):
            server.on_delivery = server.accept
            server.subscribe(one_source(str(number)))
        most = 0
        sent = [client.send(Route.one(EXCHANGE, "topic", str(number))) for number in range(10)]

        def done() -> bool:
            nonlocal most
            most = max(most, len(client.connection._peers.open))
            return all(client.of(message) for message in sent)

        pump_until(done, client, *servers)
        assert {client.of(message)[0].error for message in sent} == {None}
        assert most == 3


def test_the_record_of_a_server_that_was_stopped_too_long_comes_back(url: str) -> None:
    """A process whose lease ran out while it stood still registers again as soon as it goes on."""
    server, client = Member(url, lease=1.0), Member(url)
    with members(server, client):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        for found in Path(url.removeprefix("zmq+local://")).glob("*.record"):
            found.unlink()
        assert isinstance(client.outcome(client.send(ANY)).error, NoRoute)
        pump_until(lambda: list(Path(url.removeprefix("zmq+local://")).glob("*.record")), server)
        assert client.outcome(client.send(ANY), server).error is None
