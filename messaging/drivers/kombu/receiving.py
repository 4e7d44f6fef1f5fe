"""What a connection receives and settles: from readers into deliveries, and from settlements into round trips."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from kombu.utils.json import loads

from messaging.drivers.kombu import names
from messaging.drivers.kombu.intakes import Intake, Intakes, Listening
from messaging.drivers.kombu.messages import dead_letter, delivery_of, is_over
from messaging.drivers.kombu.session import Raw, Session
from messaging.errors import ConnectionLost
from messaging.message import Delivery, Outcome, Source, SourceKind

__all__ = ["Receiver", "Settlement"]

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What is raised for a message that is none of ours; binascii.Error and UnicodeDecodeError are ValueErrors."""
_UNSETTLED = (SourceKind.REPLY,)
"""Sources whose messages are settled by being read."""


class Settlement(NamedTuple):
    """Deliveries that somebody has settled, and how."""

    deliveries: list[Delivery]
    outcome: Outcome
    reason: str


class Receiver:
    """The subscriptions of one connection, and what came from them."""

    def __init__(self, identity: str, clock: Callable[[], float]) -> None:
        self._identity = identity
        self._clock = clock
        self._listening: dict[Source, Listening] = {}
        self._new: list[Listening] = []
        """Subscribed, but nothing is read for them yet."""
        self.intakes = Intakes()
        self._settlements: deque[Settlement] = deque()
        self._unsettled: dict[int, tuple[Delivery, Listening]] = {}
        self._generation = 0
        self._under_way = False
        """Whether the first of the settlements is being written, as accepted."""
        self.settled: list[tuple[list[Delivery], Exception | None]] = []
        """What became of settlements, to be told."""
        self.counts = {"undecodable": 0, "stale_settlements": 0, "expired": 0, "restored": 0, "lost_fanouts": 0}

    @property
    def address(self) -> str:
        """Where answers to this connection go; the same over reconnects."""
        return names.reply_queue(self._identity)

    def address_of(self, source: Source) -> str:
        """Under which address a source is reachable."""
        return names.places(source, self._identity)[0].queue

    # What the owner asks for

    def subscribe(self, source: Source, window: int) -> None:
        """Receive from a source, or change its window."""
        listening = self._listening.get(source)
        if listening is None:
            listening = self._listening[source] = Listening(source, window)
            self._new.append(listening)
        listening.window = window

    def unsubscribe(self, source: Source) -> None:
        """Receive nothing more; what was delivered stays to be settled."""
        listening = self._listening.pop(source, None)
        if listening is None:
            return
        if listening in self._new:
            self._new.remove(listening)
        for intake in self.intakes.remove(listening):
            if intake.reader is not None:
                self.counts["lost_fanouts"] += intake.reader.lossy
                intake.reader.close()

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, reason: str) -> None:
        """Note how deliveries were settled; stale ones are counted and forgotten."""
        known: list[Delivery] = []
        for delivery in deliveries:
            if delivery.source.kind in _UNSETTLED:
                known.append(delivery)
                continue
            entry = self._unsettled.pop(id(delivery), None)
            if entry is None or entry[0] is not delivery:
                self.counts["stale_settlements"] += 1
                continue
            entry[1].unsettled -= 1
            known.append(delivery)
        if known:
            self._settlements.append(Settlement(known, outcome, reason))

    @property
    def due(self) -> float:
        """When there is something to do that no descriptor tells of."""
        if self._settlements or self._new:
            return -math.inf
        return min(
            (reader.due for intake in self.intakes if (reader := intake.reader) and intake.room), default=math.inf
        )

    # What is done in a pump

    def read_from_now_on(self, session: Session) -> list[Source]:
        """Begin to read for what was subscribed; returns the sources that are ready."""
        ready = []
        while self._new:
            listening = self._new[0]
            source = listening.source
            bound_to = (source.exchange, source.topic) if source.kind is SourceKind.POOLS else None
            for place in names.places(source, self._identity):
                intake = self.intakes.add(place, listening)
                if intake.reader is None:
                    intake.reader = session.reader(place, bound_to)
            self._generation += 1
            listening.generation = self._generation
            self._new.remove(listening)
            ready.append(source)
        return ready

    def arm(self) -> list[int]:
        """Have redis wait for messages where there is room; returns the descriptors to look at."""
        now = self._clock()
        descriptors = []
        for intake in self.intakes:
            if (reader := intake.reader) is not None:
                reader.arm(intake.room, now)
                if (descriptor := reader.descriptor) is not None:
                    descriptors.append(descriptor)
        return descriptors

    def read(self, session: Session, readable: Collection[int]) -> list[tuple[Source, list[Delivery]]]:
        """Take what has come, as far as there is room."""
        batches: dict[Source, list[Delivery]] = {}
        unwanted: list[Any] = []
        now = self._clock()
        for intake in self.intakes:
            reader = intake.reader
            if reader is None or not (reader.descriptor in readable or (reader.due <= now and intake.room)):
                continue
            for raw in reader.read(intake.room, now):
                if not self._hand_out(session, intake, raw, batches) and raw.tag is not None:
                    unwanted.append(raw.tag)
        if unwanted:
            session.accept(unwanted)
        return list(batches.items())

    def _hand_out(self, session: Session, intake: Intake, raw: Raw, batches: dict[Source, list[Delivery]]) -> bool:
        try:
            payload = loads(raw.payload) if isinstance(raw.payload, bytes) else raw.payload
            if is_over(payload):
                self.counts["expired"] += 1
                return False
            body = session.body_of(payload)
            for listening in intake.takers():
                delivery = delivery_of(listening.source, payload, body, listening.generation, raw.tag)
                if listening.source.kind not in _UNSETTLED:
                    self._unsettled[id(delivery)] = (delivery, listening)
                    listening.unsettled += 1
                batches.setdefault(listening.source, []).append(delivery)
        except _UNREADABLE:
            self.counts["undecodable"] += 1
            return False
        return True

    def write_settlements(self, session: Session) -> None:
        """Write the settlements that wait; how each went is in `settled`.

        One that was under way when the connection breaks counts as written: where it did not arrive after all, the
        message comes again, and says so. Were it counted as not written, and had arrived, nobody would have it.
        """
        while self._settlements:
            deliveries, outcome, reason = self._settlements[0]
            kept = [delivery for delivery in deliveries if delivery.tag is not None]
            late: list[Delivery] = []
            if outcome is Outcome.REJECT:
                for delivery in kept:
                    self._bury(session, delivery, reason)
            if kept and outcome is Outcome.REQUEUE:
                session.give_back([delivery.tag for delivery in kept])
            elif kept:
                self._under_way = outcome is Outcome.ACCEPT
                done = session.accept([delivery.tag for delivery in kept])
                self._under_way = False
                late = [delivery for delivery, good in zip(kept, done, strict=True) if not good]
            self._settlements.popleft()
            if late:
                for delivery in late:
                    delivery.stale = True
                self.counts["stale_settlements"] += len(late)
                self.settled.append((late, ConnectionLost("it was held for too long, and comes again elsewhere")))
            if len(late) < len(deliveries):
                self.settled.append(([delivery for delivery in deliveries if delivery not in late], None))

    def _bury(self, session: Session, delivery: Delivery, reason: str) -> None:
        kind, exchange, topic, _, pool = delivery.source
        if kind is SourceKind.POOLS:
            session.bury(names.dead_letters(exchange, topic, pool), dead_letter(delivery, reason))

    def look_after(self, session: Session) -> None:
        """Keep what is in hand and this process's own queues, and count what others had held for too long."""
        self.counts["restored"] += session.look_after(self._held(), self.intakes.own_queues())

    def hand_back(self, session: Session) -> None:
        """Give back everything that is in hand."""
        if held := self._held():
            session.give_back(held)

    def _held(self) -> list[Any]:
        waiting = [delivery.tag for settlement in self._settlements for delivery in settlement.deliveries]
        return [tag for tag in [*waiting, *(each.tag for each, _ in self._unsettled.values())] if tag is not None]

    def overdue(self) -> float:
        """Since when redis should have said something; infinity: it owes nothing."""
        return min((intake.reader.overdue for intake in self.intakes if intake.reader is not None), default=math.inf)

    def lose(self, cause: Exception) -> None:
        """The connection went: what was handed out is stale, and what was not settled is in `settled`."""
        if self._under_way:
            self._under_way = False
            self.settled.append((self._settlements.popleft().deliveries, None))
        for delivery, listening in self._unsettled.values():
            delivery.stale = True
            listening.unsettled = 0
        self._unsettled.clear()
        for deliveries, *_ in self._settlements:
            for delivery in deliveries:
                delivery.stale = True
            self.settled.append((deliveries, cause))
        self._settlements.clear()
        for intake in self.intakes:
            if intake.reader is not None:
                self.counts["lost_fanouts"] += intake.reader.lossy
                intake.reader = None
        self._new = list(self._listening.values())
