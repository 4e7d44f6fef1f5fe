"""A service as its users write it: everything here has to pass mypy --strict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec

import messaging
from messaging import notify, rpc


class OutOfStock(Exception):
    """Declared by the service."""


class Reservation(msgspec.Struct):
    """What reserving gives."""

    sku: str
    count: int


class Inventory:
    """Blocking methods and coroutines, exposed in every way."""

    target = messaging.Target(namespace="inventory", version="1.3")

    @rpc.expose(raises=(OutOfStock,))
    def reserve(self, ctxt: dict[str, Any], sku: str, count: int = 1) -> Reservation:
        """Reserve some."""
        return Reservation(sku, count)

    @rpc.expose
    async def price(self, ctxt: dict[str, Any], sku: str) -> float:
        """Tell the price."""
        return 1.0

    @rpc.expose(delivery="strict")
    def forget(self, ctxt: dict[str, Any], *, everything: bool = False) -> None:
        """Forget it."""
        request: rpc.CurrentRequest = rpc.current()
        left: float = request.deadline.remaining()
        gone: bool = request.cancelled or left <= 0
        headers: Mapping[str, Any] = request.headers
        print(gone, headers)


class Audit:
    """Hears notifications."""

    @notify.on("instance.create.*", level="info")
    def created(self, event: notify.Event[Any]) -> None:
        """Take an event."""
        if event.payload is None:
            raise notify.Reject("empty")
        raise notify.Retry(after=30)


@contextmanager
def traced(request: rpc.CurrentRequest) -> Iterator[None]:
    """Wrap a request of a blocking server."""
    print(request.method)
    yield


@asynccontextmanager
async def traced_too(request: rpc.CurrentRequest) -> AsyncIterator[None]:
    """Wrap a request of an asyncio server."""
    print(request.method)
    yield


def serve() -> bool:
    """Run the service."""
    with messaging.open_transports(messaging.load_config("service.toml")) as transports:
        server = rpc.Server(
            transports.rpc,
            messaging.Target(topic="inventory", server="host-1"),
            [Inventory()],
            around=[traced],
            executor="threads",
            slots=8,
        )
        listener = notify.Listener(
            transports.notify, [messaging.Target(topic="notifications")], [Audit()], pool="billing"
        )
        return messaging.run(server, listener, grace=25)
