"""The notifications of one pipeline that take the short way: plain values, to one topic, over the transport and to
nothing else.

Nearly all do, and a pipeline is where each of them counts. So there is no Event for sinks that are not there, and no
operation for each: together they are one in the table of what is under way, and a message is entered in the burst's own
table until it has been taken. Only a message that somebody refuses, or whose deadline passes, becomes an operation by
itself, a Sending, and goes on as every notification does. For Kafka, whose broker is quick, that takes 1.1 to 1.8 µs of
the 8.0 to 9.5 that each took of the notifier's processor time.

Where anything about a notification is out of the ordinary nothing is sent and `start` says so, and the long way is
taken; so what is refused, and how, is written there alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import field

from messaging.errors import Cancelled, MessagingError
from messaging.message import MESSAGE_ID, Outgoing, Route, Stage
from messaging.notify.session import KIND, NotifySession, Sending
from messaging.pending import Operation
from messaging.wire.native import KEY_HEADER, LEVEL_HEADER, VERSION, Kind, Notification

__all__ = ["Burst", "Way"]

_NOTIFICATION = int(Kind.NOTIFICATION)
_WRITTEN = Stage.WRITTEN


class Way(msgspec.Struct, frozen=True, eq=False):
    """How one notifier reaches its only topic over one connection. Thread-safe."""

    session: NotifySession
    publisher_id: str
    levels: Mapping[str, tuple[str, Route, dict[str, Any]]]
    """By level: the topic, its route, and the headers that all its messages have, with a place for their ids."""
    timeout: float
    """Seconds."""
    retry: int | None

    @classmethod
    def of(
        cls,
        session: NotifySession,
        publisher_id: str,
        topics: Mapping[str, tuple[str, Route]],
        headers: Mapping[str, Any],
        timeout: float,
        retry: int | None,
    ) -> Way:
        """Make one: `topics` and routes by level, and what the notifier sends with everything."""
        levels = {
            level: (topic, route, {**headers, LEVEL_HEADER: level, MESSAGE_ID: ""})
            for level, (topic, route) in topics.items()
        }
        return cls(session, publisher_id, levels, timeout, retry)


class Burst(Operation, kw_only=True):
    """What one pipeline has under way on the short way. It is never ended itself: its parts are.

    A message is `under_way` from its start on, with its place in the pipeline. Who takes it out of that table has its
    end: mostly on the news that it is taken, which the owner or the pipeline's own thread gets; and when there are
    other news, it is put `aside` until the Sending that it becomes has ended.
    """

    way: Way
    session: NotifySession
    under_way: dict[Outgoing, int] = field(default_factory=dict)
    aside: dict[Outgoing, Sending] = field(default_factory=dict)
    """With a Sending that has not ended."""
    sendings: dict[int, Sending] = field(default_factory=dict)
    """What has not gone well at once, by its place in the pipeline."""
    few: int = -1
    """With how many under way `wake` is to be called; -1: nobody waits."""

    @classmethod
    def over(cls, way: Way) -> Burst:
        """Make one, with nothing under way and nobody who waits."""
        return cls(
            id=way.session.next_id(),
            kind=KIND,
            timeout=way.timeout,
            deadline=math.inf,
            wake=_nothing,
            way=way,
            session=way.session,
        )

    def start(
        self, place: int, level: str, ctxt: Mapping[str, Any] | None, event_type: str, payload: Any, key: str | None
    ) -> bool:
        """Start to send the notification with this place in the pipeline. Never waits.

        False: nothing was sent, because something has to be looked at more closely.
        """
        way = self.way
        found = way.levels.get(level)
        if found is None or type(event_type) is not str or not event_type:
            return False
        if ctxt is None:
            ctxt = {}
        elif type(ctxt) is not dict:
            return False
        session = self.session
        try:
            body = session.encode(
                Notification(
                    VERSION,
                    _NOTIFICATION,
                    0,
                    event_type,
                    way.publisher_id,
                    level,  # type: ignore[arg-type]  # it is a key of `levels`
                    time.time(),
                    ctxt,
                    payload,
                )
            )
        except (TypeError, ValueError, OverflowError, RecursionError):
            return False
        reactor = session.reactor
        if len(body) > reactor.capabilities.max_body:
            return False
        deadline = session.clock() + way.timeout
        # A copy of what has all the keys takes half of the time of a new one (83 ns against 172).
        headers = found[2].copy()
        headers[MESSAGE_ID] = session.next_id()
        if key is not None:
            headers[KEY_HEADER] = key
        outgoing = Outgoing(found[1], body, headers, self, key, False, False, deadline)
        session.sent()
        self.under_way[outgoing] = place
        # After the table: the owner, when it finds nothing there, does it the other way round.
        if deadline < self.deadline:
            self._enter(deadline)
        try:
            reactor.publish(outgoing)
        except MessagingError as error:
            sending = self._by_itself(outgoing)
            if sending is not None:
                session.operations.end(sending, error)
        return True

    def remaining(self) -> float:
        """Seconds until the last deadline; 0.0: nothing is under way."""
        left = [*list(self.under_way)[-1:], *list(self.aside)]
        return max(outgoing.deadline for outgoing in left) - self.session.clock() if left else 0.0

    def number(self) -> int:
        """How many have not ended."""
        return len(self.under_way) + len(self.aside)

    def is_down_to(self, few: int) -> bool:
        """Whether no more than `few` are under way; if not, `wake` is called as soon as that is so, once."""
        # Say what is waited for, then look: an end in between sees the one or is seen by the other.
        self.few = few
        if self.number() > few:
            return False
        self.few = -1
        return True

    def collect(self, timeout: float) -> bool:
        """Fetch outcomes on the pipeline's thread; wait for them for up to `timeout` seconds. False: the owner alone
        can.
        """
        return self.session.reactor.collect(self, timeout)

    # Outcomes; on the owner, and what is taken on the pipeline's thread too

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: object) -> None:
        """Take the news of one message."""
        if error is None:
            if stage is not _WRITTEN or not self.session.reactor.capabilities.confirms:
                self.all_taken((outgoing,))
        else:
            sending = self._by_itself(outgoing)
            if sending is not None:
                sending.sent(outgoing, stage, error, taker)

    def all_taken(self, outgoings: Sequence[Outgoing]) -> None:
        """Take the news that these are taken."""
        take = self.under_way.pop
        taken = 0
        for outgoing in outgoings:
            if take(outgoing, None) is not None:
                outgoing.token = None
                taken += 1
        self.session.taken_many(taken)
        self._tell_few()

    def _by_itself(self, outgoing: Outgoing) -> Sending | None:
        """Make a message an operation of its own; None when it has ended or is one already."""
        if outgoing not in self.under_way:
            return None
        sending = self._sending(outgoing)
        # Into one table before it is out of the other: whoever looks meanwhile must not find it in none.
        self.aside.setdefault(outgoing, sending)
        place = self.under_way.pop(outgoing, None)
        if place is None:
            # Taken at this moment, or made one by somebody else.
            if self.aside.get(outgoing) is sending:
                self._ended(outgoing)
            return None
        self.aside[outgoing] = self.sendings[place] = sending
        outgoing.token = sending
        self.session.operations.pending.add(sending)
        return sending

    def _sending(self, outgoing: Outgoing) -> Sending:
        way = self.way
        return Sending(
            id=outgoing.headers[MESSAGE_ID],
            kind=KIND,
            timeout=way.timeout,
            deadline=outgoing.deadline,
            wake=partial(self._ended, outgoing),
            outgoing=outgoing,
            session=self.session,
            topic=way.levels[outgoing.headers[LEVEL_HEADER]][0],
            retry=way.retry,
        )

    def _ended(self, outgoing: Outgoing) -> None:
        self.aside.pop(outgoing, None)
        self._tell_few()

    def _tell_few(self) -> None:
        if self.number() <= self.few:
            self.few = -1
            self.wake()

    # In the table of operations

    def _enter(self, deadline: float) -> None:
        self.deadline = deadline
        self.session.operations.pending.add(self)

    def _leave(self) -> None:
        """Nothing is under way: out of the table, until there is."""
        self.deadline = math.inf
        self.session.operations.pending.take(self.id, None)
        for outgoing in list(self.under_way):
            # It was started meanwhile.
            self._enter(outgoing.deadline)
            break

    def due(self, now: float) -> Sequence[Operation]:
        """See Operation. Messages are in the order of their deadlines."""
        due: list[Operation] = []
        for outgoing in list(self.under_way):
            if outgoing.deadline > now:
                self.deadline = outgoing.deadline
                return due
            sending = self._by_itself(outgoing)
            if sending is not None:
                due.append(sending)
        self._leave()
        return due

    def parts(self) -> Sequence[Operation]:
        """See Operation."""
        sendings = [self._by_itself(outgoing) for outgoing in list(self.under_way)]
        return [sending for sending in sendings if sending is not None]

    # The end of the pipeline

    def give_up(self, why: str) -> None:
        """End everything as cancelled; the pipeline's thread."""
        for outgoing in [*list(self.under_way), *list(self.aside)]:
            outgoing.withdrawn = True
        operations = self.session.operations

        def end() -> None:
            for sending in (*self.parts(), *self.sendings.values()):
                operations.end(sending, Cancelled(why))

        reactor = operations.reactor
        if reactor.is_owner():
            end()
            return
        try:
            reactor.call_soon(end)
        except MessagingError:
            # The transport is being closed, and that ends them.
            pass

    def troubled(self) -> dict[int, Sending]:
        """What has not gone well, by its place; what has no outcome by now has expired. The pipeline's thread."""
        late: dict[int, Sending] = {}
        for outgoing in list(self.under_way):
            place = self.under_way.get(outgoing)
            if place is not None:
                # The owner is late, and will count whatever becomes of this one.
                outgoing.withdrawn = True
                sending = late[place] = self._sending(outgoing)
                sending.error = sending.expired()
        for sending in list(self.sendings.values()):
            if not sending.ended:
                sending.session.abandon(sending, sending.expired())
        if not self.under_way:
            self._leave()
        return late | self.sendings


def _nothing() -> None:
    """What is told to nobody."""
