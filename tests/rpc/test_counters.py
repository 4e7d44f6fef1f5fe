"""The counters of a transport: each operation that was sent ends in exactly one outcome."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.counters import OUTCOMES
from messaging.errors import MessagingError


class Endpoint:
    """Answers, fails, and takes its time."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: Any = None) -> Any:
        return value

    @rpc.expose
    def fail(self, ctxt: dict[str, Any]) -> None:
        raise ValueError("as told")

    @rpc.expose
    def hold(self, ctxt: dict[str, Any]) -> None:
        self.gate.wait(10)


def _balance(stats: dict[str, int], kind: str) -> tuple[int, int]:
    ended = sum(stats.get(f"{kind}.{outcome}", 0) for outcome in OUTCOMES)
    return stats.get(f"{kind}.sent", 0), ended + stats.get(f"{kind}.in_flight", 0)


@pytest.mark.parametrize("transport_kind", ["memory", "zmq"])
def test_what_was_sent_is_what_has_ended_or_is_under_way(transport_kind: str, tmp_path: Any) -> None:
    """After answers, failures, refusals, deadlines, cancels and a close, from eight threads, the sums are equal."""
    endpoint = Endpoint()
    url = "memory://" if transport_kind == "memory" else f"zmq+local://{tmp_path}"
    transport = messaging.open_transport(url)
    server = rpc.Server(transport, Target(topic="counted", server="host-1"), [endpoint], slots=16)
    server.start()
    client = rpc.Client(transport, Target(topic="counted"), timeout=10)

    def work() -> None:
        for _ in range(20):
            client.call(None, "echo", value=1)
            client.cast(None, "echo")
            client.fanout(None, "echo")
            for attempt in (
                lambda: client.call(None, "fail"),
                lambda: client.call(None, "unknown"),
                lambda: client.prepare(topic="nobody").call(None, "echo"),
                lambda: client.prepare(topic="nobody").cast(None, "echo"),
            ):
                with pytest.raises(MessagingError):
                    attempt()
        with pytest.raises(messaging.DeadlineExceeded):
            client.prepare(timeout=0.1).call(None, "hold")
        client.submit(None, "hold").cancel()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    open_calls = [client.submit(None, "hold") for _ in range(3)]
    stats = transport.stats()
    assert stats["call.in_flight"] == 3
    for kind in ("call", "cast", "fanout"):
        sent, accounted = _balance(stats, kind)
        assert sent == accounted, stats
    assert (stats["call.expired"], stats["call.cancelled"], stats["call.unroutable"]) == (8, 8, 160)
    transport.close(0.2)
    endpoint.gate.set()
    server.stop(1)
    for call in open_calls:
        assert isinstance(call.exception(5), messaging.Closed)
    stats = transport.stats()
    sent, accounted = _balance(stats, "call")
    assert sent == accounted
    assert stats["call.closed"] == 3
