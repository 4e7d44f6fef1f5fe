"""A client of ours and a server of the real package."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.drivers.base import Role
from messaging.errors import (
    Delivered,
    MethodNotFound,
    NoRoute,
    RemoteError,
    ServerLost,
    Unsupported,
    UnsupportedVersion,
)
from tests.faults.processes import until
from tests.interop.conftest import Peer


class Refused(Exception):
    """Declared here by its name; it lives in another module there."""

    def __init__(self, message: str = "", **kwargs: Any) -> None:
        super().__init__(message)
        self.kwargs = kwargs


def client_of(transport: messaging.Transport, topic: str, **options: Any) -> rpc.Client:
    """A client for the predecessor's endpoint."""
    return rpc.Client(transport, Target(topic=topic, namespace="inventory", version="1.3"), timeout=15, **options)


def test_calls(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """Arguments, results and contexts arrive as they were; one server, a named one, and any of two."""
    peer.ask("serve", topic=topic, server="one")
    peer.ask("serve", topic=topic, server="two")
    client = client_of(transport, topic)
    args = {"text": 'schön "so" \\', "number": 2**70, "list": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    assert client.call({"user": "ann", "roles": ["x"]}, "echo", **args) == {
        "args": args,
        "context": {"user": "ann", "roles": ["x"]},
    }
    for server in ("one", "two"):
        for _ in range(3):
            assert client.prepare(server=server).call({}, "where") == f"{topic}@{server}"
    futures = [client.submit({}, "where") for _ in range(20)]
    assert {future.result() for future in futures} == {f"{topic}@one", f"{topic}@two"}
    assert client.ping() == "pong"
    with pytest.raises(NoRoute):
        client.prepare(server="three").call({}, "where")


def test_casts_and_fanouts(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """A cast is executed by one server, a fanout by each; a fanout to nobody is no error."""
    peer.ask("serve", topic=topic, server="one")
    peer.ask("serve", topic=topic, server="two")
    client = client_of(transport, topic)
    client.cast({}, "note", text="cast")
    assert peer.expect("noted")["text"] == "cast"
    client.prepare(server="two").cast({}, "note", text="direct")
    assert peer.expect("noted")["place"] == f"{topic}@two"
    client.fanout({}, "note", text="all")
    heard = [peer.expect("noted") for _ in range(2)]
    assert sorted(told["place"] for told in heard) == [f"{topic}@one", f"{topic}@two"]
    client.prepare(topic=f"{topic}-nobody").fanout({}, "note", text="none")


def test_namespaces_versions_and_exchanges(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """An older minor version and a legacy namespace are served, others refused; a topic is reached by its exchange."""
    peer.ask("serve", topic=topic, server="one")
    peer.ask("serve", topic=f"{topic}-x", server="two", exchange=f"{topic}-exchange")
    client = client_of(transport, topic)
    assert client.prepare(version="1.0").call({}, "where") == f"{topic}@one"
    assert client.prepare(namespace="stock").call({}, "where") == f"{topic}@one"
    elsewhere = client.prepare(topic=f"{topic}-x", exchange=f"{topic}-exchange")
    assert elsewhere.call({}, "where") == f"{topic}-x@two"
    with pytest.raises(NoRoute):
        elsewhere.prepare(exchange=None).call({}, "where")
    for wrong in ({"version": "1.4"}, {"version": "2.0"}, {"namespace": "other"}, {"namespace": None}):
        with pytest.raises(UnsupportedVersion):
            client.prepare(**wrong).call({}, "where")
    with pytest.raises(MethodNotFound):
        client.call({}, "nothing")


def test_exceptions(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """Undeclared ones are data; declared ones are rebuilt, by name and with all arguments, and imported never."""
    peer.ask("serve", topic=topic, server="one")
    client = client_of(transport, topic, exceptions=[Refused, KeyError])
    with pytest.raises(RemoteError) as undeclared:
        client.call({}, "fail", kind="ValueError", args=["no A1"])
    assert (undeclared.value.type, undeclared.value.text) == ("builtins.ValueError", "no A1")
    assert "in fail" in undeclared.value.trace
    with pytest.raises(KeyError) as declared:
        client.call({}, "fail", kind="KeyError", args=["A1", 2])
    assert declared.value.args == ("A1", 2)
    with pytest.raises(Refused, match="no more") as refused:
        client.call({}, "fail", kind="Refused", args=["no more"])
    assert isinstance(refused.value.__cause__, RemoteError)


def test_signs_of_life(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """A long call lives by the predecessor's heartbeats; a call that nobody works on ends when none come."""
    peer.ask("serve", topic=topic, server="one")
    client = client_of(transport, topic)
    patient = client.prepare(timeout=60, call_monitor_timeout=2)
    assert patient.call({}, "sleep", seconds=3.2) == "slept"
    peer.ask("stop", topic=topic, server="one")
    began = time.monotonic()
    with pytest.raises(ServerLost) as lost:
        patient.call({}, "where")
    assert lost.value.delivered is Delivered.MAYBE
    assert 1.9 <= time.monotonic() - began < 6
    assert transport.stats()["call.late_replies"] == 0


def test_what_the_predecessor_cannot_do_is_refused_by_name(transport: messaging.Transport, topic: str) -> None:
    """When a client is prepared, and not silently."""
    client = client_of(transport, topic)
    for told, options in (
        ("headers", {"headers": {"colour": "red"}}),
        ("call_monitor_timeout", {"call_monitor_timeout": 1}),
        ("store", {"server": "one", "store": 60}),
    ):
        with pytest.raises(Unsupported, match=told):
            client.prepare(**options)


def test_a_trace_travels_in_the_context(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """As the predecessor's tracing has it."""
    peer.ask("serve", topic=topic, server="one")
    client = client_of(transport, topic).prepare(headers={"traceparent": "00-1-2-01"})
    assert client.call({"user": "ann"}, "echo")["context"] == {"user": "ann", "traceparent": "00-1-2-01"}


def test_an_expired_request_is_not_executed(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """The expiration of a request is its deadline: what nobody took in time is never executed."""
    peer.ask("serve", topic=topic, server="one")
    peer.ask("stop", topic=topic, server="one")
    client = client_of(transport, topic)
    with pytest.raises(messaging.DeadlineExceeded):
        client.prepare(timeout=0.3).call({}, "note", text="too late")
    client.cast({}, "note", text="in time")
    peer.ask("serve", topic=topic, server="one")
    assert peer.expect("noted")["text"] == "in time"


def test_a_call_survives_a_lost_connection(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """Its queue of answers keeps its name, and is read again when the connection is back."""
    peer.ask("serve", topic=topic, server="one")
    client = client_of(transport, topic)
    client.cast({}, "note", text="ready")
    call = client.submit({}, "sleep", seconds=1.0)
    assert peer.expect("noted")["text"] == "ready"
    connection: Any = transport.operations(Role.RPC_CLIENT).reactor._connection
    until(lambda: call.running() or transport.stats()["call.sent"] == 1, "the call")
    threading.Event().wait(0.3)
    connection.stream.shut_down()
    assert call.result(10) == "slept"
    assert transport.stats()["driver.reconnects"] == 1


def test_a_fanout_after_the_last_server_has_gone(transport: messaging.Transport, peer: Peer, topic: str) -> None:
    """The exchange of fanouts goes with its last queue, and whoever comes next makes it anew."""
    noted = threading.Event()

    class Noting:
        target = Target(namespace="inventory", version="1.3")

        @rpc.expose
        def note(self, ctxt: Any, text: str) -> None:
            noted.set()

    client = client_of(transport, topic)
    for _ in range(3):
        noted.clear()
        with rpc.Server(transport, Target(topic=topic, server="ours"), [Noting()]):
            client.fanout({}, "note", text="all")
            assert noted.wait(10)
        client.fanout({}, "note", text="nobody")
    peer.ask("serve", topic=topic, server="theirs")
    client.fanout({}, "note", text="them")
    assert peer.expect("noted")["text"] == "them"
