"""The hub: exchanges, queues, windows and settlements of memory://, as a broker would keep them.

It is the wire of this driver, so it holds the only lock that a driver may have. It moves bytes: headers are copied on
the way in and on the way out, and times travel as what is left of them. It has no thread: what is due later is done by
whichever connection pumps next. It knows no events and no states of a connection; those are in connection.py.

Everything below is called with `lock` held, unless it says otherwise. The order of the steps where a message changes
hands is such that an exception from a signal handler (Ctrl-C in a thread that publishes) loses at most that thread's
own message.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from messaging.deadline import Clock
from messaging.drivers.memory.faults import Faults
from messaging.drivers.memory.link import Link, Message, Queue, Subscription
from messaging.drivers.outbox import in_doubt
from messaging.errors import NoRoute, Overloaded
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, Delivery, Outcome, Route, RouteKind, Source, SourceKind

__all__ = ["Hub"]


class Hub:
    """All queues of one name. `lock` guards everything in here."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.lock = threading.Lock()
        self.links: dict[str, Link] = {}
        """Every connection that is not closed, by its address: a reply finds it even while it is cut off."""
        self.faults = Faults(self)
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.counts = {"expired": 0, "dead_letters": 0, "dropped": 0}
        """dropped: by a reject without dead letters, by a full dead-letter queue, or with a fanout's consumer."""
        self._ids = itertools.count()
        self._queues: dict[Any, Queue] = {}
        self._fanouts: dict[tuple[str, str], list[Subscription]] = {}
        self._pools: dict[tuple[str, str], dict[str, Queue]] = {}

    # Messages on their way in

    def accept(self, route: Route, message: Message, store: float, limit: int) -> Any:
        """Take a message, or raise NoRoute or Overloaded and take nothing of it. Returns the taker that the sender is
        told.
        """
        kind = route.kind
        if kind is RouteKind.REPLY:
            link = self.links.get(route.address)
            if link is None or not (link.replies.consumers or not link.attached):
                raise NoRoute(f"nobody holds the address {route.address!r} on {self.title}")
            self._put(link.replies, message, limit)
            return None
        key = (route.exchange, route.topic)
        if kind is RouteKind.ANY:
            queue = self._queues.get((SourceKind.ANY, *key))
            if queue is None or not queue.consumers:
                raise NoRoute(f"no server of {_name(route)} on {self.title}")
            self._put(queue, message, limit)
            return None
        if kind is RouteKind.ONE:
            self._put(self._mailbox(route, message, store), message, limit)
            return None
        if kind is RouteKind.ALL:
            return self._put_all(self._fanouts.get(key, ()), message, limit)
        pools = self._pools.get(key)
        if not pools:
            raise NoRoute(f"no pool has ever listened to {_name(route)} on {self.title}")
        for queue in pools.values():
            self._room(queue, limit)
        for queue in pools.values():
            self._put(queue, _copy(message), limit)
        return None

    @property
    def title(self) -> str:
        """How people know this hub."""
        return f"memory://{self.name}"

    def _mailbox(self, route: Route, message: Message, store: float) -> Queue:
        key = (SourceKind.ONE, route.exchange, route.topic, route.server)
        queue = self._queues.get(key)
        if queue is not None and queue.consumers:
            return queue
        if not store:
            raise NoRoute(f"no server {route.server!r} of {_name(route)} on {self.title}")
        message.expires = min(message.expires, self.clock() + store)
        return self._queues.setdefault(key, Queue(SourceKind.ONE, key))

    def _put_all(self, servers: Iterable[Subscription], message: Message, limit: int) -> tuple[int, int]:
        sent = failed = 0
        for subscription in servers:
            try:
                self._put(subscription.queue, _copy(message), limit)
                sent += 1
            except Overloaded:
                failed += 1
        return sent, failed

    def _room(self, queue: Queue, limit: int) -> None:
        if len(queue.backlog) < limit:
            return
        now = self.clock()
        if queue.earliest <= now:
            kept = [message for message in queue.backlog if message.expires > now]
            self.counts["expired"] += len(queue.backlog) - len(kept)
            queue.backlog = deque(kept)
            queue.earliest = min((message.expires for message in kept), default=math.inf)
        if len(queue.backlog) >= limit:
            raise Overloaded(f"{limit} messages wait in a queue of {self.title} already (option max_queue)")

    def _put(self, queue: Queue, message: Message, limit: int) -> None:
        if queue.backlog:
            self._room(queue, limit)
        if self.faults.active and queue.kind is not SourceKind.DEAD:
            self.faults.apply(queue, message)
        else:
            self.append(queue, message)

    def append(self, queue: Queue, message: Message) -> None:
        """Give a message to a consumer of a queue, or let it wait at the end."""
        queue.positions = message.position = queue.positions + 1
        # A backlog means that no consumer has room.
        if queue.backlog or not self._offer(queue, message):
            if message.expires < queue.earliest:
                queue.earliest = message.expires
            queue.backlog.append(message)

    def _offer(self, queue: Queue, message: Message) -> bool:
        consumers = queue.consumers
        for _ in range(len(consumers)):
            subscription = consumers[0]
            consumers.rotate(-1)
            ready = subscription.ready
            if len(subscription.unsettled) + len(ready) < subscription.window:
                self._hand_over(subscription, message)
                return True
        return False

    def _hand_over(self, subscription: Subscription, message: Message) -> None:
        link = subscription.link
        link.wakeup.ring()
        if not subscription.ready:
            link.hot.append(subscription)
        subscription.ready.append(message)

    def feed(self, queue: Queue) -> None:
        """Hand out what waits in a queue, as far as its consumers have room."""
        backlog = queue.backlog
        if not backlog:
            return
        now = self.clock() if queue.earliest < math.inf else 0.0
        while backlog:
            message = backlog[0]
            if message.expires <= now:
                self.counts["expired"] += 1
            elif not self._offer(queue, message):
                return
            backlog.popleft()
        queue.earliest = math.inf

    # Consumers

    def subscribe(self, link: Link, source: Source, window: int, generation: int) -> None:
        """Add a consumer, or change its window."""
        subscription = link.subscriptions.get(source)
        if subscription is None:
            queue = self._queue_of(link, source)
            subscription = Subscription(link, source, queue, window, generation)
            link.subscriptions[source] = subscription
            queue.consumers.append(subscription)
            if source.kind is SourceKind.ALL:
                self._fanouts.setdefault((source.exchange, source.topic), []).append(subscription)
        subscription.window = window
        self.feed(subscription.queue)

    def _queue_of(self, link: Link, source: Source) -> Queue:
        kind = source.kind
        if kind is SourceKind.REPLY:
            return link.replies
        if kind is SourceKind.ALL:
            return Queue(kind, source)
        if kind is SourceKind.POOLS:
            pools = self._pools.setdefault((source.exchange, source.topic), {})
            return pools.setdefault(source.pool, Queue(kind, source))
        if kind is SourceKind.DEAD:
            return self._dead(source.exchange, source.topic, source.pool)
        key = (kind, source.exchange, source.topic)
        if kind is SourceKind.ONE:
            key = (*key, source.server)  # type: ignore[assignment]
        return self._queues.setdefault(key, Queue(kind, key))

    def _dead(self, exchange: str, topic: str, pool: str) -> Queue:
        key = (SourceKind.DEAD, exchange, topic, pool)
        return self._queues.setdefault(key, Queue(SourceKind.DEAD, key))

    def cancel(self, link: Link, source: Source) -> None:
        """Remove a consumer. What it was given stays its own until it is settled; what it has not picked up goes
        back.
        """
        subscription = link.subscriptions.pop(source, None)
        if subscription is None:
            return
        self._leave(subscription)
        if subscription.unsettled:
            link.lingering.add(subscription)
        self._clean(subscription.queue)

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
            self.counts["dropped"] += len(ready) + len(queue.backlog)
            queue.backlog.clear()
        else:
            self.give_back(queue, ready)

    def give_back(self, queue: Queue, messages: list[Message]) -> None:
        """Put messages where they stood in their queue, before what came later."""
        if not messages:
            return
        messages.sort(key=lambda message: message.position)
        backlog = queue.backlog
        later: list[Message] = []
        while backlog and backlog[0].position < messages[-1].position:
            later.append(backlog.popleft())
        merged = heapq.merge(messages, later, key=lambda message: message.position)
        backlog.extendleft(reversed(list(merged)))
        queue.earliest = min(queue.earliest, *(message.expires for message in messages))
        self.feed(queue)

    def _clean(self, queue: Queue) -> None:
        # Queues of pools and dead letters are kept for good, as a broker keeps durable ones; those of servers while
        # they are of use.
        if queue.kind in (SourceKind.ANY, SourceKind.ONE) and not (queue.consumers or queue.backlog or queue.out):
            self._queues.pop(queue.key, None)

    def pick_up(self, link: Link, most: int) -> list[tuple[Source, list[Delivery]]]:
        """Turn what was handed to a connection into deliveries, at most `most` of each subscription."""
        batches = []
        hot, link.hot = link.hot, []
        for subscription in hot:
            if not subscription.ready:
                continue
            batch: list[Delivery] = []
            self._pick_up(subscription, batch, most)
            if subscription.ready:
                link.hot.append(subscription)
            if batch:
                batches.append((subscription.source, batch))
        return batches

    def _pick_up(self, subscription: Subscription, batch: list[Delivery], most: int) -> None:
        ready = subscription.ready
        source = subscription.source
        generation = subscription.generation
        # An answer is settled by being picked up: nobody else could do anything with it.
        unsettled = None if source.kind is SourceKind.REPLY else subscription.unsettled
        while ready and len(batch) < most:
            message = ready.popleft()
            budget = None
            if message.expires < math.inf:
                left = message.expires - self.clock()
                if left <= 0.0:
                    self.counts["expired"] += 1
                    continue
                budget = left if message.budgeted else None
            delivery = Delivery(
                source,
                message.body,
                message.headers.copy(),
                message.reply_to,
                budget,
                message.redelivered,
                message.attempt,
                message.sent_by,
                generation,
                False,
                message,
            )
            if unsettled is not None:
                unsettled[message] = delivery
                subscription.queue.out += 1
            batch.append(delivery)
        if unsettled is None or not unsettled:
            # Room that expired messages and answers have left.
            self.feed(subscription.queue)

    def settle(
        self, link: Link, deliveries: Iterable[Delivery], outcome: Outcome, delay: float, reason: str
    ) -> tuple[list[Delivery], int]:
        """Settle deliveries; returns those that were, and the number of stale ones."""
        settled: list[Delivery] = []
        stale = 0
        returned: dict[Queue, list[Message]] = {}
        fed: dict[Queue, None] = {}
        for delivery in deliveries:
            if delivery.source.kind is SourceKind.REPLY:
                settled.append(delivery)
                continue
            subscription = self._holder(link, delivery)
            if subscription is None:
                stale += 1
                continue
            message: Message = delivery.tag
            delivery.tag = None
            del subscription.unsettled[message]
            queue = subscription.queue
            queue.out -= 1
            settled.append(delivery)
            if outcome is Outcome.REQUEUE:
                message.attempt += 1
                message.redelivered = True
                returned.setdefault(queue, []).append(message)
            elif outcome is Outcome.REJECT:
                self._reject(subscription, message, reason)
            if subscription.cancelled and not subscription.unsettled:
                link.lingering.discard(subscription)
            fed[queue] = None
        for queue, messages in returned.items():
            if delay > 0.0:
                queue.out += len(messages)
                self.schedule(self.clock() + delay, link, partial(self._come_back, queue, messages))
            else:
                self.give_back(queue, messages)
        for queue in fed:
            self.feed(queue)
            if not queue.consumers:
                self._clean(queue)
        return settled, stale

    def _holder(self, link: Link, delivery: Delivery) -> Subscription | None:
        message = delivery.tag
        if delivery.stale or message is None:
            return None
        subscription = link.subscriptions.get(delivery.source)
        if subscription is not None and subscription.unsettled.get(message) is delivery:
            return subscription
        for subscription in link.lingering:
            if subscription.unsettled.get(message) is delivery:
                return subscription
        return None

    def _come_back(self, queue: Queue, messages: list[Message]) -> None:
        queue.out -= len(messages)
        for message in messages:
            self.append(queue, message)
        self._clean(queue)

    def _reject(self, subscription: Subscription, message: Message, reason: str) -> None:
        source = subscription.source
        if source.kind in (SourceKind.ALL, SourceKind.DEAD):
            self.counts["dropped"] += 1
            return
        queue = self._dead(source.exchange, source.topic, source.pool)
        if len(queue.backlog) >= subscription.link.max_queue:
            queue.backlog.popleft()
            self.counts["dropped"] += 1
        self.counts["dead_letters"] += 1
        headers = {**message.headers, DEAD_REASON: reason, DEAD_ATTEMPT: message.attempt}
        self.append(queue, Message(message.body, headers, message.reply_to, message.sent_by))

    # Connections

    def attach(self, link: Link) -> None:
        """Connect."""
        self.links[link.address] = link
        link.attached = True
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
        for delivery in subscription.unsettled.values():
            delivery.stale = True
        queue = subscription.queue
        lost = list(subscription.unsettled)
        queue.out -= len(lost)
        subscription.unsettled.clear()
        if queue.kind is SourceKind.ALL:
            self.counts["dropped"] += len(lost)
        elif queue.kind is not SourceKind.REPLY:
            # A broker cannot know which of those it has written were read.
            lost += subscription.ready
            subscription.ready.clear()
            for message in lost:
                message.attempt += 1
                message.redelivered = True
        if not subscription.cancelled:
            self._leave(subscription)
        if queue.kind is not SourceKind.ALL:
            self.give_back(queue, lost)
        self._clean(queue)

    def detach(self, link: Link, cause: Exception) -> None:
        """Close a connection for good: its address is nobody's any more."""
        self.cut(link, cause)
        link.cut_by = None
        self.links.pop(link.address, None)
        if self.timers:
            self.call_all()

    def call_all(self) -> None:
        """Make every connection look: somebody has to know of the next timer."""
        for link in self.links.values():
            link.call()

    # Time

    def schedule(self, due: float, link: Link, action: Callable[[], None]) -> None:
        """Do something at a time on the clock; `link` sees to it, and when it closes, the others."""
        heapq.heappush(self.timers, (due, next(self._ids), action))
        link.call()

    def run_timers(self, now: float) -> None:
        """Do what is due."""
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2]()


def _copy(message: Message) -> Message:
    return Message(message.body, message.headers, message.reply_to, message.sent_by, message.expires, message.budgeted)


def _name(route: Route) -> str:
    return f"{route.exchange}/{route.topic}" if route.exchange else repr(route.topic)
