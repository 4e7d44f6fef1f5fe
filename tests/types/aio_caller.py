"""The same for asyncio: only the import, `await` and `async with` change."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

import messaging
from messaging.aio import notify, open_transport, rpc
from tests.types.service import Audit, Inventory, Reservation, traced_too


async def call() -> None:
    """Every verb of a client."""
    async with open_transport("zmq://") as transport:
        client = rpc.Client(transport, messaging.Target(topic="inventory"))
        assert_type(await client.call(None, "reserve", sku="A1", count=2), Any)
        assert_type(await client.call(None, Inventory.reserve, sku="A1", count=2), Reservation)
        assert_type(await client.call(None, Inventory.price, sku="A1"), float)
        await client.cast(None, Inventory.reserve, sku="A1")
        assert_type((await client.fanout(None, "reload")).failed, int | None)
        assert_type(client.submit(None, "reserve", sku="A1"), asyncio.Task[Any])
        assert_type(client.prepare(timeout=2), rpc.Client)
        async with client.pipeline() as pipeline:
            await pipeline.call(None, "reserve", sku="A1")
        assert_type(pipeline.results(), list[Any])
        notifier = notify.Notifier(transport, publisher_id="compute.host-1", topics=["notifications"])
        await notifier.info(None, "instance.create.end", {"id": 12})


async def serve() -> None:
    """A server and a listener."""
    async with (
        open_transport("zmq://") as transport,
        rpc.Server(
            transport, messaging.Target(topic="inventory", server="host-1"), [Inventory()], around=[traced_too]
        ) as server,
        notify.Listener(transport, [messaging.Target(topic="notifications")], [Audit()]),
    ):
        await server.wait()
