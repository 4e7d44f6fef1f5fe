"""What becomes of a settlement whose delivery went with its connection a moment before."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import messaging
from messaging import rpc
from messaging.drivers.base import Role
from messaging.errors import ConnectionLost
from messaging.message import Delivery, Outcome, Outgoing, Route, Source, SourceKind


def test_whoever_waits_for_a_stale_settlement_is_told() -> None:
    """The connection is cut between the delivery and its settlement: the waiter hears that it comes again. For so long
    as somebody waits, a driver can learn it.
    """
    with messaging.open_transport("memory://stale-settlement") as transport:
        reactor = transport.operations(Role.RPC_SERVER).reactor
        source = Source(SourceKind.ANY, "x", "t")
        told: list[Exception | None] = []
        awaited: list[bool] = []
        twice = threading.Event()

        def receive(batch: Sequence[Delivery]) -> None:
            if not told:
                connection: Any = reactor._connection
                connection.hub.faults.disconnect(connection.address)
            reactor.settle(batch, Outcome.ACCEPT, done=settled)
            awaited.append(reactor.awaits_settled())

        def settled(delivery: Delivery, error: Exception | None) -> None:
            told.append(error)
            if len(told) == 2:
                twice.set()

        ready = threading.Event()
        reactor.subscribe(source, 10, receive, lambda address, error: ready.set())
        assert ready.wait(5.0)
        reactor.publish(Outgoing(Route.any("x", "t"), b"body", {}))
        assert twice.wait(5.0)
        assert isinstance(told[0], ConnectionLost)
        assert told[1] is None
        assert awaited == [False, True]
        assert not reactor.awaits_settled()


def test_a_request_that_comes_again_runs() -> None:
    """A request that was taken in hand when its connection went does not hide the one that is delivered again."""
    with (
        messaging.open_transport("memory://comes-again") as serving,
        messaging.open_transport("memory://comes-again") as t,
    ):

        class Service:
            @rpc.expose
            def run(self, ctxt: dict[str, Any], number: int) -> int:
                return number

        server = rpc.Server(serving, messaging.Target(topic="t", server="s"), [Service()])
        server.start()
        reactor = serving.operations(Role.RPC_SERVER).reactor
        connection: Any = reactor._connection
        settle = connection.settle
        cuts = [1]

        def cut_and_settle(*settlement: Any) -> None:
            if cuts:
                cuts.pop()
                connection.hub.faults.disconnect(connection.address)
            settle(*settlement)

        connection.settle = cut_and_settle
        client = rpc.Client(t, messaging.Target(topic="t"), timeout=5.0)
        assert client.call({}, "run", number=7) == 7
        assert server.stop(1.0)
