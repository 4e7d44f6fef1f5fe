"""All sources of a connection: what is wanted, what is so, and the news of it.

It starts every wanted source when a connection is there, and again after whatever failed; keeps bindings and idle
queues alive by declaring them again from time to time, because nobody is told when a binding goes; and removes the
queues of sources that are unsubscribed for good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from messaging.backoff import Backoff
from messaging.drivers.rabbit.channels import Channels
from messaging.drivers.rabbit.declarations import Declarations
from messaging.drivers.rabbit.methods import Method
from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.subscription import Phase, Subscription
from messaging.drivers.rabbit.topology import Topology
from messaging.errors import Cancelled
from messaging.message import Delivery, Source, SourceKind

__all__ = ["Subscriptions"]

_RENEW = 5.0
"""Seconds between two declarations of what may have gone without a word, and between two looks at answers."""


class Subscriptions:
    """The sources of one connection, over all its lives. The connection takes `batches` and the news at the end of a
    pump.
    """

    def __init__(
        self,
        channels: Channels,
        declarations: Declarations,
        topology: Topology,
        *,
        declare: bool,
        clock: Callable[[], float],
        random: Callable[[], float],
        direct_returned: Callable[[str, Properties], None],
    ) -> None:
        self._channels = channels
        self._declarations = declarations
        self._topology = topology
        self.declare = declare
        self.clock = clock
        self._random = random
        self.direct_returned = direct_returned
        self._by_source: dict[Source, Subscription] = {}
        self.answers: Subscription | None = None
        """The source of answers, while it is wanted."""
        self._by_generation: dict[int, Subscription] = {}
        self._lingering: set[Subscription] = set()
        self._generation = 0
        self._tag = 0
        self._renew_at = math.inf
        self.news: list[tuple[Source, str, Exception | None]] = []
        """What on_subscribed has to be told, in order."""
        self.batches: dict[Subscription, list[Delivery]] = {}
        """What on_deliveries has to be told."""
        self.undecodable = 0
        self.parting = False
        self.resubscribed = 0

    # What is wanted

    def subscribe(self, source: Source, window: int) -> None:
        """Want a source, or another window of it."""
        found = self._by_source.get(source)
        if found is not None:
            found.set_window(window)
            return
        backoff = Backoff(source=self._random)
        found = Subscription(self, self._channels, self._topology, source, window, backoff)
        self._by_source[source] = found
        if source.kind is SourceKind.REPLY:
            self.answers = found
        if self._channels.alive:
            found.start()

    def unsubscribe(self, source: Source) -> None:
        """Want it no more."""
        found = self._by_source.pop(source, None)
        if found is None:
            self.news.append((source, "", Cancelled(f"{source} was not subscribed")))
            return
        self._forget(found)
        self._lingering.add(found)
        found.leave()

    def find(self, delivery: Delivery) -> Subscription | None:
        """The subscription that a delivery belongs to; None: it is stale."""
        found = self._by_generation.get(delivery.generation)
        return found if found is not None and found.holds(delivery) else None

    # What is so

    @property
    def complete(self) -> bool:
        """Whether every wanted source is there."""
        return all(found.phase in (Phase.READY, Phase.CHANGING) for found in self._by_source.values())

    @property
    def due(self) -> float:
        """When `step` is to be called next."""
        due = self._renew_at
        if self._channels.alive:
            for found in self._by_source.values():
                if found.phase is Phase.IDLE and found.retry_at < due:
                    due = found.retry_at
        return due

    def step(self, now: float) -> None:
        """Begin again what failed, and renew what may have gone."""
        if not self._channels.alive:
            return
        for found in list(self._by_source.values()):
            if found.phase is Phase.IDLE and found.retry_at <= now:
                self.resubscribed += 1
                found.start()
        if now >= self._renew_at:
            self._renew(now)

    def _renew(self, now: float) -> None:
        self._renew_at = now + _RENEW
        if self.answers is not None:
            # A broker closes the channel of whoever keeps a message for half an hour.
            self.answers.acknowledge_answers()
        for found in self._by_source.values():
            if found.renews and self.declare:
                # Whatever comes of it: a refusal is told when the source is next begun.
                self._declarations.run(found.intake.methods, _whatever)

    def begin(self, now: float) -> None:
        """A connection is there."""
        # Drawn by lot, so that the services of one machine do not all declare at once.
        self._renew_at = now + _RENEW * (0.5 + 0.5 * self._random())
        for found in list(self._by_source.values()):
            found.start()

    def lose(self) -> None:
        """It is gone."""
        self._renew_at = math.inf
        for found in [*self._by_source.values(), *self._lingering]:
            found.lose()
        self._by_generation.clear()

    def part(self) -> None:
        """The connection is about to be closed: what is deleted from now on is deleted by us."""
        self.parting = True

    def own_queues(self) -> Iterator[Method]:
        """What deletes the queues that nobody else can use, when the connection is closed."""
        for found in self._by_source.values():
            if found.source.kind in (SourceKind.REPLY, SourceKind.ALL):
                yield from found.deletions()

    # What subscriptions tell

    def next_generation(self, subscription: Subscription) -> int:
        """Number a generation; numbers are never used twice."""
        self._by_generation.pop(subscription.generation, None)
        self._generation += 1
        self._by_generation[self._generation] = subscription
        return self._generation

    def next_tag(self) -> int:
        """Number a consumer."""
        self._tag += 1
        return self._tag

    def ready(self, subscription: Subscription) -> None:
        """It receives."""
        self.news.append((subscription.source, subscription.intake.address, None))
        subscription.restored()

    def failed(self, subscription: Subscription, error: Exception) -> None:
        """It receives no more, and tries again."""
        self.news.append((subscription.source, "", error))

    def refused(self, subscription: Subscription, error: Exception) -> None:
        """It never will."""
        if self._by_source.get(subscription.source) is subscription:
            del self._by_source[subscription.source]
            self._forget(subscription)
        self._by_generation.pop(subscription.generation, None)
        self.news.append((subscription.source, "", error))

    def _forget(self, subscription: Subscription) -> None:
        if self.answers is subscription:
            self.answers = None

    def left(self, subscription: Subscription, error: Exception) -> None:
        """It was unsubscribed."""
        self.news.append((subscription.source, "", error))

    def over(self, subscription: Subscription) -> None:
        """Nothing of it is left, so its queues may go, if nobody else is there and nothing is in them."""
        self._lingering.discard(subscription)
        self._by_generation.pop(subscription.generation, None)
        if self._channels.alive and self.declare:
            for method in subscription.deletions():
                self._declarations.run((method,), _whatever)

    def open_batch(self, subscription: Subscription) -> list[Delivery]:
        """Begin what one pump has for a source."""
        batch = self.batches[subscription] = []
        return batch

    def withdraw_batch(self, subscription: Subscription) -> None:
        """Nobody shall see it any more."""
        self.batches.pop(subscription, None)


def _whatever(_error: Exception | None) -> None:
    """For what is done to be tidy: the queue may be in use, or gone."""
