"""What the patterns do differently where a wire keeps ids inside, repeats messages and says nothing of acceptance; on a
memory hub, so that losses can be had at will. The wire itself is proved elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import messaging
from messaging import Delivered, ServerLost, Target, rpc, testing
from messaging.wire.oslo import OsloWire


class Counting:
    def __init__(self) -> None:
        self.runs = 0

    @rpc.expose
    def count(self, ctxt: Any) -> int:
        self.runs += 1
        return self.runs


@pytest.fixture
def transport() -> Iterator[messaging.Transport]:
    """A hub of this test alone."""
    with messaging.open_transport(f"memory://wire-{time.monotonic_ns()}") as opened:
        opened.wire = OsloWire()
        yield opened


def test_an_idempotent_call_is_answered_though_its_first_answer_was_lost(transport: messaging.Transport) -> None:
    """What is sent once more at the caller's wish is no repetition for the server to drop; without that wish, the
    caller is told that nobody knows.
    """
    endpoint = Counting()
    with rpc.Server(transport, Target(topic="t", server="a"), [endpoint]):
        client = rpc.Client(transport, Target(topic="t"), timeout=15).prepare(call_monitor_timeout=2)
        with testing.fault(transport, "lose_reply", count=1):
            with pytest.raises(ServerLost) as lost:
                client.call({}, "count")
        assert lost.value.delivered is Delivered.MAYBE
        with testing.fault(transport, "lose_reply", count=1):
            assert client.prepare(idempotent=True).call({}, "count") == 3
    assert transport.stats()["server.duplicates"] == 0
