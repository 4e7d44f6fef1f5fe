"""One connection to a RabbitMQ broker: its states, and the events of the contract.

What happens is noted down by the parts (publisher, subscriptions, settling) and told at the end of `pump`; they hear
from here when a life of the link begins and when it ends. A pump in which nothing but messages came does nothing but
read, tell and write: everything else is looked at when it is due, or when something beside the traffic has happened.
"""

from __future__ import annotations

import enum
import math
import secrets
from collections.abc import Callable, Sequence
from functools import partial

from messaging.drivers.base import ConnectionEvents, Role, Services, State
from messaging.drivers.rabbit.client import MakeClient
from messaging.drivers.rabbit.declarations import Declarations
from messaging.drivers.rabbit.link import Link
from messaging.drivers.rabbit.options import RabbitSettings
from messaging.drivers.rabbit.publisher import Publisher
from messaging.drivers.rabbit.settling import Settling
from messaging.drivers.rabbit.subscriptions import Subscriptions
from messaging.drivers.rabbit.topology import Topology
from messaging.drivers.stream import Stream
from messaging.errors import Closed
from messaging.message import Delivery, Outcome, Outgoing, Source, SourceKind

__all__ = ["RabbitConnection"]

_ROUNDS = 4
"""How often one pump tells events that its own events have caused: a settlement made in on_deliveries is told in the
same pump."""
_MOST_ANSWERS = 16
"""Answers that are acknowledged together, or fewer of more than 4 KiB each; the rest is acknowledged within seconds.
One acknowledgement per answer costs a caller that is alone 12 us per call, in the broker.
"""


class _Step(enum.Enum):
    """Where a connection stands."""

    WAITING = "waiting"
    """For the time of the next attempt; for ever where there will be none."""
    CONNECTING = "connecting"
    OPEN = "open"
    PARTING = "parting"
    """Everything is written; its own queues are being deleted, and the broker is told."""
    CLOSED = "closed"

    __hash__ = object.__hash__


# Looked up in every pump; a member of an enumeration costs 70 ns, a name here 20.
_OPEN = _Step.OPEN
_CLOSED = _Step.CLOSED
_BLOCKED = State.BLOCKED


class RabbitConnection:
    """See messaging.drivers.base.Connection. `topology` is asked for with the connection's identity.

    `stream` is the socket, for tests that do something to it.
    """

    def __init__(
        self,
        settings: RabbitSettings,
        role: Role,
        events: ConnectionEvents,
        services: Services,
        *,
        make_client: MakeClient,
        topology: Callable[[str], Topology],
        direct_replies: bool,
    ) -> None:
        self._events = events
        self._clock = services.clock
        self._declare = settings.declare
        self._answers_survive = not direct_replies
        self.stream = Stream(settings.coalesce)
        self._link = Link(settings, role, services, make_client, self.stream)
        self._declarations = Declarations(self._link, settings.declare)
        made = topology(secrets.token_hex(8))
        self._publisher = Publisher(
            self._link,
            self._declarations,
            made,
            self.stream,
            max_body=settings.max_body,
            clock=services.clock,
            direct_replies=direct_replies,
        )
        self._subscriptions = Subscriptions(
            self._link,
            self._declarations,
            made,
            declare=settings.declare,
            clock=services.clock,
            random=services.random,
            direct_returned=self._publisher.direct_returned,
        )
        self._settling = Settling(self._subscriptions, self._publisher, made, self.stream)
        self._step = _Step.WAITING
        self._state: State | None = None
        self._notices: list[Callable[[], None]] = []
        self._retry_at = 0.0
        self._due = 0.0
        """When a turn is due; a turn works it out anew."""
        self._attention = True
        """Something was asked that no descriptor tells of."""
        self._whole = True
        self._close_by: float | None = None
        self._lives = 0

    # The contract

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._step is _CLOSED:
            return math.inf
        now = self._clock()
        self._flush(now)
        if timeout > 0.0:
            rest = 0.0 if self._has_news() else self._rest(now)
            timeout = rest if rest < timeout else timeout
        ready = self.stream.wait(timeout if timeout > 0.0 else 0.0)
        if ready or timeout > 0.0:
            now = self._clock()
        link = self._link
        if ready:
            link.read(now)
        # Messages that wait, or have waited so that BLOCKED was told, may go on or have expired.
        if self._attention or link.attention or now >= self._due or self._publisher.waiting or self._state is _BLOCKED:
            self._turn(now)
        news = True
        for _ in range(_ROUNDS):
            self._tell()
            self._flush(now)
            news = self._has_news()
            if not news:
                break
        if self._step is _CLOSED:
            self.stream.dispose()
            return math.inf
        return 0.0 if news else self._rest(now)

    def wake(self) -> None:
        """See Connection; any thread, and signal handlers."""
        self.stream.wake()

    def fileno(self) -> int | None:
        """See Connection."""
        return self.stream.fileno()

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection."""
        self._publisher.publish(outgoing, self._step is _OPEN and not self._link.held)

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self._whole = False
        self._attention = True
        self._subscriptions.subscribe(source, window)

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._attention = True
        self._subscriptions.unsubscribe(source)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        self._settling.settle(deliveries, outcome, delay, reason)

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace
            self._attention = True

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return {
            "reconnects": max(0, self._lives - 1),
            "resubscribed": self._subscriptions.resubscribed,
            "stale_settlements": self._settling.stale,
            "undecodable": self._subscriptions.undecodable,
            "reads": self.stream.reads,
            "writes": self.stream.writes,
        }

    # One turn

    def _rest(self, now: float) -> float:
        """Seconds for which nothing is due, when there are no news."""
        if self._attention or self._link.attention:
            return 0.0
        due = self._due
        if self._publisher.waiting:
            due = min(due, self._publisher.next_expiry)
        return due - now if due > now else 0.0

    def _has_news(self) -> bool:
        return bool(
            self._notices
            or self._publisher.news
            or self._subscriptions.batches
            or self._subscriptions.news
            or self._settling.news
        )

    def _turn(self, now: float) -> None:
        """Do what is due, and work out when the next thing is."""
        self._attention = False
        link = self._link
        link.run(now)
        if link.ended is not None:
            self._lose(link.ended, now)
        elif link.begun:
            self._begin(now)
        if self._step is _Step.WAITING and now >= self._retry_at and self._close_by is None:
            self._connect(now)
        elif self._step is _OPEN:
            self._subscriptions.step(now)
            if not self._whole and self._subscriptions.complete:
                self._whole = True
                link.whole_again()
        self._publisher.expire(now)
        self._note_blocking()
        self._go_on_closing(now)
        due = min(link.due, self._subscriptions.due)
        if self._step is _Step.WAITING:
            due = min(due, self._retry_at)
        if self._close_by is not None:
            due = min(due, self._close_by)
        self._due = due

    def _flush(self, now: float) -> None:
        """Write what may go, without waiting."""
        stream = self.stream
        publisher = self._publisher
        if self._step is _OPEN:
            if publisher.waiting and not self._link.held:
                publisher.write()
            answers = self._subscriptions.answers
            if answers is not None and answers.unacknowledged >= _MOST_ANSWERS:
                answers.acknowledge_answers()
        if stream.unwritten:
            self._link.send(now)
            publisher.flushed()
        if self._settling.unwritten:
            self._settling.flushed()

    # States

    def _note(self, state: State, cause: Exception | None = None, retry_in: float | None = None) -> None:
        self._note_sent()
        self._state = state
        self._notices.append(partial(self._events.on_state, state, cause, retry_in, None))

    def _note_sent(self) -> None:
        """Tell the news so far before what is noted next: what came back must not look refused by the next life."""
        news, self._publisher.news = self._publisher.news, []
        if news:
            self._notices.append(partial(self._events.on_sent, news))

    def _note_answers(self) -> None:
        """Tell the answers that came just before the end, and do not come again, before those who asked are told that
        theirs are in doubt.
        """
        answers = self._subscriptions.answers
        if answers is not None and (batch := answers.take_last_answers()):
            self._note_sent()
            self._notices.append(partial(self._events.on_deliveries, answers.source, batch))

    def _note_blocking(self) -> None:
        if self._step is not _Step.OPEN:
            return
        blocked = self._link.held or self._publisher.blocked
        if blocked and self._state is State.READY:
            self._note(State.BLOCKED)
        elif not blocked and self._state is _BLOCKED:
            self._note(State.READY)

    def _connect(self, now: float) -> None:
        self._step = _Step.CONNECTING
        self._note(State.CONNECTING)
        self._link.connect(now)
        # The address may be refused at once.
        self._attention = self._link.ended is not None

    def _begin(self, now: float) -> None:
        self._link.begun = False
        self._step = _Step.OPEN
        self._lives += 1
        self._note(State.READY)
        self._subscriptions.begin(now)

    def _lose(self, cause: Exception, now: float) -> None:
        if self._step is _Step.PARTING:
            self._close_by = now
        retry_in = self._link.delay(cause)
        self._step = _Step.WAITING
        self._whole = False
        self._retry_at = math.inf if retry_in is None else now + retry_in
        self._note_answers()
        self._note(State.LOST, cause, retry_in)
        self._end_life(cause, self._answers_survive)

    def _end_life(self, cause: Exception, answers_survive: bool) -> None:
        self._link.end()
        self._subscriptions.lose()
        # Before the declarations that its messages wait for: those were not written, and may go with the next life.
        self._publisher.lose(cause, answers_survive)
        self._declarations.lose(cause)
        self._settling.lose(cause)
        self._note_sent()
        self._link.drop()

    def _go_on_closing(self, now: float) -> None:
        close_by = self._close_by
        if close_by is None or self._step is _CLOSED:
            return
        if now < close_by and not self._link.parted:
            if self._step is _OPEN:
                if self._publisher.idle and self._settling.idle and not self.stream.unwritten:
                    self._part()
                return
            if self._step is _Step.PARTING:
                return
        self._note_answers()
        self._end_life(Closed("the connection was closed"), False)
        self._note(State.CLOSED)
        self._step = _Step.CLOSED

    def _part(self) -> None:
        """Everything is told and written: delete what nobody else can use, then say goodbye."""
        self._step = _Step.PARTING
        self._subscriptions.part()
        if self._subscriptions.answers is not None:
            self._subscriptions.answers.acknowledge_answers()
        own = tuple(self._subscriptions.own_queues()) if self._declare else ()
        self._declarations.part(own, self._say_goodbye)

    def _say_goodbye(self, _error: Exception | None) -> None:
        self._link.part()
        # Nothing may be asked of it after that.
        self._link.end()
        self._subscriptions.lose()

    # Telling

    def _tell(self) -> None:
        """Fire the events that were noted down."""
        events = self._events
        if self._notices:
            notices, self._notices = self._notices, []
            for notice in notices:
                notice()
        publisher = self._publisher
        if publisher.news:
            news, publisher.news = publisher.news, []
            events.on_sent(news)
        subscriptions = self._subscriptions
        if subscriptions.news:
            told, subscriptions.news = subscriptions.news, []
            for source, address, error in told:
                if source.kind is SourceKind.REPLY:
                    found = subscriptions.answers
                    publisher.reply_address = address
                    publisher.answers_come_to(found.channel if found is not None and error is None else None)
                events.on_subscribed(source, address, error)
        settling = self._settling
        if settling.news:
            settled, settling.news = settling.news, []
            for deliveries, error in settled:
                events.on_settled(deliveries, error)
        if subscriptions.batches:
            batches, subscriptions.batches = subscriptions.batches, {}
            for subscription in batches:
                subscription.batch_taken()
            for subscription, batch in batches.items():
                events.on_deliveries(subscription.source, batch)
