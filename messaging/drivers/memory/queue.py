"""A queue of the hub: messages that wait, consumers that take them in turn, each with a window.

It knows neither routes nor outcomes; those are the hub's. All of it is guarded by the hub's lock. The order of the
steps where a message changes hands is such that an exception from a signal handler (Ctrl-C in a thread that publishes)
loses at most that thread's own message.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from messaging.deadline import Clock
from messaging.errors import Overloaded
from messaging.message import Delivery, Source, SourceKind

if TYPE_CHECKING:
    from messaging.drivers.memory.link import Link

__all__ = ["Message", "Queue", "Subscription"]

# A member of an enumeration costs 70 ns to look up, as much as a call.
_REPLIES = SourceKind.REPLY


class Message(msgspec.Struct, eq=False):
    """A message inside the hub, in one queue: a fanout makes one for each server."""

    body: bytes
    headers: dict[str, Any]
    reply_to: str = ""
    sent_by: str = ""
    expires: float = math.inf
    """On the hub's clock; it is not handed out any more after that."""
    budgeted: bool = False
    """Tell the receiver what is left until `expires`."""
    position: int = 0
    """Where it stands in its queue; what comes back goes there again."""
    attempt: int = 1
    redelivered: bool = False

    def copy(self, redelivered: bool = False) -> Message:
        """Return another message with the same content, for another queue or for the same one."""
        return Message(
            self.body,
            self.headers,
            self.reply_to,
            self.sent_by,
            self.expires,
            self.budgeted,
            redelivered=redelivered,
            attempt=2 if redelivered else 1,
        )


class Subscription:
    """One consumer of a queue. It outlives its cancellation until what it was given is settled."""

    __slots__ = ("cancelled", "generation", "link", "queue", "ready", "source", "unsettled", "window")

    def __init__(self, link: Link, source: Source, queue: Queue, generation: int) -> None:
        self.link = link
        self.source = source
        self.queue = queue
        self.window = 0
        self.generation = generation
        self.ready: deque[Message] = deque()
        """Given to the connection, which has not picked it up."""
        self.unsettled: dict[Message, Delivery] = {}
        self.cancelled = False

    def give(self, message: Message) -> None:
        """Hand a message to the connection, and wake its owner."""
        link = self.link
        link.wakeup.ring()
        if not self.ready:
            link.hot.append(self)
        self.ready.append(message)

    def pick_up(self, batch: list[Delivery], most: int, clock: Clock) -> int:
        """Turn what is ready into deliveries, up to `most` in the batch; returns how many had expired."""
        ready = self.ready
        source = self.source
        # An answer is settled by being picked up: nobody else could do anything with it.
        kept = source.kind is not _REPLIES
        expired = 0
        while ready and len(batch) < most:
            message = ready.popleft()
            budget = None
            if message.expires < math.inf:
                left = message.expires - clock()
                if left <= 0.0:
                    expired += 1
                    continue
                if message.budgeted:
                    budget = left
            delivery = Delivery(
                source,
                message.body,
                message.headers.copy(),
                message.reply_to,
                budget,
                message.redelivered,
                message.attempt,
                message.sent_by,
                self.generation,
                False,
                message,
            )
            if kept:
                self.unsettled[message] = delivery
                self.queue.out += 1
            batch.append(delivery)
        return expired


class Queue:
    """Messages that wait in the order of their `position`, and the consumers in the order of their turns."""

    __slots__ = ("backlog", "clock", "consumers", "earliest", "expired", "out", "positions", "source", "sweep_due")

    def __init__(self, source: Source, clock: Clock) -> None:
        self.source = source
        self.clock = clock
        self.backlog: deque[Message] = deque()
        self.consumers: deque[Subscription] = deque()
        self.positions = 0
        self.earliest = math.inf
        """No message in the backlog expires before that."""
        self.sweep_due = math.inf
        """When somebody looks for what has expired, because no consumer does."""
        self.out = 0
        """How many messages are handed out and not settled, or delayed; they may come back."""
        self.expired = 0
        """How many messages were dropped because their time was over."""

    @property
    def title(self) -> str:
        """How people know this queue."""
        return " ".join(str(part) for part in (self.source.kind.value, *self.source[1:]) if part)

    @property
    def idle(self) -> bool:
        """Nobody consumes it, and nothing is in it or may come back to it."""
        return not (self.consumers or self.backlog or self.out)

    def append(self, message: Message) -> None:
        """Give a message to the next consumer with room, or let it wait at the end."""
        self.positions = message.position = self.positions + 1
        # A backlog means that no consumer has room.
        if self.backlog or not self._offer(message):
            if message.expires < self.earliest:
                self.earliest = message.expires
            self.backlog.append(message)

    def make_room(self, limit: int) -> None:
        """See to it that one more message may wait. Raises Overloaded when `limit` of them wait already."""
        if len(self.backlog) >= limit:
            self.sweep()
            if len(self.backlog) >= limit:
                raise Overloaded(f"{limit} messages wait for {self.title} already (option max_queue)")

    def sweep(self) -> None:
        """Drop what has expired, wherever it stands; a look at all messages, but only when the earliest is due."""
        now = self.clock()
        if self.earliest <= now:
            kept = deque(message for message in self.backlog if message.expires > now)
            self.expired += len(self.backlog) - len(kept)
            self.backlog = kept
            self.earliest = min((message.expires for message in kept), default=math.inf)

    def feed(self) -> None:
        """Hand out what waits, as far as the consumers have room."""
        backlog = self.backlog
        if not backlog:
            return
        now = self.clock() if self.earliest < math.inf else -math.inf
        while backlog:
            message = backlog[0]
            if message.expires <= now:
                self.expired += 1
            elif not self._offer(message):
                return
            backlog.popleft()
        self.earliest = math.inf

    def _offer(self, message: Message) -> bool:
        consumers = self.consumers
        for _ in range(len(consumers)):
            subscription = consumers[0]
            consumers.rotate(-1)
            if len(subscription.unsettled) + len(subscription.ready) < subscription.window:
                subscription.give(message)
                return True
        return False

    def give_back(self, messages: list[Message]) -> None:
        """Put messages where they stood, before what came later."""
        if not messages:
            return
        messages.sort(key=_position)
        backlog = self.backlog
        earlier: list[Message] = []
        while backlog and backlog[0].position < messages[-1].position:
            earlier.append(backlog.popleft())
        backlog.extendleft(reversed(list(heapq.merge(messages, earlier, key=_position))))
        self.earliest = min(self.earliest, *(message.expires for message in messages))
        self.feed()


def _position(message: Message) -> int:
    return message.position
