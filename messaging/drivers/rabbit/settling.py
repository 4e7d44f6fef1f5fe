"""How deliveries are settled: acknowledged, given back, delayed, or buried; and when that may be told.

An acknowledgement is told when the system has taken its bytes, so that nothing is started on the strength of one that
never left. A delay and a dead letter are copies: the broker confirms the copy before the original is acknowledged, so
that at each moment one of the two is there, and a crash between doubles the message instead of losing it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from messaging.drivers.rabbit.lane import DriverCopy
from messaging.drivers.rabbit.properties import ATTEMPT, copied
from messaging.drivers.rabbit.publisher import Publisher
from messaging.drivers.rabbit.subscription import Subscription
from messaging.drivers.rabbit.subscriptions import Subscriptions
from messaging.drivers.rabbit.topology import Topology
from messaging.drivers.stream import Stream
from messaging.errors import ConnectionLost
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, Delivery, Outcome, SourceKind

__all__ = ["Settling"]


class Settling:
    """The settlements of one connection. `news` is what on_settled has to be told now."""

    def __init__(self, subscriptions: Subscriptions, publisher: Publisher, topology: Topology, stream: Stream) -> None:
        self._subscriptions = subscriptions
        self._publisher = publisher
        self._topology = topology
        self._stream = stream
        self.unwritten: deque[tuple[int, Sequence[Delivery]]] = deque()
        """Settlements whose last byte the system may not have taken yet, by the place of that byte."""
        self.news: list[tuple[Sequence[Delivery], Exception | None]] = []
        self.stale = 0

    @property
    def idle(self) -> bool:
        """Whether everything has been written and told."""
        return not self.unwritten and not self.news

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        """Settle deliveries of one source; stale ones are ignored and counted."""
        if not deliveries:
            return
        if deliveries[0].source.kind is SourceKind.REPLY:
            # Answers are acknowledged when they come.
            self._written(deliveries)
            return
        parts: dict[Subscription, list[Delivery]] = {}
        # Almost always one of one subscription; two where a source was given up and taken again.
        for delivery in deliveries:
            found = self._subscriptions.find(delivery)
            if found is None:
                self.stale += 1
            else:
                parts.setdefault(found, []).append(delivery)
        for subscription, mine in parts.items():
            if outcome is Outcome.ACCEPT:
                subscription.accept([delivery.tag for delivery in mine])
                self._written(mine)
            elif outcome is Outcome.REQUEUE and delay <= 0.0:
                subscription.reject([delivery.tag for delivery in mine], True)
                self._written(mine)
            else:
                for delivery in mine:
                    self._copy(subscription, delivery, outcome, delay, reason)

    def _copy(
        self, subscription: Subscription, delivery: Delivery, outcome: Outcome, delay: float, reason: str
    ) -> None:
        queue = subscription.queue_of(delivery)
        if outcome is Outcome.REQUEUE:
            where = self._topology.delayed(delivery.source, queue, delay)
            more = {**where.headers, ATTEMPT: delivery.attempt + 1}
        else:
            dead = self._topology.dead(delivery.source, queue, reason)
            if dead is None:
                subscription.reject([delivery.tag], False)
                self._written([delivery])
                return
            where = dead
            more = {**where.headers, DEAD_REASON: reason, DEAD_ATTEMPT: delivery.attempt}

        def confirmed(error: Exception | None) -> None:
            if error is not None:
                self.news.append(([delivery], error))
            elif subscription.holds(delivery):
                subscription.accept([delivery.tag])
                self._written([delivery])
            else:
                self.news.append(([delivery], ConnectionLost("the delivery went with its channel; its copy is safe")))

        properties = copied(delivery, more, where.address.expires)
        self._publisher.copy(DriverCopy(where.address, properties, delivery.body, confirmed))

    def _written(self, deliveries: Sequence[Delivery]) -> None:
        self.unwritten.append((self._stream.given, deliveries))

    def flushed(self) -> None:
        """The system has taken bytes: tell of what was among them."""
        taken = self._stream.taken
        unwritten = self.unwritten
        while unwritten and unwritten[0][0] <= taken:
            self.news.append((unwritten.popleft()[1], None))

    def lose(self, cause: Exception) -> None:
        """What was not written never will be."""
        lost, self.unwritten = self.unwritten, deque()
        for _, deliveries in lost:
            error = ConnectionLost(f"the connection went before the settlement was written: {cause}")
            self.news.append((deliveries, error))
