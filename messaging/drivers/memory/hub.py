"""The hub: where messages go, who consumes, and what a settlement does in memory://, as a broker would have it.

It is the wire of this driver, so it holds the only lock that a driver may have. It moves bytes: headers are copied on
the way in and on the way out, and times travel as what is left of them. It has no thread: what is due later is done by
whichever connection pumps next. It knows no events and no states of a connection; those are in connection.py.

Everything below is called with `lock` held.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from messaging.deadline import Clock
from messaging.drivers.memory.faults import Faults
from messaging.drivers.memory.link import Link
from messaging.drivers.memory.queue import Message, Queue, Subscription
from messaging.drivers.outbox import in_doubt
from messaging.errors import NoRoute, Overloaded
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, Delivery, Outcome, Route, RouteKind, Source, SourceKind

__all__ = ["Hub"]

# A member of an enumeration costs 70 ns to look up, as much as a call; these are looked at for each message.
_ANY = SourceKind.ANY
_REPLIES = SourceKind.REPLY
_TO_ANY = RouteKind.ANY
_TO_ADDRESS = RouteKind.REPLY
_REQUEUE = Outcome.REQUEUE
_REJECT = Outcome.REJECT


class Hub:
    """All queues of one name. `lock` guards everything in here."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.lock = threading.Lock()
        self.users = 0
        """Connections that are not closed; for the registry of hubs."""
        self.links: dict[str, Link] = {}
        """Every connection that is not closed, by its address: a reply finds it even while it is cut off."""
        self.faults = Faults(self)
        self.due = math.inf
        """When the next timer is due."""
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_ids = itertools.count()
        self._queues: dict[tuple[SourceKind, str, str, str, str], Queue] = {}
        """By Source; a plain tuple finds them too and costs a tenth."""
        self._fanouts: dict[tuple[str, str], list[Subscription]] = {}
        self._pools: dict[tuple[str, str], dict[str, Queue]] = {}
        self._dead_letters = 0
        self._dropped = 0
        self._expired = 0

    @property
    def title(self) -> str:
        """How people know this hub."""
        return f"memory://{self.name}"

    def counts(self) -> dict[str, int]:
        """What became of messages that nobody settled.

        dropped: by a reject without dead letters, by a full queue of dead letters, or together with a fanout's
        consumer.
        """
        queues = [*self._queues.values(), *(queue for pools in self._pools.values() for queue in pools.values())]
        expired = self._expired + sum(queue.expired for queue in queues)
        return {"dead_letters": self._dead_letters, "dropped": self._dropped, "expired": expired}

    # Messages on their way in

    def accept(self, route: Route, message: Message, store: float, limit: int) -> Any:
        """Take a message; returns the taker that its sender is told.

        Raises NoRoute or Overloaded, and then has taken nothing.
        """
        kind = route.kind
        if kind is _TO_ANY:
            queue = self._queues.get((_ANY, route.exchange, route.topic, "", ""))
            if queue is None or not queue.consumers:
                raise NoRoute(f"no server of {_name(route)} on {self.title}")
        elif kind is _TO_ADDRESS:
            queue = self._holder(route.address)
        elif kind is RouteKind.ONE:
            queue = self._mailbox(route, message, store)
        elif kind is RouteKind.ALL:
            return self._accept_for_all(route, message, limit)
        else:
            self._accept_for_pools(route, message, limit)
            return None
        if queue.backlog:
            queue.make_room(limit)
        self._put(queue, message)
        if store:
            self._tidy(queue)
        return None

    def _put(self, queue: Queue, message: Message) -> None:
        if self.faults.active:
            self.faults.apply(queue, message)
        else:
            queue.append(message)

    def _holder(self, address: str) -> Queue:
        link = self.links.get(address)
        # While its connection is away an address stays valid: the answers wait for it.
        if link is None or (link.attached and not link.replies.consumers):
            raise NoRoute(f"nobody holds the address {address!r} on {self.title}")
        return link.replies

    def _mailbox(self, route: Route, message: Message, store: float) -> Queue:
        source = Source(SourceKind.ONE, route.exchange, route.topic, route.server)
        queue = self._queues.get(source)
        if queue is not None and queue.consumers:
            return queue
        if not store:
            raise NoRoute(f"no server {route.server!r} of {_name(route)} on {self.title}")
        message.expires = min(message.expires, self.clock() + store)
        if queue is None:
            queue = self._queues[source] = Queue(source, self.clock)
        return queue

    def _accept_for_all(self, route: Route, message: Message, limit: int) -> tuple[int, int]:
        sent = failed = 0
        for subscription in self._fanouts.get((route.exchange, route.topic), ()):
            try:
                subscription.queue.make_room(limit)
            except Overloaded:
                failed += 1
            else:
                self._put(subscription.queue, message.copy())
                sent += 1
        return sent, failed

    def _accept_for_pools(self, route: Route, message: Message, limit: int) -> None:
        pools = self._pools.get((route.exchange, route.topic))
        if not pools:
            raise NoRoute(f"no pool has ever listened to {_name(route)} on {self.title}")
        # All or none: a sender that is refused sends again, and no pool shall get it twice by that.
        for queue in pools.values():
            queue.make_room(limit)
        for queue in pools.values():
            self._put(queue, message.copy())

    # Consumers

    def subscribe(self, link: Link, source: Source, window: int, generation: int) -> None:
        """Add a consumer, or change its window."""
        subscription = link.subscriptions.get(source)
        if subscription is None:
            queue = self._queue_of(link, source)
            subscription = Subscription(link, source, queue, generation)
            link.subscriptions[source] = subscription
            queue.consumers.append(subscription)
            if source.kind is SourceKind.ALL:
                self._fanouts.setdefault((source.exchange, source.topic), []).append(subscription)
        subscription.window = window
        subscription.queue.feed()

    def _queue_of(self, link: Link, source: Source) -> Queue:
        kind, exchange, topic, server, pool = source
        if kind is SourceKind.REPLY:
            return link.replies
        if kind is SourceKind.ALL:
            return Queue(source, self.clock)
        if kind is SourceKind.POOLS:
            pools = self._pools.setdefault((exchange, topic), {})
            if pool not in pools:
                pools[pool] = Queue(source, self.clock)
            return pools[pool]
        if kind is SourceKind.ANY:
            return self._declare(Source(kind, exchange, topic))
        if kind is SourceKind.ONE:
            return self._declare(Source(kind, exchange, topic, server))
        return self._declare(Source(kind, exchange, topic, "", pool))

    def _declare(self, source: Source) -> Queue:
        queue = self._queues.get(source)
        if queue is None:
            queue = self._queues[source] = Queue(source, self.clock)
        return queue

    def cancel(self, link: Link, source: Source) -> None:
        """Remove a consumer. What it has picked up stays its own until it is settled; the rest goes back."""
        subscription = link.subscriptions.pop(source, None)
        if subscription is not None:
            self._leave(subscription)
            if subscription.unsettled:
                link.lingering.add(subscription)
            self._tidy(subscription.queue)

    def _leave(self, subscription: Subscription) -> None:
        queue = subscription.queue
        source = subscription.source
        subscription.cancelled = True
        queue.consumers.remove(subscription)
        ready = list(subscription.ready)
        subscription.ready.clear()
        if source.kind is SourceKind.ALL:
            servers = self._fanouts[source.exchange, source.topic]
            servers.remove(subscription)
            if not servers:
                del self._fanouts[source.exchange, source.topic]
            self._dropped += len(ready) + len(queue.backlog)
            self._expired += queue.expired
            queue.backlog.clear()
        else:
            queue.give_back(ready)

    def _tidy(self, queue: Queue) -> None:
        """Forget the queue of a server that is of no use any more; those of pools and dead letters are kept for
        good.
        """
        if queue.consumers or queue.source.kind not in (SourceKind.ANY, SourceKind.ONE):
            return
        if queue.idle:
            self._expired += queue.expired
            queue.expired = 0
            self._queues.pop(queue.source, None)
        elif queue.earliest < queue.sweep_due:
            # Nobody may ever come for what is in it, and then nobody would see that its time is over.
            queue.sweep_due = queue.earliest
            self.schedule(queue.earliest, partial(self._sweep, queue))

    def _sweep(self, queue: Queue) -> None:
        queue.sweep()
        queue.sweep_due = math.inf
        self._tidy(queue)

    def pick_up(self, link: Link, most: int) -> list[tuple[Source, list[Delivery]]]:
        """Turn what was handed to a connection into deliveries, at most `most` of each subscription."""
        batches = []
        hot, link.hot = link.hot, []
        for subscription in hot:
            if not subscription.ready:
                continue
            batch: list[Delivery] = []
            self._expired += subscription.pick_up(batch, most, self.clock)
            if subscription.ready:
                link.hot.append(subscription)
            # What expired, and answers, have left room.
            if subscription.queue.backlog:
                subscription.queue.feed()
            if batch:
                batches.append((subscription.source, batch))
        return batches

    def settle(
        self, link: Link, deliveries: Iterable[Delivery], outcome: Outcome, delay: float, reason: str
    ) -> list[Delivery]:
        """Settle deliveries; returns those that were not stale."""
        settled: list[Delivery] = []
        returned: dict[Queue, list[Message]] = {}
        queues: set[Queue] = set()
        for delivery in deliveries:
            if delivery.source.kind is _REPLIES:
                settled.append(delivery)
                continue
            subscription = _consumer_of(link, delivery)
            if subscription is None:
                continue
            message: Message = delivery.tag
            delivery.tag = None
            del subscription.unsettled[message]
            queue = subscription.queue
            queue.out -= 1
            queues.add(queue)
            settled.append(delivery)
            if outcome is _REQUEUE:
                message.attempt += 1
                message.redelivered = True
                returned.setdefault(queue, []).append(message)
            elif outcome is _REJECT:
                self._reject(subscription, message, reason)
            if subscription.cancelled and not subscription.unsettled:
                link.lingering.discard(subscription)
        for queue, messages in returned.items():
            self._requeue(queue, messages, delay)
        for queue in queues:
            queue.feed()
            self._tidy(queue)
        return settled

    def _requeue(self, queue: Queue, messages: list[Message], delay: float) -> None:
        if queue.source.kind is SourceKind.ALL and not queue.consumers:
            self._dropped += len(messages)
        elif delay > 0.0:
            queue.out += len(messages)
            self.schedule(self.clock() + delay, partial(self._come_back, queue, messages))
        else:
            queue.give_back(messages)

    def _come_back(self, queue: Queue, messages: list[Message]) -> None:
        queue.out -= len(messages)
        for message in messages:
            queue.append(message)
        self._tidy(queue)

    def _reject(self, subscription: Subscription, message: Message, reason: str) -> None:
        kind, exchange, topic, _, pool = subscription.source
        if kind in (SourceKind.ALL, SourceKind.DEAD):
            self._dropped += 1
            return
        queue = self._declare(Source(SourceKind.DEAD, exchange, topic, "", pool))
        if len(queue.backlog) >= subscription.link.max_queue:
            # The oldest dead letter is the one that somebody has had the longest time to read.
            queue.backlog.popleft()
            self._dropped += 1
        self._dead_letters += 1
        headers = {**message.headers, DEAD_REASON: reason, DEAD_ATTEMPT: message.attempt}
        queue.append(Message(message.body, headers, message.reply_to, message.sent_by))

    # Connections

    def attach(self, link: Link) -> None:
        """Connect."""
        self.links[link.address] = link
        link.attached = link.open = True
        link.cut_by = None

    def cut(self, link: Link, cause: Exception) -> None:
        """Drop a connection: everything that it has not settled comes again, elsewhere or to its next generation."""
        if not link.attached:
            return
        link.call()
        link.attached = link.open = link.held = link.stalled = False
        link.cut_by = cause
        link.answers += [in_doubt(outgoing, cause) for outgoing in link.unprocessed if outgoing.confirm]
        link.answers += [in_doubt(result.outgoing, cause) for result in link.unconfirmed]
        link.unprocessed = []
        link.unconfirmed = []
        subscriptions = [*link.subscriptions.values(), *link.lingering]
        link.subscriptions = {}
        link.lingering = set()
        link.hot = []
        for subscription in subscriptions:
            self._lose(subscription)

    def _lose(self, subscription: Subscription) -> None:
        queue = subscription.queue
        kind = queue.source.kind
        for delivery in subscription.unsettled.values():
            delivery.stale = True
        lost = list(subscription.unsettled)
        subscription.unsettled.clear()
        returned = len(lost)
        if kind is not SourceKind.REPLY and kind is not SourceKind.ALL:
            # A broker cannot know which of those that it has written were read.
            lost += subscription.ready
            subscription.ready.clear()
            for message in lost:
                message.attempt += 1
                message.redelivered = True
        if not subscription.cancelled:
            self._leave(subscription)
        queue.out -= returned
        if kind is SourceKind.ALL:
            self._dropped += len(lost)
        else:
            queue.give_back(lost)
            self._tidy(queue)

    def detach(self, link: Link, cause: Exception) -> None:
        """Close a connection for good: its address is nobody's any more."""
        self.cut(link, cause)
        link.cut_by = None
        self.links.pop(link.address, None)
        # It may have been the one that would have looked at the next timer.
        self.call_all()

    def call_all(self) -> None:
        """Make every connection look."""
        for link in self.links.values():
            link.call()

    # Time

    def schedule(self, due: float, action: Callable[[], None]) -> None:
        """Do something at a time on the clock, or when a connection looks after that."""
        heapq.heappush(self._timers, (due, next(self._timer_ids), action))
        self.due = self._timers[0][0]

    def run_timers(self, now: float) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        self.due = self._timers[0][0] if self._timers else math.inf


def _consumer_of(link: Link, delivery: Delivery) -> Subscription | None:
    """Find the subscription that a delivery belongs to; None: it is stale, or was settled."""
    message = delivery.tag
    if delivery.stale or message is None:
        return None
    subscription = link.subscriptions.get(delivery.source)
    if subscription is not None and message in subscription.unsettled:
        return subscription
    return next((lingering for lingering in link.lingering if message in lingering.unsettled), None)


def _name(route: Route) -> str:
    return f"{route.exchange}/{route.topic}" if route.exchange else repr(route.topic)
