"""Requests that a broker delivers twice: what at most once can mean there, and what not; and answers to nobody."""

from __future__ import annotations

import threading
from typing import Any

from messaging import rpc, testing
from messaging.message import CORRELATION_ID, Delivery, Source
from messaging.testing.harness import ServedClient
from messaging.wire.native import Kind, Result


class Counting:
    """Counts what it runs; `hold` waits for the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.ran: list[str] = []

    @rpc.expose
    def hold(self, ctxt: dict[str, Any]) -> str:
        self.ran.append("hold")
        self.started.set()
        self.gate.wait(10)
        return "held"

    @rpc.expose(delivery="strict")
    def strict(self, ctxt: dict[str, Any]) -> str:
        self.ran.append("strict")
        return "done"

    @rpc.expose
    def quick(self, ctxt: dict[str, Any]) -> str:
        return "quick"


def _settled(client: ServedClient) -> dict[str, int]:
    """Wait until nothing is in hand, and return the counts of the server."""
    for _ in range(20):
        client.call(None, "quick")
    return client.server.transport.stats()


def test_a_request_that_comes_twice_while_it_runs_is_run_once() -> None:
    """Its message id is known, so the second one is settled and counted; one answer serves both."""
    endpoint = Counting()
    with testing.serve(endpoint) as client:
        with testing.fault(client.transport, "duplicate", count=1):
            call = client.submit(None, "hold")
            assert endpoint.started.wait(5)
            stats = _settled(client)
        endpoint.gate.set()
        assert call.result(5) == "held"
        assert endpoint.ran == ["hold"]
        assert stats["server.duplicates"] == 1


def test_a_strict_method_refuses_what_came_before() -> None:
    """A request that a broker marks as delivered before may have run, so a strict method does not run it."""
    endpoint = Counting()
    with testing.serve(endpoint, slots=1) as client:
        blocker = client.submit(None, "hold")
        assert endpoint.started.wait(5)
        with testing.fault(client.transport, "duplicate", redelivered=True, count=1):
            call = client.submit(None, "strict")
            endpoint.gate.set()
            assert blocker.result(5) == "held"
            assert call.result(5) == "done"
            stats = _settled(client)
        assert endpoint.ran == ["hold", "strict"]
        assert stats["server.failed"] == 1


def test_an_answer_whose_id_is_none_takes_no_other_along() -> None:
    """A list where an id belongs can be looked up nowhere; the answer behind it in the same batch reaches its call."""
    endpoint = Counting()
    with testing.serve(endpoint) as client:
        call = client.submit(None, "hold")
        assert endpoint.started.wait(5)
        session = client._session
        [operation] = session.operations.pending.everything()
        body = session.operations.wire.encode_answer(Result(1, int(Kind.RESULT), 0, "in time", "host-1"), b"")
        ids = (["no", "id"], operation.id)
        session._on_replies([Delivery(Source.reply(), body, {CORRELATION_ID: id}) for id in ids])
        assert call.result(5) == "in time"
        assert client.transport.stats()["call.late_replies"] == 1
        endpoint.gate.set()
