"""What stands between a connection and the reactor that listens to it, so that the reactor can replace it.

The contract lets a connection call its owner's events until it is CLOSED. A connection that is given up before that
must not be heard any more: its states would be taken for those of its successor. A relay costs nothing: it holds the
reactor's own methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from messaging.drivers.base import Capabilities, ConnectionEvents, State
from messaging.message import Delivery, Outgoing, SentResult, Source

__all__ = ["Relay"]


def _ignore(*_news: Any) -> None:
    """Nobody listens any more."""


class Relay:
    """Passes the events of one connection on, until `mute`; see ConnectionEvents."""

    __slots__ = (
        "awaits_settled",
        "closed",
        "on_deliveries",
        "on_peer_lost",
        "on_sent",
        "on_settled",
        "on_state",
        "on_subscribed",
        "on_taken",
    )

    def __init__(self, events: ConnectionEvents) -> None:
        self.closed = False
        """Whether a muted connection has said that it is CLOSED."""
        self.on_state: Callable[[State, Exception | None, float | None, Capabilities | None], None] = events.on_state
        self.on_subscribed: Callable[[Source, str, Exception | None], None] = events.on_subscribed
        self.on_sent: Callable[[Sequence[SentResult]], None] = events.on_sent
        self.on_taken: Callable[[Sequence[Outgoing]], None] = events.on_taken
        self.on_peer_lost: Callable[[str, Exception], None] = events.on_peer_lost
        self.on_settled: Callable[[Sequence[Delivery], Exception | None], None] = events.on_settled
        self.awaits_settled: Callable[[], bool] = events.awaits_settled
        self.on_deliveries: Callable[[Source, Sequence[Delivery]], None] = events.on_deliveries

    def mute(self) -> None:
        """Pass nothing on any more but the news of messages, whose senders wait for them."""
        self.on_state = self._note_closed
        self.on_subscribed = self.on_peer_lost = self.on_settled = self.on_deliveries = _ignore

    def _note_closed(self, state: State, *_more: Any) -> None:
        self.closed = self.closed or state is State.CLOSED
