"""The two sides share queues: with the same options they meet, with different ones each error says what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import messaging
from messaging import Target, notify, rpc
from messaging.errors import ConfigError, Rejected, Unsupported
from tests.faults.processes import until
from tests.interop.conftest import Peer
from tests.interop.test_notifications import Collected
from tests.interop.test_our_server import Inventory, place

Opened = Callable[..., messaging.Transport]
QUORUM: dict[str, Any] = {"rabbit_quorum_queue": True, "rabbit_transient_quorum_queue": True}


@pytest.fixture(scope="module")
def quorum_peer(rabbit_broker: Any) -> Iterator[Peer]:
    """The predecessor with quorum queues everywhere, as its documentation recommends for new clusters."""
    process = Peer(rabbit_broker.url)
    try:
        process.ask("configure", **QUORUM)
        yield process
    finally:
        process.close()


def test_quorum_queues(opened: Opened, quorum_peer: Peer, topic: str) -> None:
    """Calls, fanouts and notifications both ways, with queues that survive a node."""
    transport = opened(**QUORUM)
    exchange = f"{topic}-exchange"
    quorum_peer.ask("serve", topic=topic, server="theirs", exchange=exchange)
    inventory = Inventory("ours")
    client = rpc.Client(transport, Target(**place(topic, exchange=exchange)), timeout=10)
    with rpc.Server(transport, Target(topic=topic, server="ours", exchange=exchange), [inventory]):
        assert {client.call({}, "where") for _ in range(8)} == {"ours", f"{topic}@theirs"}
        target = place(topic, exchange=exchange, server="ours")
        assert quorum_peer.ask("call", target=target, method="where", args={})["result"] == "ours"
        client.fanout({}, "note", text="all")
        assert quorum_peer.expect("noted")["text"] == "all"
        until(lambda: inventory.noted == ["all"], "the fanout here")


@pytest.mark.parametrize("option", ["amqp_durable_queues", "amqp_auto_delete"])
def test_other_options_meet_too(opened: Opened, topic: str, option: str) -> None:
    """With ours on both ends, because each needs a peer of its own; the arguments are those of the tests of values."""
    transport = opened(**{option: True})
    exchange = f"{topic}-exchange"
    endpoint = Collected()
    with (
        rpc.Server(transport, Target(topic=topic, server="one", exchange=exchange), [Inventory("one")]),
        notify.Listener(transport, [Target(topic=f"{topic}-n", exchange=exchange)], [endpoint]),
    ):
        client = rpc.Client(transport, Target(**place(topic, exchange=exchange)), timeout=10)
        assert client.call({}, "where") == "one"
        notify.Notifier(transport, "our.host", topics=[f"{topic}-n"], exchange=exchange).info({}, "event", {})
        until(lambda: len(endpoint.events) == 1, "the notification")


def test_other_options_than_the_other_side(opened: Opened, peer: Peer, topic: str) -> None:
    """One error, with both sets of arguments, and no loop: the predecessor's queue stays as it is."""
    peer.ask("serve", topic=topic, server="one")
    transport = opened(rabbit_quorum_queue=True)
    with pytest.raises(Rejected, match="inequivalent") as refused:
        rpc.Server(transport, Target(topic=topic, server="two"), [Inventory("two")]).start()
    assert "durable" in str(refused.value)
    client = rpc.Client(opened(), Target(**place(topic)), timeout=10)
    assert client.call({}, "where") == f"{topic}@one"


def test_options_of_the_other_wire_are_refused(opened: Opened, rabbit_broker: Any) -> None:
    """An option without effect would be found out when the two sides do not agree."""
    with pytest.raises(ConfigError, match="wire=native"):
        opened(queue_type="quorum")
    with pytest.raises(ConfigError, match="wire=oslo"):
        messaging.open_transport(rabbit_broker.url, rabbit_quorum_queue=True)


def test_dead_letters_need_a_place_of_their_own(opened: Opened, peer: Peer, topic: str) -> None:
    """The predecessor's topology has none: a listener's own `dead_letter=` gets them."""
    transport = opened()
    with pytest.raises(Unsupported):
        notify.DeadLetters(transport, Target(topic=topic))
    letters: list[tuple[str, str]] = []

    class Rejecting:
        @notify.on("*")
        def any(self, event: notify.Event[Any]) -> None:
            raise notify.Reject("never")

    with notify.Listener(
        transport,
        [Target(topic=topic)],
        [Rejecting()],
        dead_letter=lambda event, reason, error: letters.append((event.event_type, reason)),
    ):
        peer.ask("notify", form="messagingv2", topic=topic, level="info", event_type="bad", payload={})
        until(lambda: letters == [("bad", "never")], "the dead letter")
