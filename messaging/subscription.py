"""One subscription of a connection: what was asked for, and what is so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from messaging.message import Delivery, Source

__all__ = ["DeliveryHandler", "SubscribedHandler", "Subscription"]

DeliveryHandler = Callable[[Sequence[Delivery]], None]
SubscribedHandler = Callable[[str, Exception | None], None]


class Subscription:
    """What was asked for, and what is so: `ready` follows the driver's on_subscribed."""

    __slots__ = ("address", "error", "on_deliveries", "on_subscribed", "ready", "source", "window")

    def __init__(
        self, source: Source, window: int, on_deliveries: DeliveryHandler, on_subscribed: SubscribedHandler
    ) -> None:
        self.source = source
        self.window = window
        self.on_deliveries = on_deliveries
        self.on_subscribed = on_subscribed
        self.ready = False
        self.address = ""
        self.error: Exception | None = None
