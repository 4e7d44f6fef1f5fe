"""What a server keeps of the answers that it has given."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.message import Outgoing

_CALLS = 6_000
_KEPT = 3_000


class Echo:
    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value."""
        return value


@pytest.mark.parametrize("scheme", ["rabbit", "kombu"])
def test_answers_do_not_pile_up(scheme: str, rabbit_broker: Any) -> None:
    """A server on RabbitMQ forgets its answers: after thousands of calls a bounded number of messages is left."""
    url = rabbit_broker.url_for(scheme)
    target = Target(topic=f"answers-{scheme}", server="one")
    with messaging.open_transport(url) as serving, messaging.open_transport(url) as calling:
        with rpc.Server(serving, target, [Echo()]):
            client = rpc.Client(calling, target, timeout=30)
            for start in range(0, _CALLS, 100):
                futures = [client.submit(None, "echo", value=number) for number in range(start, start + 100)]
                assert [future.result() for future in futures] == list(range(start, start + 100))
            gc.collect()
            assert sum(isinstance(each, Outgoing) for each in gc.get_objects()) < _KEPT
