"""A server of ours and a client of the real package."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest

import messaging
from messaging import Target, rpc
from tests.faults.processes import until
from tests.interop.conftest import Peer
from tests.interop.shop import OutOfStock


class Inventory:
    """What the predecessor's client calls."""

    target = Target(namespace="inventory", version="1.3", legacy_namespaces=("stock",))

    def __init__(self, place: str) -> None:
        self.place = place
        self.noted: list[str] = []
        self.release = threading.Event()

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], **args: Any) -> Any:
        """Return what came."""
        return {"args": args, "context": ctxt}

    @rpc.expose
    def typed(self, ctxt: dict[str, Any], day: datetime.date, counts: dict[int, float]) -> datetime.date:
        """Take what is annotated, and return what JSON does not have."""
        assert all(type(key) is int for key in counts)
        return day + datetime.timedelta(days=len(counts))

    @rpc.expose
    def where(self, ctxt: dict[str, Any]) -> str:
        """Return which server this is."""
        return self.place

    @rpc.expose
    def note(self, ctxt: dict[str, Any], text: str) -> None:
        """Keep what was executed."""
        self.noted.append(text)

    @rpc.expose
    def fail(self, ctxt: dict[str, Any]) -> None:
        """Raise what every Python has, with two arguments."""
        raise KeyError("A1", 2)

    @rpc.expose(raises=(OutOfStock,))
    def refuse(self, ctxt: dict[str, Any]) -> None:
        """Raise what both ends know."""
        raise OutOfStock("A1", left=0)

    @rpc.expose
    def broken(self, ctxt: dict[str, Any]) -> object:
        """Return what cannot be sent."""
        return object()

    @rpc.expose
    def hold(self, ctxt: dict[str, Any]) -> str:
        """Run until the test says so, and then some."""
        self.release.wait(10)
        return "held"

    @rpc.expose
    async def later(self, ctxt: dict[str, Any]) -> str:
        """A coroutine."""
        return "later"


@pytest.fixture
def served(transport: messaging.Transport, topic: str) -> Iterator[Inventory]:
    """A server of ours, named one."""
    inventory = Inventory(f"{topic}@one")
    with rpc.Server(transport, Target(topic=topic, server="one"), [inventory]):
        yield inventory


def place(topic: str, **more: Any) -> dict[str, Any]:
    """The target of a client."""
    return {"topic": topic, "namespace": "inventory", "version": "1.3", **more}


def test_calls(transport: messaging.Transport, peer: Peer, topic: str, served: Inventory) -> None:
    """Arguments, results and contexts arrive, annotations are kept; one server, a named one, any of two."""
    args = {"text": 'schön "so" \\', "number": 2**70, "list": [1, 2.5, None, True]}
    told = peer.ask("call", target=place(topic), method="echo", args=args, context={"user": "ann"})
    assert told["result"] == {"args": args, "context": {"user": "ann"}}
    typed = {"day": "2026-01-31", "counts": {"1": 2, "2": 3}}
    assert peer.ask("call", target=place(topic), method="typed", args=typed)["result"] == "2026-02-02"
    assert peer.ask("call", target=place(topic), method="later", args={})["result"] == "later"
    with rpc.Server(transport, Target(topic=topic, server="two"), [Inventory(f"{topic}@two")]):
        for server in ("one", "two"):
            told = peer.ask("call", target=place(topic, server=server), method="where", args={})
            assert told["result"] == f"{topic}@{server}"
        found = {peer.ask("call", target=place(topic), method="where", args={})["result"] for _ in range(10)}
        assert found == {f"{topic}@one", f"{topic}@two"}
    for legacy in (place(topic, namespace="stock"), place(topic, version="1.0")):
        assert peer.ask("call", target=legacy, method="where", args={})["result"] == f"{topic}@one"


def test_a_mixed_group_shares_its_topic(
    transport: messaging.Transport, peer: Peer, topic: str, served: Inventory
) -> None:
    """Both kinds of servers on one topic serve both kinds of clients, and a fanout reaches both."""
    peer.ask("serve", topic=topic, server="theirs")
    client = rpc.Client(transport, Target(**place(topic)), timeout=10)
    everybody = {f"{topic}@one", f"{topic}@theirs"}
    assert {client.call({}, "where") for _ in range(10)} == everybody
    assert {peer.ask("call", target=place(topic), method="where", args={})["result"] for _ in range(10)} == everybody
    client.fanout({}, "note", text="ours")
    peer.ask("cast", target=place(topic, fanout=True), method="note", args={"text": "theirs"})
    assert sorted(peer.expect("noted")["text"] for _ in range(2)) == ["ours", "theirs"]
    until(lambda: sorted(served.noted) == ["ours", "theirs"], "both fanouts here")


def test_casts_are_executed_once_each(peer: Peer, topic: str, served: Inventory) -> None:
    """By topic, by name and to all."""
    ways: list[dict[str, Any]] = [{}, {"server": "one"}, {"fanout": True}]
    for number, more in enumerate(ways):
        peer.ask("cast", target=place(topic, **more), method="note", args={"text": str(number)})
    until(lambda: sorted(served.noted) == ["0", "1", "2"], "three casts")


def test_exceptions(peer: Peer, topic: str, served: Inventory) -> None:
    """Python's own, and those of modules that the client allows, are rebuilt there; others are its RemoteError."""
    told = peer.ask("call", target=place(topic), method="fail", args={})
    assert (told["raised"], told["module"]) == ("KeyError", "builtins")
    assert told["args"][1] == "2"
    assert "raise KeyError" in told["args"][0]
    told = peer.ask("call", target=place(topic), method="refuse", args={})
    assert (told["raised"], told["module"]) == ("OutOfStock_Remote", "tests.interop.shop_Remote")
    assert told["kwargs"] == {"left": 0}
    told = peer.ask("call", target=place(topic), method="broken", args={})
    assert (told["raised"], told["remote"]) == ("RemoteError", "EncodeError")
    assert "cannot be sent" in told["text"]


def test_refusals(peer: Peer, topic: str, served: Inventory) -> None:
    """The predecessor's own words for no such method, version and argument."""
    for target, method, args, raised, remote in (
        (place(topic), "nothing", {}, "RemoteError", "NoSuchMethod"),
        (place(topic, version="1.4"), "where", {}, "RemoteError", "UnsupportedVersion"),
        (place(topic), "note", {"other": 1}, "TypeError", None),
    ):
        told = peer.ask("call", target=target, method=method, args=args)
        assert (told["raised"], told["remote"]) == (raised, remote)


def test_signs_of_life(peer: Peer, topic: str, served: Inventory) -> None:
    """A call of three seconds lives for a client that bears two of silence."""
    threading.Timer(3.2, served.release.set).start()
    told = peer.ask("call", target=place(topic), method="hold", args={}, timeout=30, monitor=2)
    assert told["result"] == "held"
    assert told["after"] >= 3


def test_no_signs_of_life_go_to_who_asked_for_none(peer: Peer, topic: str, served: Inventory) -> None:
    """The predecessor's client breaks on those."""
    threading.Timer(1.3, served.release.set).start()
    assert peer.ask("call", target=place(topic), method="hold", args={})["result"] == "held"


def test_ping(peer: Peer, topic: str, served: Inventory) -> None:
    """By the predecessor's method and with its answer."""
    target = {"topic": topic, "server": "one"}
    assert peer.ask("call", target=target, method="oslo_rpc_server_ping", args={})["result"] == "pong"


def test_a_repeated_message_is_executed_once(
    transport: messaging.Transport, rabbit_broker: Any, peer: Peer, topic: str, served: Inventory
) -> None:
    """The predecessor publishes again, with the same unique id, when a confirmation is lost."""
    with raw(rabbit_broker.url) as publish:
        for number, (unique, text) in enumerate((("a", "first"), ("a", "first"), ("b", "second")), 1):
            message = {"method": "note", "namespace": "inventory", "args": {"text": text}, "_unique_id": unique}
            publish(topic, {"oslo.version": "2.0", "oslo.message": json.dumps(message)})
            # One after the other, so that the repetition comes when the first one is over.
            until(lambda wanted=number: transport.stats()["server.received"] == wanted, "a message")  # type: ignore[misc]
            until(lambda: "first" in served.noted, "the first execution")
    peer.ask("call", target=place(topic), method="where", args={})
    assert served.noted == ["first", "second"]
    assert transport.stats()["server.duplicates"] == 1


def test_what_cannot_be_read_is_refused(
    transport: messaging.Transport, rabbit_broker: Any, peer: Peer, topic: str, served: Inventory
) -> None:
    """And counted, and the next one is served."""
    with raw(rabbit_broker.url) as publish:
        for body in ("no message", [1], {"oslo.version": "3.0", "oslo.message": "{}"}):
            publish(topic, body)
    assert peer.ask("call", target=place(topic), method="where", args={})["result"] == f"{topic}@one"
    assert transport.stats()["server.failed"] == 3


class raw:  # noqa: N801 - it reads as a function
    """Publishes as any AMQP program may, through kombu."""

    def __init__(self, url: str) -> None:
        self._connection = kombu.Connection(url.replace("rabbit://", "amqp://", 1))

    def __enter__(self) -> Callable[[str, Any], Any]:
        producer = self._connection.Producer(exchange=kombu.Exchange("openstack", "topic", durable=False))
        return lambda key, body: producer.publish(body, routing_key=key, serializer="json")

    def __exit__(self, *_: object) -> None:
        self._connection.release()
