"""Who wants to know when a delivery's settlement was written: the few that start nothing before.

It knows no threads: everything is called by the connection's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from messaging.drivers.base import Connection
from messaging.errors import ConnectionLost
from messaging.message import Delivery, Outcome

__all__ = ["Settlements", "Told"]

Told = Callable[[Delivery, Exception | None], None]


class Settlements:
    """The settlements of one connection that somebody waits for."""

    __slots__ = ("_shield", "_waiting")

    def __init__(self, shield: Callable[..., None]) -> None:
        self._shield = shield
        self._waiting: dict[int, Told] = {}

    def settle(
        self,
        connection: Connection,
        deliveries: Sequence[Delivery],
        outcome: Outcome,
        delay: float,
        reason: str,
        done: Told | None,
    ) -> None:
        """Settle, and have `done` called for each, once."""
        if done is None:
            connection.settle(deliveries, outcome, delay, reason)
            return
        for delivery in deliveries:
            self._waiting[id(delivery)] = done
        connection.settle(deliveries, outcome, delay, reason)
        # A driver ignores the settlement of what went with its connection; whoever waits for it has to know.
        stale = [delivery for delivery in deliveries if delivery.stale]
        if stale:
            self.told(stale, ConnectionLost("the delivery went with its connection, so it comes again"))

    def told(self, deliveries: Sequence[Delivery], error: Exception | None) -> None:
        """The driver says what became of these."""
        for delivery in deliveries:
            done = self._waiting.pop(id(delivery), None)
            if done is not None:
                self._shield("the receiver of a message failed on its settlement", done, delivery, error)

    def __bool__(self) -> bool:
        return bool(self._waiting)
