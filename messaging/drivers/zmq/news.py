"""What is to be told at the end of a turn, gathered by the parts of a connection and told in one place, in the order
in which it is true.

`pending` is the one flag that the pump looks at: asking ten lists whether they are empty, three times a turn, costs
as much as sending a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from messaging.drivers.base import ConnectionEvents, State
from messaging.message import Delivery, Outgoing, SentResult, Source, Stage

if TYPE_CHECKING:
    from messaging.drivers.zmq.inbox import Subscription

__all__ = ["News"]


class News:
    """Gathered news. `pending` may stay False while `sent` holds that calls were written: that is of use only with
    later news.
    """

    __slots__ = ("_broken", "_lost", "_lost_peers", "_states", "_subscribed", "arrivals", "pending", "sent", "settled")

    def __init__(self) -> None:
        self.pending = False
        self.sent: list[SentResult] = []
        self.settled: list[Delivery] = []
        self.arrivals: list[Subscription] = []
        """Subscriptions to which something came."""
        self._states: list[tuple[State, Exception | None]] = []
        self._subscribed: list[tuple[Source, str, Exception | None]] = []
        self._lost: list[SentResult] = []
        self._lost_peers: list[tuple[str, Exception]] = []
        self._broken: list[tuple[Sequence[Delivery], Exception]] = []

    def ended(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any = None) -> None:
        """A message was taken, or has failed."""
        self.sent.append(SentResult(outgoing, stage, error, taker))
        self.pending = True

    def state(self, state: State, cause: Exception | None = None) -> None:
        """The connection is in another state."""
        self._states.append((state, cause))
        self.pending = True

    def subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        """A subscription has come about, or ended."""
        self._subscribed.append((source, address, error))
        self.pending = True

    def lost(self, results: Sequence[SentResult]) -> None:
        """Messages are in doubt; told after the answers that still came."""
        self._lost += results
        self.pending = True

    def lost_peer(self, taker: str, error: Exception) -> None:
        """Somebody who could have messages of ours is gone."""
        self._lost_peers.append((taker, error))
        self.pending = True

    def broken(self, deliveries: Sequence[Delivery], error: Exception) -> None:
        """Settlements could not be written."""
        self._broken.append((deliveries, error))
        self.pending = True

    def tell(self, events: ConnectionEvents) -> None:
        """Tell everything; what the events cause is pending again."""
        self.pending = False
        if self._states:
            states, self._states = self._states, []
            for state, cause in states:
                events.on_state(state, cause, None, None)
        if self._subscribed:
            subscribed, self._subscribed = self._subscribed, []
            for source, address, error in subscribed:
                events.on_subscribed(source, address, error)
        if self.sent:
            sent, self.sent = self.sent, []
            events.on_sent(sent)
        if self.arrivals:
            arrivals, self.arrivals = self.arrivals, []
            for subscription in arrivals:
                arrived, subscription.arrived = subscription.arrived, []
                events.on_deliveries(subscription.source, arrived)
        if self._lost:
            lost, self._lost = self._lost, []
            events.on_sent(lost)
        if self._lost_peers:
            lost_peers, self._lost_peers = self._lost_peers, []
            for taker, cause in lost_peers:
                events.on_peer_lost(taker, cause)
        if self.settled:
            settled, self.settled = self.settled, []
            events.on_settled(settled, None)
        if self._broken:
            broken, self._broken = self._broken, []
            for deliveries, cause in broken:
                events.on_settled(deliveries, cause)
