"""Messages that come in: links, windows, credit, and settlements.

A delivery belongs to the link that it came over. Its pointer is kept here alone, under a number that is the delivery's
tag, and dropped with the link; so a settlement that comes too late finds nothing, instead of memory that is gone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

from messaging.backoff import Backoff
from messaging.deadline import Clock
from messaging.drivers.amqp1.addresses import Attachment, Destination
from messaging.drivers.amqp1.credit import change
from messaging.drivers.amqp1.encoding import ATTEMPT, DELAY_ANNOTATION, Undecodable, decode_message
from messaging.drivers.amqp1.engine import Pointer
from messaging.drivers.amqp1.news import News
from messaging.drivers.amqp1.outcomes import refused
from messaging.drivers.amqp1.sending import Copy, Life, Sending
from messaging.drivers.amqp1.types import encode_value
from messaging.errors import Cancelled, ConnectionLost, Unsupported
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, MESSAGE_ID, Delivery, Outcome, Source, SourceKind

__all__ = ["Receiving"]

_REPLY_CREDIT = 2_000
"""Answers that may be on their way at a time; settled as they come, so more credit would only make larger bursts."""
_REMEMBERED = 1_000
"""Messages settled last whose ids are known after a loss: as many settlements may have been lost with a connection."""


class ReceiveLink:
    """A receiving link of one source."""

    __slots__ = (
        "address",
        "attached",
        "credit",
        "ending",
        "generation",
        "link",
        "parts",
        "source",
        "unsettled",
        "window",
    )

    def __init__(self, source: Source, window: int, generation: int) -> None:
        self.source = source
        self.window = window
        self.generation = generation
        self.link: Pointer = None
        self.address = ""
        self.attached = False
        self.ending = False
        """Unsubscribed: it stays until what was delivered is settled."""
        self.credit = 0
        self.parts: list[bytes] = []
        """What has come of a large message."""
        self.unsettled: dict[int, tuple[Pointer, Delivery]] = {}


class Receiving:
    """All that one connection receives. It belongs to the connection's owner."""

    def __init__(self, news: News, sending: Sending, clock: Clock, random: Callable[[], float], name: str) -> None:
        self._news = news
        self._sending = sending
        self._clock = clock
        self._backoff = Backoff(source=random)
        self._name = name
        self._life: Life | None = None
        self.wanted: dict[Source, int] = {}
        """Windows by source, over all lives of the connection."""
        self._by_source: dict[Source, ReceiveLink] = {}
        self._by_link: dict[Pointer, ReceiveLink] = {}
        self._known: set[Source] = set()
        """What was attached at some time, in whatever life."""
        self._retry: dict[Source, float] = {}
        self._generation = 0
        self._tags = 0
        self._copying: set[int] = set()
        self._settled_last: deque[object] = deque(maxlen=_REMEMBERED)
        self._had: set[object] = set()
        """Ids of what was here before the connection was lost. A peer should say of it that it was delivered before;
        Artemis does so only when it notices the loss before the closing of the session (in 4 of 5 losses).
        """
        self.due = math.inf
        """When `run` is to be called next."""
        self.undecodable = 0
        self.stale = 0

    # Lives

    def begin(self, life: Life) -> None:
        """There is a connection: subscribe to everything that is wanted."""
        self._life = life
        for source, window in list(self.wanted.items()):
            self._attach(source, window)

    def lose(self, cause: Exception, taken: int) -> None:
        """The connection is gone, and every pointer with it, when the system had taken that many bytes of its life."""
        self._life = None
        if self._by_link:
            self._had = set(self._settled_last)
            self._settled_last.clear()
        for link in self._by_link.values():
            self._had.update(delivery.headers.get(MESSAGE_ID) for _, delivery in link.unsettled.values())
            self._forget(link)
        self._had.discard(None)
        self._by_link.clear()
        self._by_source.clear()
        self._retry.clear()
        self.due = math.inf
        lost = self._news.lost(taken)
        if lost:
            error = ConnectionLost(f"the connection went before the settlement was written: {cause}")
            self._news.unsettled(lost, error)

    def _forget(self, link: ReceiveLink) -> None:
        for _, delivery in link.unsettled.values():
            delivery.stale = True
        link.unsettled.clear()

    @property
    def complete(self) -> bool:
        """Whether everything that is wanted is there."""
        return len(self._by_source) == len(self.wanted) and all(link.attached for link in self._by_source.values())

    # Subscribing

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self.wanted[source] = window
        link = self._by_source.get(source)
        if link is not None:
            link.window = window
            self._top_up(link)
        elif self._life is not None and source not in self._retry:
            self._attach(source, window)

    def _attach(self, source: Source, window: int) -> None:
        life = self._life
        if life is None:
            return
        self._generation += 1
        self._retry.pop(source, None)
        link = ReceiveLink(source, window, self._generation)
        try:
            attachment = life.addresses.attachment(source)
        except Unsupported as error:
            # Known only now, where the peer was not named.
            del self.wanted[source]
            self._news.subscribed(source, "", error)
            return
        link.address = attachment.address or ""
        link.link = life.engine.receiver(
            self._link_name(attachment, link.generation),
            attachment.address,
            attachment.capabilities,
            durable=bool(attachment.subscription),
            settled=source.kind is SourceKind.REPLY,
        )
        self._by_source[source] = link
        self._by_link[link.link] = link

    def _link_name(self, attachment: Attachment, number: int) -> str:
        if attachment.subscription:
            # Members of a subscription have links of its name; what follows the bar tells them apart.
            return f"{attachment.subscription}|{self._name}-{number}"
        return f"{self._name}/receiver/{number}"

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self.wanted.pop(source, None)
        self._known.discard(source)
        self._retry.pop(source, None)
        link = self._by_source.pop(source, None)
        self._news.subscribed(source, "", Cancelled(f"unsubscribed from {source}"))
        life = self._life
        if link is None or life is None:
            return
        link.ending = True
        self._take_credit_back(life, link)
        self._end_if_done(link)

    def _take_credit_back(self, life: Life, link: ReceiveLink) -> None:
        """Before anything is handed back: a peer may offer it to this very link again, and what Artemis offers to a
        link that is just ending comes twice, or to nobody until another consumer comes (1 of 500 to 1,800
        closings, under load).
        """
        if link.credit > 0:
            life.engine.flow(link.link, -link.credit)
            link.credit = 0

    def _end_if_done(self, link: ReceiveLink) -> None:
        if link.ending and not link.unsettled and self._life is not None and link.link is not None:
            del self._by_link[link.link]
            self._life.engine.end(link.link, detach=link.source.kind is SourceKind.POOLS)
            link.link = None

    def opened(self, pointer: Pointer) -> bool:
        """The peer has answered an attach; whether it was one of these."""
        link = self._by_link.get(pointer)
        life = self._life
        if link is None or life is None:
            return False
        if life.engine.link_is_attached(pointer) and not link.ending:
            link.attached = True
            self._known.add(link.source)
            if link.source.kind is SourceKind.REPLY:
                link.address = life.engine.remote_address(pointer)
                self._sending.replies_come_to(link.address)
            # Only now: credit for a link that is refused makes Broker-J end the whole session.
            self._top_up(link)
            self._news.subscribed(link.source, link.address, None)
            if self.complete:
                self._backoff.reset()
        return True

    def links_of(self, session: Pointer) -> list[Pointer]:
        """Those of these links that are on a session."""
        life = self._life
        if life is None:
            return []
        return [link for link in self._by_link if life.engine.session_of(link) == session]

    def ended(self, pointer: Pointer) -> bool:
        """The peer has ended a link, or refused it; whether it was one of these. What was attached once is attached
        again, whatever the peer says of it in the meantime: queues come back later than brokers do.
        """
        link = self._by_link.pop(pointer, None)
        life = self._life
        if link is None or life is None:
            return False
        condition = life.engine.end_condition(pointer)
        self._forget(link)
        source = link.source
        if not link.ending:
            del self._by_source[source]
            cause = refused(condition, link.address or "a reply address", life.peer)
            if source in self._known:
                error = ConnectionLost(f"{life.peer} has ended the subscription: {cause}")
                error.__cause__ = cause
                self._retry[source] = self._clock() + self._backoff.next()
                self.due = min(self.due, self._retry[source])
                self._news.subscribed(source, "", error)
                if source.kind is SourceKind.REPLY:
                    # The next link has another address.
                    self._sending.answers_are_lost(error)
            else:
                self.wanted.pop(source, None)
                self._news.subscribed(source, "", cause)
        life.engine.end(pointer, detach=False)
        return True

    def run(self, now: float) -> None:
        """Attach again what is due."""
        for source in [source for source, when in self._retry.items() if now >= when]:
            self._attach(source, self.wanted[source])
        self.due = min(self._retry.values(), default=math.inf)

    # Messages

    def arrived(self, delivery: Pointer) -> None:
        """Something has come over a link, perhaps not all of it."""
        life = self._life
        if life is None:
            return
        engine = life.engine
        pointer = engine.link_of(delivery)
        link = self._by_link.get(pointer)
        if link is None or not engine.is_readable(delivery):
            return
        if engine.is_partial(delivery):
            while part := engine.receive_part(pointer, delivery):
                link.parts.append(part)
            return
        link.credit = max(0, link.credit - 1)
        data = engine.receive(pointer, delivery)
        if link.parts:
            parts, link.parts = link.parts, []
            data = b"".join([*parts, data]) if data is not None else None
        if data is None:
            engine.settle(delivery)
            self._top_up(link)
            return
        settled = engine.is_settled(delivery)
        source = link.source
        if link.ending:
            if settled:
                engine.settle(delivery)
            else:
                self._hand_back(life, delivery, failed=False)
            return
        try:
            message = decode_message(data)
        except Undecodable:
            self.undecodable += 1
            state = engine.REJECTED if life.profile.drops_rejected else engine.ACCEPTED
            engine.dispose(delivery, engine.ACCEPTED if settled else state)
            self._top_up(link)
            return
        headers = message.headers
        attempt = headers.pop(ATTEMPT, 1)
        if type(attempt) is not int:
            attempt = 1
        self._tags += 1
        redelivered = message.redelivered or attempt > 1 or (bool(self._had) and headers.get(MESSAGE_ID) in self._had)
        taken = Delivery(
            source,
            message.body,
            headers,
            message.reply_to,
            message.ttl,
            redelivered,
            attempt + message.deliveries,
            "",
            link.generation,
            False,
            self._tags,
        )
        if settled or source.kind is SourceKind.REPLY:
            # Answers need no settlement by the owner.
            if settled:
                engine.settle(delivery)
            else:
                engine.dispose(delivery, engine.ACCEPTED)
            self._top_up(link)
        else:
            link.unsettled[self._tags] = (delivery, taken)
        self._news.arrived(taken)

    def _top_up(self, link: ReceiveLink) -> None:
        if not link.attached or link.ending or self._life is None:
            return
        window = min(link.window, _REPLY_CREDIT) if link.source.kind is SourceKind.REPLY else link.window
        more = change(window, len(link.unsettled), link.credit)
        if more:
            link.credit += more
            self._life.engine.flow(link.link, more)

    # Settling

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        """See Connection."""
        if not deliveries:
            return
        life = self._life
        link = None
        for delivery in deliveries:
            if link is None or link.generation != delivery.generation or link.source != delivery.source:
                link = self._link_of(delivery)
            tag = delivery.tag
            if life is None or link is None or tag not in link.unsettled or tag in self._copying:
                self.stale += 1
            elif outcome is Outcome.ACCEPT:
                life.engine.dispose(link.unsettled.pop(tag)[0], life.engine.ACCEPTED)
                self._news.unwritten.append(delivery)
                self._settled_last.append(delivery.headers.get(MESSAGE_ID))
            elif outcome is Outcome.REQUEUE:
                self._requeue(life, link, delivery, delay)
            else:
                self._reject(life, link, delivery, reason)
        if link is not None:
            self._top_up(link)
            self._end_if_done(link)

    def _link_of(self, delivery: Delivery) -> ReceiveLink | None:
        link = self._by_source.get(delivery.source)
        if link is not None and link.generation == delivery.generation:
            return link
        return next((each for each in self._by_link.values() if each.generation == delivery.generation), None)

    def _requeue(self, life: Life, link: ReceiveLink, delivery: Delivery, delay: float) -> None:
        source = delivery.source
        if source.kind is SourceKind.POOLS and delay > 0.0:
            destination = life.addresses.again(source)
            if destination is not None:
                later = {**(destination.annotations or {}), DELAY_ANNOTATION: encode_value(math.ceil(delay * 1000))}
                headers = {**delivery.headers, ATTEMPT: delivery.attempt + 1}
                self._replace(life, link, delivery, Destination(destination.address, later), headers)
                return
        pointer, _ = link.unsettled.pop(delivery.tag)
        # On a broker a notification that comes back has been tried, and is counted. A request has not, and a router is
        # told that nobody has touched it.
        self._hand_back(life, pointer, failed=source.kind is SourceKind.POOLS and not life.profile.routed)
        self._news.unwritten.append(delivery)

    def _hand_back(self, life: Life, pointer: Pointer, *, failed: bool) -> None:
        engine = life.engine
        if life.profile.routed:
            # Released would say that nobody is there. This says: not here; or `failed`: perhaps it was begun, as the
            # router itself says of a consumer that is gone.
            engine.dispose_modified(pointer, failed=failed, elsewhere=not failed)
        elif failed and life.profile.modifies:
            engine.dispose_modified(pointer, failed=True, elsewhere=False)
        else:
            engine.dispose(pointer, engine.RELEASED)

    def _reject(self, life: Life, link: ReceiveLink, delivery: Delivery, reason: str) -> None:
        if delivery.source.kind is SourceKind.POOLS and not life.profile.routed:
            headers = {**delivery.headers, DEAD_REASON: reason, DEAD_ATTEMPT: delivery.attempt}
            self._replace(life, link, delivery, life.addresses.dead(delivery.source), headers)
            return
        engine = life.engine
        pointer, _ = link.unsettled.pop(delivery.tag)
        engine.dispose(pointer, engine.REJECTED if life.profile.drops_rejected else engine.ACCEPTED)
        self._news.unwritten.append(delivery)

    def _replace(
        self, life: Life, link: ReceiveLink, delivery: Delivery, destination: Destination, headers: dict[str, object]
    ) -> None:
        """Store a copy elsewhere, and settle the original only when that is confirmed."""
        tag = delivery.tag
        self._copying.add(tag)

        def done(error: Exception | None) -> None:
            self._copying.discard(tag)
            found = link.unsettled.get(tag)
            if found is None:
                self.stale += 1
            elif error is None:
                del link.unsettled[tag]
                life.engine.dispose(found[0], life.engine.ACCEPTED)
                self._news.unwritten.append(delivery)
                self._top_up(link)
                self._end_if_done(link)
            else:
                self._news.unsettled([delivery], error)

        self._sending.copy(delivery.body, headers, Copy(destination, done))

    def give_back(self) -> None:
        """Before the connection is closed: what is unsettled was perhaps begun, so it says so when it comes again."""
        life = self._life
        if life is None:
            return
        for link in self._by_link.values():
            self._take_credit_back(life, link)
            for pointer, delivery in link.unsettled.values():
                delivery.stale = True
                self._hand_back(life, pointer, failed=True)
            link.unsettled.clear()
