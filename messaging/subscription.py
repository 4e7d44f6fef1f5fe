"""The subscriptions of a connection: what was asked for, and what is so.

Owner only, no threads. What stands above is told of every change; what it raises is logged and harms nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from messaging.drivers.base import Connection
from messaging.errors import ConnectionLost, StateError
from messaging.message import Delivery, Source, SourceKind

__all__ = ["DeliveryHandler", "SubscribedHandler", "Subscription", "Subscriptions"]

_log = logging.getLogger(__name__)

DeliveryHandler = Callable[[Sequence[Delivery]], None]
SubscribedHandler = Callable[[str, Exception | None], None]


class Subscription:
    """What was asked for, and what is so: `ready` follows the driver's on_subscribed."""

    __slots__ = ("address", "on_deliveries", "on_subscribed", "ready", "source", "window")

    def __init__(
        self, source: Source, window: int, on_deliveries: DeliveryHandler, on_subscribed: SubscribedHandler
    ) -> None:
        self.source = source
        self.window = window
        self.on_deliveries = on_deliveries
        self.on_subscribed = on_subscribed
        self.ready = False
        self.address = ""

    def tell(self, address: str, error: Exception | None) -> None:
        """Tell who subscribed."""
        try:
            self.on_subscribed(address, error)
        except Exception:
            _log.exception("the subscriber of %s failed on its news", self.source)


class Subscriptions:
    """All of one connection's."""

    __slots__ = ("_by_source", "_connection", "_refusal", "get")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._by_source: dict[Source, Subscription] = {}
        self._refusal: Exception | None = None
        self.get = self._by_source.get

    def add(self, wanted: Subscription) -> None:
        """Subscribe, unless the source is subscribed already, or the connection was given up before."""
        if self._refusal is not None:
            wanted.tell("", self._refusal)
            return
        if wanted.source in self._by_source:
            wanted.tell("", StateError(f"{wanted.source} is subscribed already on this connection"))
            return
        self._by_source[wanted.source] = wanted
        self._connection.subscribe(wanted.source, wanted.window)

    def change_window(self, source: Source, window: int) -> None:
        """Change how many deliveries may be unsettled."""
        subscription = self._by_source.get(source)
        if subscription is not None and subscription.window != window:
            subscription.window = window
            self._connection.subscribe(source, window)

    def remove(self, source: Source) -> None:
        """Begin to unsubscribe; `changed` ends it."""
        if source in self._by_source:
            self._connection.unsubscribe(source)

    def address_of(self, source: Source) -> str:
        """The address of a source that is ready, or an empty string."""
        subscription = self._by_source.get(source)
        return subscription.address if subscription is not None and subscription.ready else ""

    def changed(self, source: Source, address: str, error: Exception | None) -> None:
        """Take what the driver tells of a source."""
        subscription = self._by_source.get(source)
        if subscription is None:
            return
        subscription.ready = error is None
        subscription.address = address
        if error is not None and not isinstance(error, ConnectionLost):
            del self._by_source[source]
        subscription.tell(address, error)

    def only_replies(self) -> bool:
        """Whether nothing is received but answers."""
        return all(source.kind is SourceKind.REPLY for source in self._by_source)

    def move(self, connection: Connection) -> None:
        """Ask another connection for everything."""
        self._connection = connection
        for subscription in self._by_source.values():
            connection.subscribe(subscription.source, subscription.window)

    def lost(self) -> None:
        """The connection went: nothing is ready until the driver says so again."""
        for subscription in self._by_source.values():
            subscription.ready = False

    def refuse(self, cause: Exception) -> None:
        """Nothing will be ready any more, nor what comes later."""
        self._refusal = cause
        subscriptions = list(self._by_source.values())
        self._by_source.clear()
        for subscription in subscriptions:
            subscription.ready = False
            subscription.tell("", cause)
