"""The connection of notifiers: one idempotent producer, to which any thread writes, and its delivery reports.

`publish` gives a message to the library at once, on the caller's thread (measured: 0.24 ms from there to the
confirmation, 9.3 ms by way of an owner that cannot be woken). The owner polls for reports while any are due, and
rests on a descriptor while none are. A thread that sends very many collects the reports by itself (`collect`), and the
owner keeps away meanwhile, because each of them would take the interpreter from the other. What the library has taken
cannot be recalled: a sender whose deadline passes before its report is told MAYBE, by whoever keeps its deadline above.

A message to a topic that was not seen yet waits here until somebody has looked whether it exists: the library would
find out only by waiting until the message times out.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, Producer

from messaging.counters import Tally
from messaging.drivers.base import ConnectionEvents, Services, State
from messaging.drivers.kafka import clients, configuration, headers
from messaging.drivers.kafka.clients import CAP, Troubles
from messaging.drivers.kafka.contact import Contact
from messaging.drivers.kafka.options import KafkaSettings
from messaging.drivers.kafka.preparing import find_topics
from messaging.drivers.kafka.reasons import code_of, of_message
from messaging.drivers.kafka.reports import Report, Reports
from messaging.drivers.kafka.rest import Rest
from messaging.drivers.kafka.topics import names_for
from messaging.drivers.outbox import expired, unwritten
from messaging.errors import (
    Cancelled,
    Closed,
    ConnectFailed,
    ConnectionLost,
    Delivered,
    EncodeError,
    InvalidTarget,
    MessagingError,
    NoRoute,
    TooLarge,
    Unsupported,
)
from messaging.message import Outcome, Outgoing, Route, SentResult, Source, Stage

__all__ = ["NotifierConnection"]

_LOOK = 0.05
"""Seconds between two looks at the deadlines of what waits for its topic."""
_PURGE = 0.5
"""Seconds for the library to give up what it has at close."""
_WRITTEN = Stage.WRITTEN


class NotifierConnection:
    """See messaging.drivers.base.Connection."""

    def __init__(self, settings: KafkaSettings, events: ConnectionEvents, services: Services) -> None:
        self.client_id = clients.client_id(settings.client_id, "notifier")
        self._settings = settings
        self._max_body = settings.max_body
        self._events = events
        self._services = services
        self._clock = services.clock
        self._names = names_for(
            settings.wire, settings.url.vhost, settings.oslo_group, listeners_too=settings.oslo_suffix == "both"
        )
        self._plain = settings.wire == "oslo"
        """The predecessor writes no headers."""
        self._posted: deque[Callable[[], None]] = deque()
        self._contact = Contact(settings, services, self._post, self._connected, self._checks)
        self._troubles = Troubles()
        self._producer: Producer | None = None
        self._retired: list[Producer] = []
        """Given up, with reports still to come."""
        self._user: configuration.Login = None
        self._topics: dict[Route, str] = {}
        self._known: set[str] = set()
        """Topics that exist."""
        self._held: dict[str, deque[Outgoing]] = {}
        """What waits for its topic, or for room in the library's buffer."""
        self._asked: set[str] = set()
        self._look_at = math.inf
        self._reports = Reports(services.clock, self._failed)
        self._news: list[SentResult] = []
        self._answers: deque[SentResult] = deque()
        """The same from other threads."""
        self._rest = Rest()
        self.wake = self._rest.wake
        """See Connection; any thread, and signal handlers."""
        self._idle = False
        """Whether the owner rests because nothing is under way: then whoever sends wakes it."""
        self._full = False
        self._close_by: float | None = None
        self._purged = False
        self._closed = False
        self._refused = Tally()

    # Publishing: any thread

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection; any thread."""
        route = outgoing.route
        topic = self._topics.get(route)
        if topic is None:
            try:
                topic = self._topics[route] = self._names.sending(route)
            except InvalidTarget as error:
                self._tell(SentResult(outgoing, None, error))
                return
        # What waits goes first, so that messages of one thread keep their order.
        if topic in self._known and not (self._held and self._held.get(topic)):
            self._write(topic, outgoing)
        else:
            self._held.setdefault(topic, deque()).append(outgoing)
            self.wake()

    def _write(self, topic: str, outgoing: Outgoing) -> bool:
        """Give a message to the library; False when its buffer is full."""
        producer = self._producer
        if producer is None:
            self._tell(unwritten(outgoing, None))
            return True
        # The stage first, then the look at `withdrawn`: its sender does it the other way round.
        outgoing.stage = _WRITTEN
        if outgoing.withdrawn:
            return True
        if outgoing.deadline and outgoing.deadline <= self._clock():
            outgoing.stage = None
            self._tell(expired(outgoing))
            return True
        try:
            body = outgoing.body
            if outgoing.encode is not None:
                body = outgoing.encode("", outgoing.deadline - self._clock() if outgoing.budget else None)
            if len(body) > self._max_body:
                raise TooLarge(f"the message has {len(body)} bytes, and option max_body allows {self._max_body}")
            told = None if self._plain else headers.encode(outgoing.headers)
            # By position: names cost as much again as the call (1.6 us against 0.9).
            producer.produce(topic, body, outgoing.key, -1, Report(outgoing, self._reports), None, 0, told)
        except BufferError:
            outgoing.stage = None
            if not self._full:
                self._full = True
                self.wake()
            held = self._held.setdefault(topic, deque())
            if not held or held[0] is not outgoing:
                held.append(outgoing)
            return False
        except Exception as error:
            outgoing.stage = None
            self._tell(SentResult(outgoing, None, self._refusal(error, topic)))
        else:
            if self._idle:
                self._idle = False
                self.wake()
        return True

    def collect(self, timeout: float) -> Sequence[Outgoing] | None:
        """See CollectableConnection; any thread."""
        producer = self._producer
        if producer is None or self._closed:
            return None
        taken = self._reports.collect(producer, timeout)
        if self._answers:
            self.wake()
        return taken

    def _refusal(self, error: Exception, topic: str) -> MessagingError:
        if isinstance(error, MessagingError):
            return error
        reason = code_of(error)
        if reason is not None and reason.code() == KafkaError._FATAL:
            # The owner will hear of it by its next poll, and make another producer.
            return ConnectionLost("the Kafka producer cannot go on", delivered=Delivered.NO)
        refusal = (
            of_message(reason, topic)
            if reason is not None
            # The sender's own `encode`, or a header that cannot be written.
            else EncodeError(f"the message cannot be encoded: {error}")
        )
        refusal.__cause__ = error
        return refusal

    def _failed(self, outgoing: Outgoing, error: KafkaError, topic: str) -> None:
        """The library's report on a message that nobody has stored, as far as it knows."""
        refusal = of_message(error, topic)
        if isinstance(refusal, NoRoute):
            # It was deleted; the next message looks again.
            self._known.discard(topic)
        self._refused.add()
        if error.code() == KafkaError._MSG_TIMED_OUT:
            # No word of a broker's.
            self._troubles.suspect()
        else:
            self._reports.last = self._clock()
        self._answers.append(SentResult(outgoing, outgoing.stage, refusal))

    def _tell(self, result: SentResult) -> None:
        self._answers.append(result)
        self.wake()

    # Everything else: the owner

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._closed:
            return math.inf
        self._wait(timeout)
        now = self._clock()
        while self._posted:
            self._posted.popleft()()
        if self._producer is not None:
            if now >= self._reports.left_until:
                # Also serves what the library has to tell of its brokers.
                self._producer.poll(0)
            self._watch(now)
        if self._retired:
            self._poll_retired()
        self._contact.step(now)
        if self._held:
            self._release(now)
        if self._close_by is not None:
            self._try_to_close(now)
        if not self._closed:
            self._fire()
        return self._hint(self._clock())

    def _wait(self, timeout: float) -> None:
        if self._rest.called() or self._answers or self._posted or timeout <= 0.0:
            return
        now = self._clock()
        if self._producer is not None and self._under_way():
            left = self._reports.left_until - now
            if left > 0.0:
                self._rest.rest(min(timeout, left, CAP))
            else:
                self._producer.poll(min(timeout, CAP))
            return
        wait = min(timeout, max(0.0, self._next_due() - now), 1.0)
        self._idle = True
        self._rest.rest(wait, self._wanted)
        self._idle = False

    def _wanted(self) -> bool:
        return bool(self._answers or self._posted or self._under_way())

    def _next_due(self) -> float:
        due = min(self._contact.due, self._look_at)
        return due if self._close_by is None else min(due, self._close_by)

    def _hint(self, now: float) -> float:
        if self._closed:
            return math.inf
        if self._answers or self._posted or self._contact.told:
            return 0.0
        return max(0.0, self._next_due() - now)

    def _watch(self, now: float) -> None:
        failure = self._troubles.outage()
        if failure is None:
            if self._reports.stored or not self._under_way():
                self._reports.last = now
            elif now - self._reports.last > 2 * self._settings.heartbeat and self._contact.state is State.READY:
                self._reports.last = now
                failure = ConnectFailed(
                    f"the Kafka brokers have confirmed nothing for {2 * self._settings.heartbeat:g} s"
                )
        if failure is not None:
            if self._troubles.fatal and self._producer is not None:
                # What it has is in doubt, and reported so; a new one is made with the next READY.
                self._troubles = Troubles()
                self._producer.purge(blocking=False)
                self._retired.append(self._producer)
                self._producer = None
            self._contact.lost(failure)
        elif self._troubles.doubt():
            self._contact.doubt()

    def _poll_retired(self) -> None:
        for producer in list(self._retired):
            producer.poll(0)
            if not len(producer):
                self._retired.remove(producer)
                self._dispose(producer)

    def _dispose(self, producer: Producer) -> None:
        holder: list[Any] = [producer]
        self._services.offload(lambda: clients.dispose(holder), lambda _, error: None)

    def _under_way(self) -> int:
        return len(self._producer) if self._producer is not None else 0

    def _connected(self, user: configuration.Login) -> None:
        self._user = user
        # What is under way has had no chance yet to be confirmed.
        self._reports.last = self._clock()
        if self._producer is None:
            self._producer = clients.make_producer(
                configuration.producer(self._settings, user, self.client_id), self._troubles
            )
        elif user is not None:
            self._producer.set_sasl_credentials(*user)

    def _checks(self) -> list[Callable[[float], object]]:
        producer = self._producer
        topic = next(iter(self._known), None)
        # Without a topic it would ask for all of the cluster.
        return [] if producer is None or topic is None else [lambda timeout: producer.list_topics(topic, timeout)]

    # Topics that were not seen yet

    def _release(self, now: float) -> None:
        """Go through what waits: ask for its topic, send it, or tell that its time is over."""
        if self._full and self._producer is not None:
            self._full = False
        for topic, held in list(self._held.items()):
            if topic in self._known:
                while held and self._write(topic, held[0]):
                    held.popleft()
            elif topic not in self._asked and held and self._producer is not None:
                self._ask(topic)
            for outgoing in list(held):
                if outgoing.deadline and outgoing.deadline <= now:
                    held.remove(outgoing)
                    if not outgoing.withdrawn:
                        self._news.append(expired(outgoing))
        self._look_at = now + _LOOK if any(self._held.values()) else math.inf

    def _ask(self, topic: str) -> None:
        self._asked.add(topic)
        create = self._settings.create_topics == "all" or (self._plain and self._settings.create_topics != "no")
        self._services.offload(
            lambda: find_topics(self._settings, self._user, [topic], create=create, listens=False),
            lambda _, error: self._post(lambda: self._found(topic, error)),
        )

    def _found(self, topic: str, error: BaseException | None) -> None:
        self._asked.discard(topic)
        if error is None:
            self._known.add(topic)
            return
        if isinstance(error, ConnectFailed):
            self._contact.lost(error)
        held = self._held.get(topic, deque())
        while held:
            outgoing = held.popleft()
            if not outgoing.withdrawn:
                self._news.append(_unsent(outgoing, error))

    # Telling and closing

    def _fire(self) -> None:
        contact = self._contact
        told, contact.told = contact.told, []
        for state, cause, retry_in in told:
            self._events.on_state(state, cause, retry_in, None)
        self._tell_room()
        while self._answers:
            self._news.append(self._answers.popleft())
        if self._reports.stored:
            self._events.on_taken(self._reports.take())
        if self._news:
            news, self._news = self._news, []
            self._events.on_sent(news)

    def _tell_room(self) -> None:
        state = self._contact.state
        if self._full and state is State.READY:
            self._contact.state = State.BLOCKED
            self._events.on_state(State.BLOCKED, None, None, None)
        elif state is State.BLOCKED and not any(self._held.values()):
            self._contact.state = State.READY
            self._events.on_state(State.READY, None, None, None)

    def _try_to_close(self, now: float) -> None:
        by = self._close_by
        if by is None:
            return
        producer = self._producer
        under_way = producer is not None and len(producer)
        if (under_way or (any(self._held.values()) and producer is not None)) and now < by:
            return
        cause = Closed("the connection was closed")
        for held in self._held.values():
            self._news += [unwritten(outgoing, cause) for outgoing in held if not outgoing.withdrawn]
            held.clear()
        if producer is not None and under_way:
            if not self._purged:
                self._purged = True
                producer.purge(blocking=False)
                self._close_by = by = now + _PURGE
            if now < by:
                producer.poll(0)
                return
        self._producer = None
        for each in [*([producer] if producer is not None else []), *self._retired]:
            self._dispose(each)
        self._retired.clear()
        self._contact.ended = True
        self._fire()
        self._closed = True
        self._events.on_state(State.CLOSED, None, None, None)

    def _post(self, function: Callable[[], None]) -> None:
        """Have something done by the owner; any thread."""
        self._posted.append(function)
        self.wake()

    def fileno(self) -> int | None:
        """See Connection; the library has no descriptor."""
        return None

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection; a notifier's connection receives nothing."""
        error = Unsupported("this connection of kafka:// sends notifications and receives nothing")
        self._post(lambda: self._events.on_subscribed(source, "", error))

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._post(lambda: self._events.on_subscribed(source, "", Cancelled("nothing was subscribed")))

    def settle(self, deliveries: Any, outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection; there is nothing to settle."""

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace
            self.wake()

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return {"reconnects": self._contact.reconnects, "refused": int(self._refused)}


def _unsent(outgoing: Outgoing, cause: BaseException) -> SentResult:
    """The news of a message whose topic could not be found."""
    if isinstance(cause, ConnectFailed) or not isinstance(cause, MessagingError):
        return unwritten(outgoing, cause)
    # One error each, since whoever gets it may add to it.
    return SentResult(outgoing, None, copy.copy(cause))
