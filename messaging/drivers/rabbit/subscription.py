"""One source that is read: declare, bind, bound, consume, ready; and what was delivered from it and is not settled.

Each has a channel of its own, so that whatever the broker closes a channel for, the other sources do not notice; and so
that settling many at once means those of this source. A subscription goes through generations: a new one begins with
every channel, and what was handed out in an older one is stale.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from messaging.backoff import Backoff
from messaging.drivers.rabbit.channels import ChannelOwner, Channels
from messaging.drivers.rabbit.methods import Answer, Bind, Cancel, Consume, DeleteQueue, Method, Qos, passive
from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.refusals import NOT_FOUND, declaration_refused, passing
from messaging.drivers.rabbit.topology import Topology
from messaging.errors import Cancelled, ConnectionLost
from messaging.message import Delivery, Source, SourceKind

if TYPE_CHECKING:
    from messaging.drivers.rabbit.subscriptions import Subscriptions

__all__ = ["Phase", "Subscription"]


class Phase(enum.Enum):
    """What a subscription is doing; see TRANSITIONS for what may follow what."""

    IDLE = "idle"
    """No connection, or waiting before the next try."""
    OPENING = "opening"
    """The channel was asked for, or what it needs is being declared."""
    READY = "ready"
    """Its consumers are there, or their window is 0."""
    CHANGING = "changing"
    """Ready, and its consumers are being cancelled or added because the window has changed."""
    LEAVING = "leaving"
    """Unsubscribed: its consumers are being cancelled."""
    LINGERING = "lingering"
    """Unsubscribed; what was handed out is still to be settled."""
    OVER = "over"

    __hash__ = object.__hash__


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.OPENING, Phase.OVER}),
    Phase.OPENING: frozenset({Phase.READY, Phase.IDLE, Phase.LEAVING, Phase.OVER}),
    Phase.READY: frozenset({Phase.CHANGING, Phase.IDLE, Phase.LEAVING, Phase.OVER}),
    Phase.CHANGING: frozenset({Phase.READY, Phase.IDLE, Phase.LEAVING, Phase.OVER}),
    Phase.LEAVING: frozenset({Phase.LINGERING, Phase.OVER}),
    Phase.LINGERING: frozenset({Phase.OVER}),
    Phase.OVER: frozenset(),
}


class Subscription(ChannelOwner):
    """One source of one connection, over all its lives, until it is unsubscribed and settled."""

    __slots__ = (
        "_acked",
        "_applied",
        "_backlog",
        "_backoff",
        "_batch",
        "_channel",
        "_channels",
        "_consumers",
        "_has_been_ready",
        "_others",
        "_owner",
        "_pending",
        "_topology",
        "generation",
        "intake",
        "outstanding",
        "phase",
        "retry_at",
        "source",
        "unacknowledged",
        "window",
    )

    def __init__(
        self,
        owner: Subscriptions,
        channels: Channels,
        topology: Topology,
        source: Source,
        window: int,
        backoff: Backoff,
    ) -> None:
        self._owner = owner
        self._channels = channels
        self._topology = topology
        self._backoff = backoff
        self.source = source
        self.window = window
        self.intake = topology.intake(source)
        self.phase = Phase.IDLE
        self.generation = 0
        self.retry_at = 0.0
        self.outstanding: dict[int, Delivery] = {}
        """By their delivery tags, oldest first; those that wait in the backlog too."""
        self._others: dict[int, str] = {}
        """The queues of those that came from another than the first."""
        self._backlog: deque[Delivery] = deque()
        self._batch: list[Delivery] | None = None
        self._channel: int | None = None
        self._consumers: dict[str, str] = {}
        self._pending = 0
        self._applied = 0
        self._has_been_ready = False
        self._acked = 0
        self.unacknowledged = 0
        """Answers that have come and are not acknowledged yet, and one more for each 4 KiB in them."""

    def _go(self, phase: Phase) -> None:
        if phase not in TRANSITIONS[self.phase]:
            raise RuntimeError(f"a subscription cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    # Getting ready

    def start(self) -> None:
        """Begin a generation on the connection that there is."""
        self._go(Phase.OPENING)
        self.generation = self._owner.next_generation(self)
        self._channel = self._channels.open(self)

    def on_channel_open(self) -> None:
        """See ChannelOwner."""
        methods = self.intake.methods if self._owner.declare else passive(self.intake.methods)
        self._ask(methods, self._consume)

    def _ask(self, methods: tuple[Method, ...], then: Callable[[], None]) -> None:
        """Ask for all of it at once; the broker keeps the order."""
        channel = self._channel
        if channel is None:
            return
        self._pending = len(methods)
        if not methods:
            then()
            return

        def answered(_answer: Answer) -> None:
            self._pending -= 1
            if self._pending == 0:
                then()

        for method in methods:
            self._channels.request(channel, method, answered)

    def _consume(self) -> None:
        if self.phase is Phase.LEAVING:
            self._left()
            return
        self._applied = self.window
        self._consumers = {}
        if self._applied == 0:
            self._ready()
            return
        methods: list[Method] = []
        if not self.intake.no_ack:
            methods.append(Qos(min(self._applied, 65535)))
        for index, queue in enumerate(self.intake.queues):
            tag = f"{self.generation}.{self._owner.next_tag()}.{index}"
            self._consumers[tag] = queue
            methods.append(Consume(queue, tag, no_ack=self.intake.no_ack, arguments=self.intake.arguments))
        self._ask(tuple(methods), self._ready)

    def _ready(self) -> None:
        if self.phase is Phase.LEAVING:
            self._cancel(self._left)
            return
        first = self.phase is Phase.OPENING
        self._go(Phase.READY)
        if first:
            self._has_been_ready = True
            self._owner.ready(self)
        if self._applied != self.window:
            self._change()

    def set_window(self, window: int) -> None:
        """Bound what is unsettled anew; 0 holds."""
        self.window = window
        if self.phase is Phase.READY and self._applied != window:
            self._change()

    def _change(self) -> None:
        # The bound of a live consumer cannot be changed, so it is replaced by another on the same channel.
        self._go(Phase.CHANGING)
        self._cancel(self._consume)

    def _cancel(self, then: Callable[[], None]) -> None:
        tags, self._consumers = list(self._consumers), {}
        self._ask(tuple(Cancel(tag) for tag in tags), then)

    # Leaving

    def leave(self) -> None:
        """Stop receiving; the owner is told when it is so."""
        if self.phase is Phase.IDLE:
            self._go(Phase.OVER)
            self._owner.left(self, Cancelled(f"unsubscribed from {self.source}"))
            self._owner.over(self)
            return
        settled = self.phase is Phase.READY
        self._go(Phase.LEAVING)
        self._give_back()
        if settled:
            self._cancel(self._left)

    def _give_back(self) -> None:
        """What nobody has seen goes back to its queue."""
        unseen = list(self._backlog)
        self._backlog.clear()
        unseen += self._take_batch()
        if self._channel is not None and not self.intake.no_ack and self.source.kind is not SourceKind.REPLY:
            for delivery in unseen:
                if self.outstanding.pop(delivery.tag, None) is not None:
                    self._channels.traffic.reject(self._channel, delivery.tag, True)

    def _left(self) -> None:
        self._go(Phase.LINGERING)
        self._owner.left(self, Cancelled(f"unsubscribed from {self.source}"))
        self.tidy()

    def tidy(self) -> None:
        """End it when it was unsubscribed and nothing is unsettled any more."""
        if self.phase is not Phase.LINGERING or self.outstanding:
            return
        self.acknowledge_answers()
        self._go(Phase.OVER)
        if self._channel is not None:
            self._channels.close(self._channel)
            self._channel = None
        self._owner.over(self)

    def deletions(self) -> tuple[Method, ...]:
        """What removes the queues that are of no use to anybody else."""
        own = self.source.kind in (SourceKind.REPLY, SourceKind.ALL)
        return tuple(DeleteQueue(name, not own, not own) for name in self.intake.temporary)

    # What the broker does

    def on_cancelled(self, consumer: str) -> None:
        """See ChannelOwner."""
        queue = self._consumers.get(consumer)
        if queue is None or self._channel is None or self._owner.parting:
            return
        self._channels.close(self._channel)
        self._fail(ConnectionLost(f"the broker has cancelled the consumer of {queue!r}: deleted, or moved"))

    def on_channel_closed(self, code: int, text: str) -> None:
        """See ChannelOwner."""
        error = declaration_refused(code, text, self.intake.methods, not self._owner.declare)
        leaving = self.phase in (Phase.LEAVING, Phase.LINGERING)
        if leaving or (passing(code, text) and (self._owner.declare or self._has_been_ready)):
            # What was declared may go with its last user before it is bound, and is declared again without a word.
            gone = code == NOT_FOUND and not self._has_been_ready
            self._fail(ConnectionLost(f"the broker has closed the channel of {self.source}: {code} {text}"), not gone)
        else:
            self._refuse(error)

    def _fail(self, error: ConnectionLost, told: bool = True) -> None:
        """This generation is over; another one is begun soon."""
        self._channel = None
        self.expire_generation()
        if self.phase in (Phase.LEAVING, Phase.LINGERING):
            was_leaving = self.phase is Phase.LEAVING
            self._go(Phase.OVER)
            if was_leaving:
                self._owner.left(self, Cancelled(f"unsubscribed from {self.source}"))
            self._owner.over(self)
            return
        self._go(Phase.IDLE)
        self.retry_at = self._owner.clock() + self._backoff.next()
        if told:
            self._owner.failed(self, error)

    def _refuse(self, error: Exception) -> None:
        """It cannot be had: this source alone is given up."""
        self._channel = None
        self.expire_generation()
        self._go(Phase.OVER)
        self._owner.refused(self, error)

    def lose(self) -> None:
        """The connection is gone."""
        self._channel = None
        self.expire_generation()
        if self.phase in (Phase.LEAVING, Phase.LINGERING):
            was_leaving = self.phase is Phase.LEAVING
            self._go(Phase.OVER)
            if was_leaving:
                self._owner.left(self, Cancelled(f"unsubscribed from {self.source}"))
            self._owner.over(self)
        elif self.phase is not Phase.IDLE:
            self._go(Phase.IDLE)
        self.retry_at = 0.0

    def expire_generation(self) -> None:
        """Whatever was handed out belongs to a channel that is gone."""
        for delivery in self.outstanding.values():
            delivery.stale = True
        self.outstanding.clear()
        self._others.clear()
        self._backlog.clear()
        if not self._answers_once:
            self._take_batch()
        self._consumers = {}
        self._acked = self.unacknowledged = 0

    @property
    def _answers_once(self) -> bool:
        """Whether answers come by direct reply-to: the broker has them no more, so they are told whatever has become of
        the channel.
        """
        return self.source.kind is SourceKind.REPLY and self.intake.no_ack

    def take_last_answers(self) -> list[Delivery]:
        """Take out the answers that were not told yet and do not come again; the connection is at its end."""
        return self._take_batch() if self._answers_once else []

    def _take_batch(self) -> list[Delivery]:
        batch, self._batch = self._batch, None
        if batch is None:
            return []
        self._owner.withdraw_batch(self)
        return batch

    @property
    def channel(self) -> int | None:
        """Its channel, while it has one."""
        return self._channel

    def restored(self) -> None:
        """Everything is back: the next failure is answered quickly again."""
        self._backoff.reset()

    @property
    def renews(self) -> bool:
        """Whether its bindings may go without anybody telling, or its queue expire while nobody consumes it."""
        return self.phase is Phase.READY and (
            not self._consumers or any(isinstance(method, Bind) for method in self.intake.methods)
        )

    # Deliveries

    def on_message(self, consumer: str, tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
        """See ChannelOwner."""
        source = self.source
        channel = self._channel
        if channel is None:
            return
        answer = source.kind is SourceKind.REPLY
        if answer and not self.intake.no_ack:
            self._acked = tag
            self.unacknowledged += 1 + (len(body) >> 12)
        if self.phase is Phase.LEAVING and not answer:
            self._channels.traffic.reject(channel, tag, True)
            return
        try:
            delivery = self._topology.read(source, self.generation, tag, redelivered, properties, body)
        except (ValueError, TypeError):
            self.on_unreadable(tag)
            return
        if not answer:
            if len(self.intake.queues) > 1:
                queue = self._consumers.get(consumer, self.intake.queues[0])
                if queue != self.intake.queues[0]:
                    self._others[tag] = queue
                if len(self.outstanding) - len(self._backlog) >= self._applied:
                    # Each of several consumers has the window to itself; together they must not pass it.
                    self.outstanding[tag] = delivery
                    self._backlog.append(delivery)
                    return
            self.outstanding[tag] = delivery
        self._hand_out(delivery)

    def on_returned(self, text: str, properties: Properties) -> None:
        """See ChannelOwner: what asks for direct answers is published where they are received."""
        self._owner.direct_returned(text, properties)

    def on_unreadable(self, tag: int) -> None:
        """See ChannelOwner."""
        self._owner.undecodable += 1
        if self._channel is not None and self.source.kind is not SourceKind.REPLY:
            self._channels.traffic.reject(self._channel, tag, False)

    def _hand_out(self, delivery: Delivery) -> None:
        if self._batch is None:
            self._batch = self._owner.open_batch(self)
        self._batch.append(delivery)

    def batch_taken(self) -> None:
        """What was gathered is being told."""
        self._batch = None

    def queue_of(self, delivery: Delivery) -> str:
        """The queue that a delivery came from."""
        return self._others.get(delivery.tag, self.intake.queues[0])

    def acknowledge_answers(self) -> None:
        """Acknowledge the answers that have come, in one frame."""
        if self.unacknowledged and self._channel is not None:
            self._channels.traffic.ack(self._channel, self._acked, True)
            self.unacknowledged = 0

    # Settling

    def holds(self, delivery: Delivery) -> bool:
        """Whether a delivery is of this generation and unsettled."""
        return not delivery.stale and self.outstanding.get(delivery.tag) is delivery

    def accept(self, tags: list[int]) -> None:
        """Acknowledge deliveries that it holds: what is oldest in one frame, the others one by one."""
        channel = self._channel
        if channel is None:
            return
        outstanding = self.outstanding
        if len(tags) == 1:
            del outstanding[tags[0]]
            self._channels.traffic.ack(channel, tags[0], False)
        else:
            done = set(tags)
            last = 0
            for tag in outstanding:
                if tag not in done:
                    break
                last = tag
            for tag in tags:
                del outstanding[tag]
            if last:
                self._channels.traffic.ack(channel, last, True)
            for tag in tags:
                if tag > last:
                    self._channels.traffic.ack(channel, tag, False)
        self._settled(tags)

    def reject(self, tags: list[int], requeue: bool) -> None:
        """Give deliveries that it holds back to their queue, or have them dropped."""
        channel = self._channel
        if channel is None:
            return
        for tag in tags:
            del self.outstanding[tag]
            self._channels.traffic.reject(channel, tag, requeue)
        self._settled(tags)

    def _settled(self, tags: list[int]) -> None:
        if self._others:
            for tag in tags:
                self._others.pop(tag, None)
        while self._backlog and len(self.outstanding) - len(self._backlog) < self._applied:
            self._hand_out(self._backlog.popleft())
        if self.phase is Phase.LINGERING:
            self.tidy()
