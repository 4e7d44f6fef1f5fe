"""Callers as users write them, blocking: everything here has to pass mypy --strict, and `assert_type` says as what."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, assert_type

import messaging
from messaging import notify, rpc
from tests.types.service import Inventory, OutOfStock, Reservation


def call() -> None:
    """Every verb of a client."""
    with messaging.open_transport("zmq://") as transport:
        client = rpc.Client(
            transport,
            messaging.Target(topic="inventory", namespace="inventory", version="1.3"),
            exceptions=[OutOfStock],
        )
        assert_type(client.call(None, "reserve", sku="A1", count=2), Any)
        assert_type(client.call({"user": "ann"}, Inventory.reserve, sku="A1", count=2), Reservation)
        assert_type(client.call(None, Inventory.reserve, "A1"), Reservation)
        # A coroutine function's result is what it returns, for whoever calls it from afar.
        assert_type(client.call(None, Inventory.price, sku="A1"), float)
        client.call(None, Inventory.forget, everything=True)
        client.cast(None, "reindex")
        client.cast(None, Inventory.reserve, sku="A1")
        fanout = client.fanout(None, Inventory.forget)
        assert_type(fanout.sent, int | None)
        assert_type(client.submit(None, "reserve", sku="A1"), Future[Any])
        assert_type(client.prepare(server="host-1", timeout=2), rpc.Client)
        assert_type(client.prepare(server="host-1").call(None, Inventory.reserve, sku="A1"), Reservation)
        assert_type(client.can_send_version("1.2"), bool)
        with client.pipeline() as pipeline:
            pipeline.cast(None, "reindex", sku="A1")
        assert_type(pipeline.results(), list[Any])


def fail() -> None:
    """What is known of an error."""
    try:
        call()
    except messaging.DeadlineExceeded as error:
        assert_type(error.phase, str)
    except messaging.RemoteError as error:
        assert_type(error.trace, str)


def told(error: messaging.MessagingError) -> bool:
    """Whether it is safe to try again."""
    return error.delivered is messaging.Delivered.NO and error.retryable


def notified() -> None:
    """Every verb of a notifier."""
    with messaging.open_transport("zmq://") as transport:
        notifier = notify.Notifier(transport, publisher_id="compute.host-1", topics=["notifications"])
        notifier.info(None, "instance.create.end", {"id": 12}, key="12")
        notifier.error({"user": "ann"}, "instance.create.error", {"id": 12})
        assert_type(notifier.submit("info", None, "instance.create.end", {"id": 12}), Future[None])


def tested() -> None:
    """Deadlines in blocks."""
    with messaging.deadline(2.0), messaging.detached():
        call()
