"""What a server keeps of the answers that it has given."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.drivers.base import Role
from messaging.message import Outgoing

_CALLS = 6_000
_KEPT = 2_000


class Echo:
    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value."""
        return value


@pytest.mark.parametrize("scheme", ["rabbit", "kombu"])
def test_answers_do_not_pile_up(scheme: str, rabbit_broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on RabbitMQ forgets its answers: of thousands a bounded number is left."""
    url = rabbit_broker.url_for(scheme)
    target = Target(topic=f"answers-{scheme}", server="one")
    given = 0
    before = sys.getrefcount(Outgoing)
    with messaging.open_transport(url) as serving, messaging.open_transport(url) as calling:
        reactor = serving.operations(Role.RPC_SERVER).reactor
        publish = reactor.publish

        def noted(outgoing: Outgoing) -> None:
            nonlocal given
            given += 1
            publish(outgoing)

        monkeypatch.setattr(reactor, "publish", noted)
        with rpc.Server(serving, target, [Echo()]):
            client = rpc.Client(calling, target, timeout=30)
            for start in range(0, _CALLS, 100):
                futures = [client.submit(None, "echo", value=number) for number in range(start, start + 100)]
                assert [future.result() for future in futures] == list(range(start, start + 100))
            gc.collect()
            assert given >= _CALLS
            # Each message refers to its class.
            assert sys.getrefcount(Outgoing) - before < _KEPT
