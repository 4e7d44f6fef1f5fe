"""The predecessor's exchanges and queues as values: two sides that declare one queue agree in every argument."""

from __future__ import annotations

from typing import Any

import pytest

from messaging.drivers.rabbit.methods import Bind, DeclareExchange, DeclareQueue
from messaging.drivers.rabbit.oslo_topology import OsloTopology
from messaging.drivers.rabbit.refusals import connection_refused
from messaging.drivers.rabbit.topology import Address, Intake
from messaging.errors import ConnectFailed
from messaging.message import Outgoing, Route, Source, SourceKind


def address(topology: OsloTopology, route: Route) -> Address:
    """Where a message of this route goes."""
    return topology.address(Outgoing(route, b"", {}))


def intake(kind: SourceKind, topology: OsloTopology | None = None, **more: str) -> Intake:
    """How a source of exchange X and topic t is read."""
    return (topology or OsloTopology("a1")).intake(Source(kind, "X", "t", **more))


def test_topics_and_servers() -> None:
    """A queue of the topic and one of each server, bound to the exchange by their names."""
    exchange = DeclareExchange("X", "topic", durable=False)
    found = intake(SourceKind.ANY, server="s")
    assert found.methods == (exchange, DeclareQueue("t", durable=False, arguments={}), Bind("t", "X", "t"))
    assert found.queues == ("t",)
    found = intake(SourceKind.ONE, server="s")
    assert found.methods == (exchange, DeclareQueue("t.s", durable=False, arguments={}), Bind("t.s", "X", "t.s"))
    for route, key in ((Route.any("X", "t"), "t"), (Route.one("X", "t", "s"), "t.s")):
        to = address(OsloTopology("a1"), route)
        assert (to.exchange, to.key, to.mandatory, to.needs) == ("X", key, True, (exchange,))


def test_fanouts() -> None:
    """An exchange of the topic alone, which goes with its last queue; a queue of each server, which expires."""
    topology = OsloTopology("a1")
    found = intake(SourceKind.ALL, topology, server="s")
    exchange, queue, binding = found.methods
    assert exchange == DeclareExchange("t_fanout", "fanout", durable=False, auto_delete=True)
    assert isinstance(queue, DeclareQueue)
    assert queue.name.startswith("t_fanout_")
    assert len(queue.name) == len("t_fanout_") + 32
    assert (queue.durable, queue.exclusive, queue.auto_delete) == (False, False, False)
    assert queue.arguments == {"x-expires": 1_800_000}
    assert binding == Bind(queue.name, "t_fanout", "t")
    assert found.temporary == (queue.name,)
    assert intake(SourceKind.ALL, topology, server="other").queues != found.queues
    assert intake(SourceKind.ALL, OsloTopology("a2"), server="s").queues != found.queues
    to = address(topology, Route.all("X", "t"))
    assert (to.exchange, to.key, to.mandatory, to.needs) == ("t_fanout", "", False, (exchange,))


def test_notifications() -> None:
    """The queue of a level, declared by notifiers too; of a named pool one queue with a binding for each level."""
    level = Source(SourceKind.POOLS, "X", "t.info", pool="default")
    declared = (
        DeclareExchange("X", "topic", durable=False),
        DeclareQueue("t.info", durable=False, arguments={}),
        Bind("t.info", "X", "t.info"),
    )
    assert OsloTopology("a1").intake(level).methods == declared
    to = address(OsloTopology("a1"), Route.pools("X", "t.info"))
    assert (to.exchange, to.key, to.needs) == ("X", "t.info", declared)
    pool = OsloTopology("a1").intake(level._replace(pool="billing"))
    assert pool.queues == ("billing",)
    assert pool.methods[2] == Bind("billing", "X", "t.info")


def test_answers() -> None:
    """A queue on the default exchange that outlives its client: servers there retry for a minute when it is gone."""
    found = intake(SourceKind.REPLY)
    (queue,) = found.methods
    assert isinstance(queue, DeclareQueue)
    assert queue.name == found.address
    assert found.address.startswith("reply_")
    assert len(found.address) == len("reply_") + 32
    assert queue.arguments == {"x-expires": 1_800_000}
    assert found.temporary == ()
    to = address(OsloTopology("a1"), Route.reply("reply_1"))
    assert (to.exchange, to.key, to.mandatory, to.needs) == ("", "reply_1", True, ())


@pytest.mark.parametrize(
    ("options", "lasting", "passing"),
    [
        ({"durable": True}, (True, False, {}), (False, {"x-expires": 1_800_000})),
        ({"auto_delete": True}, (False, True, {}), (False, {"x-expires": 1_800_000})),
        ({"quorum": True}, (True, False, {"x-queue-type": "quorum"}), (False, {"x-expires": 1_800_000})),
        (
            {"quorum": True, "transient_quorum": True, "delivery_limit": 3, "ttl": 60},
            (True, False, {"x-queue-type": "quorum", "x-delivery-limit": 3}),
            (True, {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-expires": 60_000}),
        ),
        ({"ttl": 0}, (False, False, {}), (False, {})),
    ],
)
def test_options(options: dict[str, Any], lasting: tuple[Any, ...], passing: tuple[Any, ...]) -> None:
    """What stays, and what belongs to one process, by the options of the predecessor."""
    topology = OsloTopology("a1", **options)
    exchange, queue, _ = intake(SourceKind.ANY, topology, server="s").methods
    assert isinstance(exchange, DeclareExchange)
    assert isinstance(queue, DeclareQueue)
    assert (queue.durable, queue.auto_delete, queue.arguments) == lasting
    assert (exchange.durable, exchange.auto_delete) == lasting[:2]
    fanout, own, _ = intake(SourceKind.ALL, topology, server="s").methods
    assert isinstance(fanout, DeclareExchange)
    assert isinstance(own, DeclareQueue)
    assert (own.durable, own.arguments) == passing
    assert (fanout.durable, fanout.auto_delete) == (passing[0], True)


def test_properties() -> None:
    """Those of the predecessor, and no headers; the expiration of a call is what is left of its time."""
    outgoing = Outgoing(Route.any("X", "t"), b"", {"message-id": "a", "level": "info"})
    found = OsloTopology("a1").stamp(outgoing, "7", "reply_1", 5.0, True)
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")
    assert (found.headers, found.delivery_mode, found.priority, found.expiration) == ({}, 2, 0, "5000")
    assert (found.reply_to, found.correlation_id) == (None, None)
    assert OsloTopology("a1").stamp(outgoing, "7", "", None, True).expiration is None


def test_what_rabbitmq_4_3_refuses_says_the_cure() -> None:
    """It closes the connection for a queue that is neither durable nor exclusive; doing that again is of no use."""
    text = (
        "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, this feature is not permitted"
    )
    refused = connection_refused(541, text, "host:5672", "guest", True)
    assert isinstance(refused, ConnectFailed)
    assert not refused.retryable
    for cure in ("rabbit_quorum_queue=yes", "rabbit_transient_quorum_queue=yes", "deprecated_features.permit"):
        assert cure in str(refused)
