"""Who wants to know when a delivery's settlement was written: the few that start nothing before.

It knows no threads: everything is called by the connection's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from messaging.errors import ConnectionLost
from messaging.message import Delivery

__all__ = ["Settlements", "Told"]

Told = Callable[[Delivery, Exception | None], None]


class Settlements:
    """The settlements of one connection that somebody waits for."""

    __slots__ = ("_shield", "_waiting")

    def __init__(self, shield: Callable[..., None]) -> None:
        self._shield = shield
        self._waiting: dict[int, Told] = {}

    def expect(self, deliveries: Sequence[Delivery], done: Told) -> None:
        """Have `done` called for each, once."""
        for delivery in deliveries:
            self._waiting[id(delivery)] = done

    def tell_stale(self, deliveries: Sequence[Delivery]) -> None:
        """A driver ignores the settlement of what went with its connection; whoever waits for it has to know."""
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
