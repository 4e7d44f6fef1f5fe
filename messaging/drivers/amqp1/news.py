"""What is to be told at the end of a pump, gathered by the parts of a connection and told in the order in which it is
true.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from messaging.drivers.base import Capabilities, ConnectionEvents, State
from messaging.message import Delivery, SentResult, Source

__all__ = ["News"]


class News:
    """Gathered news. `pending`: there are some."""

    __slots__ = ("_arrived", "_events", "_leaving", "_sent", "_settled", "_steps", "pending", "unwritten")

    def __init__(self, events: ConnectionEvents) -> None:
        self._events = events
        self.pending = False
        self._steps: list[Callable[[], None]] = []
        self._sent: list[SentResult] = []
        self._settled: list[Delivery] = []
        self._arrived: dict[Source, list[Delivery]] = {}
        self.unwritten: list[Delivery] = []
        """Settled, and the settlement is not given to the socket yet."""
        self._leaving: list[tuple[int, list[Delivery]]] = []
        """Settled, by the number of the first of the bytes that their settlements are among."""

    def sent(self, result: SentResult) -> None:
        """A message has got further, or has ended."""
        self._sent.append(result)
        self.pending = True

    def arrived(self, delivery: Delivery) -> None:
        """A message has come."""
        batch = self._arrived.get(delivery.source)
        if batch is None:
            self._arrived[delivery.source] = [delivery]
        else:
            batch.append(delivery)
        self.pending = True

    def leaving(self, start: int) -> None:
        """Settlements are among the bytes that are given to the socket now, the first of which is number `start`."""
        self._leaving.append((start, self.unwritten))
        self.unwritten = []

    def written(self) -> None:
        """Everything has left: what was settled is."""
        if self._leaving or self.unwritten:
            for _, deliveries in self._leaving:
                self._settled += deliveries
            self._settled += self.unwritten
            self._leaving.clear()
            self.unwritten.clear()
            self.pending = True

    def lost(self, taken: int) -> list[Delivery]:
        """The connection went when the system had taken `taken` bytes: return whose settlement has not left.

        One that may have left counts as written. Where it did not arrive after all, the message comes again, and says
        so; were it counted as not written, and had arrived, nobody would have it.
        """
        while self._leaving and self._leaving[-1][0] >= taken:
            self.unwritten = self._leaving.pop()[1] + self.unwritten
        lost, self.unwritten = self.unwritten, []
        self.written()
        return lost

    def state(
        self,
        state: State,
        cause: Exception | None = None,
        retry_in: float | None = None,
        peer: Capabilities | None = None,
    ) -> None:
        """The connection is in another state."""
        self._step(partial(self._events.on_state, state, cause, retry_in, peer))

    def subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        """A subscription has come about, or ended."""
        self._step(partial(self._events.on_subscribed, source, address, error))

    def unsettled(self, deliveries: list[Delivery], error: Exception) -> None:
        """Settlements did not come about."""
        self._step(partial(self._events.on_settled, deliveries, error))

    def _step(self, step: Callable[[], None]) -> None:
        # What was gathered before is told before: an answer must not look as if it came after the loss.
        if self._sent:
            self._steps.append(partial(self._events.on_sent, self._sent))
            self._sent = []
        for source, batch in self._arrived.items():
            self._steps.append(partial(self._events.on_deliveries, source, batch))
        if self._arrived:
            self._arrived = {}
        self._steps.append(step)
        self.pending = True

    def tell(self) -> None:
        """Tell everything; what the events cause is pending again."""
        self.pending = False
        if self._steps:
            steps, self._steps = self._steps, []
            for step in steps:
                step()
        events = self._events
        if self._sent:
            sent, self._sent = self._sent, []
            events.on_sent(sent)
        if self._settled:
            settled, self._settled = self._settled, []
            events.on_settled(settled, None)
        if self._arrived:
            arrived, self._arrived = self._arrived, {}
            for source, batch in arrived.items():
                events.on_deliveries(source, batch)
