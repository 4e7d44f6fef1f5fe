"""What this process receives: its subscriptions, their windows, and the settlement of what was handed out.

A subscription's number is given once and never again, so a message for one that is gone cannot reach another. Window
and bytes are bounded; what is beyond is answered BUSY at once, because a sender that knows can go elsewhere and one
that waits cannot.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from messaging.drivers.zmq.frames import BUSY, GONE, REJECTED, REPLIES, RETURNED, WANTS_REPLY, Message
from messaging.drivers.zmq.link import Link
from messaging.drivers.zmq.runtime import Runtime
from messaging.message import Delivery, Outcome, Source, SourceKind

__all__ = ["Inbox", "Subscription"]

_ACCEPT = Outcome.ACCEPT
_REQUEUE = Outcome.REQUEUE

Tag = tuple[Link, int, "Subscription"]
"""What a delivery carries for us: who sent it, under which sequence number, to which subscription."""


class Subscription:
    """One source, as long as it is subscribed."""

    __slots__ = ("arrived", "number", "source", "unsettled", "window")

    def __init__(self, number: int, source: Source, window: int) -> None:
        self.number = number
        self.source = source
        self.window = window
        self.unsettled: set[Delivery] = set()
        self.arrived: list[Delivery] = []
        """What came since the last telling."""


_ENDED = cast("Tag", (None, 0, Subscription(REPLIES, Source.reply(), 0)))
"""The tag of what is settled or stale. It leads nowhere: a delivery is not seen by the garbage collector, so whoever
keeps one would keep the whole connection.
"""


class Inbox:
    """The subscriptions of one connection."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._most_bytes = runtime.settings.inbox
        self._bytes = 0
        self._numbers = itertools.count(REPLIES + 1)
        self._by_number: dict[int, Subscription] = {}
        self._by_source: dict[Source, Subscription] = {}
        self._draining: list[Subscription] = []
        """Closed ones of which something is not settled yet."""
        self.revision = 0
        """Grows with each change of what is served."""

    def find(self, source: Source) -> Subscription | None:
        """The subscription of a source, if there is one."""
        return self._by_source.get(source)

    def open(self, source: Source, window: int) -> Subscription:
        """Begin to receive, or change the window."""
        subscription = self._by_source.get(source)
        if subscription is not None:
            subscription.window = window
            return subscription
        number = REPLIES if source.kind is SourceKind.REPLY else next(self._numbers)
        subscription = Subscription(number, source, window)
        self._by_number[number] = self._by_source[source] = subscription
        if number != REPLIES:
            self.revision += 1
        return subscription

    def close(self, source: Source) -> bool:
        """Receive no more; what was handed out can still be settled. False: it was not subscribed."""
        subscription = self._by_source.pop(source, None)
        if subscription is None:
            return False
        del self._by_number[subscription.number]
        self._draining = [found for found in (*self._draining, subscription) if found.unsettled]
        if subscription.number != REPLIES:
            self.revision += 1
        return True

    @property
    def served(self) -> dict[int, Source]:
        """What others may send to, by number."""
        return {number: found.source for number, found in self._by_number.items() if number != REPLIES}

    def receive(self, link: Link, messages: Sequence[Message], bodies: Sequence[bytes], waited: float) -> None:
        """Take the messages of one batch, or refuse them; the seconds that it has waited are gone from their
        budgets.
        """
        news = self._runtime.news
        address = link.address
        identity = link.identity
        subscription: Subscription | None = None
        for sequence, number, flags, budget, headers, body in messages:
            if subscription is None or subscription.number != number:
                subscription = self._by_number.get(number)
                if subscription is None:
                    self._refuse(link, sequence, GONE)
                    continue
            if type(body) is not bytes:
                position = cast("int", body)
                if not 0 < position <= len(bodies):
                    self._runtime.count("undecodable")
                    continue
                body = bodies[position - 1]
            if budget is not None:
                budget = budget - waited if budget > waited else 0.0
            if sequence:
                size = len(body)
                if len(subscription.unsettled) >= subscription.window or (
                    self._bytes and self._bytes + size > self._most_bytes
                ):
                    self._refuse(link, sequence, BUSY)
                    continue
                self._bytes += size
                delivery = Delivery(
                    subscription.source,
                    body,
                    headers,
                    address if flags & WANTS_REPLY else "",
                    budget,
                    False,
                    1,
                    identity,
                    number,
                    False,
                    (link, sequence, subscription),
                )
                subscription.unsettled.add(delivery)
            else:
                delivery = Delivery(
                    subscription.source,
                    body,
                    headers,
                    address if flags & WANTS_REPLY else "",
                    budget,
                    False,
                    1,
                    identity,
                )
            if not subscription.arrived:
                news.arrivals.append(subscription)
                news.pending = True
            subscription.arrived.append(delivery)

    def _refuse(self, link: Link, sequence: int, why: int, reason: str = "") -> None:
        if not sequence:
            self._runtime.count("dropped_replies")
            return
        if why == BUSY:
            self._runtime.count("busy")
        link.refused.append((sequence, why, reason))
        self._runtime.mark(link)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """Note what goes back to the senders; see Connection."""
        news = self._runtime.news
        for delivery in deliveries:
            tag: Tag | None = delivery.tag
            if tag is None:
                # Nobody asked for a settlement.
                news.settled.append(delivery)
                news.pending = True
                continue
            link, sequence, subscription = tag
            try:
                subscription.unsettled.remove(delivery)
            except KeyError:
                # Stale, or settled before; a second settlement means nothing.
                self._runtime.count("stale_settlements")
                continue
            delivery.tag = _ENDED
            self._bytes -= len(delivery.body)
            if outcome is _ACCEPT:
                link.accepted.append(sequence)
            elif outcome is _REQUEUE:
                link.refused.append((sequence, RETURNED, ""))
            else:
                link.refused.append((sequence, REJECTED, reason))
            link.settling.append(delivery)
            if not link.dirty:
                self._runtime.mark(link)

    def drop(self, link: Link) -> None:
        """A sender is gone: what it sent and nobody has settled has become stale."""
        for subscription in (*self._by_number.values(), *self._draining):
            for delivery in [found for found in subscription.unsettled if found.tag[0] is link]:
                subscription.unsettled.remove(delivery)
                self._bytes -= len(delivery.body)
                delivery.stale = True
                delivery.tag = _ENDED

    def end(self) -> None:
        """The connection is closed: nothing can be settled any more."""
        for subscription in (*self._by_number.values(), *self._draining):
            for delivery in subscription.unsettled:
                delivery.tag = _ENDED
            subscription.unsettled.clear()
