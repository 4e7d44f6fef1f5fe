"""The connection of listeners: a consumer for each source, pumped in turn, and one producer for copies.

The library waits in one consumer at a time and cannot be woken, so it waits at most 10 ms; where no consumer has room
for more, the owner rests on a descriptor instead, and where handlers are quick, for a millisecond that lets a batch of
settlements come together.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from messaging.drivers.base import ConnectionEvents, Services, State
from messaging.drivers.kafka import clients, configuration
from messaging.drivers.kafka.clients import CAP
from messaging.drivers.kafka.contact import Contact
from messaging.drivers.kafka.copies import Copier
from messaging.drivers.kafka.options import KafkaSettings
from messaging.drivers.kafka.preparing import Prepared, prepare
from messaging.drivers.kafka.rest import Rest
from messaging.drivers.kafka.settling import Settling
from messaging.drivers.kafka.subscription import Life, Subscription
from messaging.drivers.kafka.topics import names_for
from messaging.errors import ConnectFailed, InvalidTarget, Unsupported
from messaging.message import Delivery, Outcome, Outgoing, SentResult, Source, SourceKind, by_source

__all__ = ["ListenerConnection"]

_SHORT = 0.001
"""Seconds for which settlements are let come together, while handlers are quick."""
_QUICK = 0.05
"""Seconds without room after which handlers do not count as quick any more."""


class ListenerConnection:
    """See messaging.drivers.base.Connection."""

    def __init__(self, settings: KafkaSettings, events: ConnectionEvents, services: Services) -> None:
        self.client_id = clients.client_id(settings.client_id, "listener")
        self._settings = settings
        self._events = events
        self._services = services
        self._clock = services.clock
        self._names = names_for(
            settings.wire, settings.url.vhost, settings.oslo_group, listeners_too=settings.oslo_suffix == "both"
        )
        self._posted: deque[Callable[[], None]] = deque()
        self._contact = Contact(settings, services, self._post, self._connected, self._checks)
        self._user: configuration.Login = None
        self._copier = Copier(lambda: configuration.copier(settings, self._user, self.client_id), services.clock)
        self._groups: dict[str, Subscription] = {}
        self._leaving: list[Subscription] = []
        """Unsubscribed, or replaced; their consumers are not closed yet."""
        self._unannounced = False
        self._generations = itertools.count(1)
        self._sent: list[SentResult] = []
        self._rest = Rest()
        self.wake = self._rest.wake
        """See Connection; any thread, and signal handlers."""
        self._full_since = math.inf
        self._rotation = 0
        self._close_by: float | None = None
        self._closed = False
        self._stale = 0
        self._rebalances = 0

    # Turns

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._closed:
            return math.inf
        reading = [each for each in self._groups.values() if each.has_room and not self._contact.asking]
        wait = self._wait(timeout, reading)
        while self._posted:
            self._posted.popleft()()
        self._rotation += 1
        first = reading[self._rotation % len(reading)] if reading else None
        if not self._contact.asking:
            for subscription in self._all():
                subscription.turn(wait if subscription is first else 0.0)
        self._copier.poll()
        self._watch()
        self._contact.step(self._clock())
        if self._contact.state is State.READY:
            for subscription in self._groups.values():
                self._prepare(subscription)
        if self._close_by is not None:
            self._try_to_close(self._close_by)
        else:
            self._fire()
        return self._hint()

    def _all(self) -> list[Subscription]:
        return [*self._groups.values(), *self._leaving]

    def _wait(self, timeout: float, reading: Sequence[Subscription]) -> float:
        """Rest, where nothing can be read; else return how long the library may wait."""
        woken = self._rest.called()
        now = self._clock()
        wait = min(timeout, max(0.0, self._next_due() - now))
        if woken or self._posted or wait <= 0.0:
            return 0.0
        if reading:
            self._full_since = math.inf
            return min(wait, CAP)
        if self._copier.under_way:
            wait = min(wait, CAP)
        if self._full_since == math.inf:
            self._full_since = now
        if self._groups and now - self._full_since < _QUICK:
            self._rest.pause(min(wait, _SHORT))
            return 0.0
        self._rest.rest(min(wait, 1.0), self._posted.__len__)
        return 0.0

    def _next_due(self) -> float:
        due = self._contact.due if self._close_by is None else min(self._contact.due, self._close_by)
        for subscription in self._all():
            due = min(due, subscription.due)
        return due

    def _hint(self) -> float:
        if self._closed:
            return math.inf
        if self._posted or self._sent or self._contact.told:
            return 0.0
        return max(0.0, self._next_due() - self._clock())

    def _watch(self) -> None:
        for troubles in [*(each.troubles for each in self._groups.values()), self._copier.troubles]:
            failure = troubles.outage()
            if failure is not None:
                self._contact.lost(failure)
            elif troubles.doubt():
                self._contact.doubt()

    def _connected(self, user: configuration.Login) -> None:
        renewed = self._user is not None and user != self._user
        self._user = user
        self._unannounced = True
        if self._copier.troubles.fatal:
            self._dispose(self._copier.replace())
        if renewed:
            self._copier.renew(user)
            for subscription in self._groups.values():
                subscription.renew(user)

    def _checks(self) -> list[Callable[[float], object]]:
        return [check for each in self._all() if (check := each.check()) is not None]

    # Sources

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        names = self._names
        try:
            topic, group = names.receiving(source), names.group(source)
            retry = None if source.kind is SourceKind.DEAD else names.retry(source)
            dead = names.dead(source)
        except InvalidTarget as error:
            refusal = error
            self._post(lambda: self._events.on_subscribed(source, "", refusal))
            return
        subscription = self._groups.get(group)
        if subscription is None:
            subscription = self._groups[group] = Subscription(
                group,
                dead=dead,
                clock=self._clock,
                copier=self._copier,
                commit_interval=self._settings.commit_interval,
                retry_buffer=self._settings.retry_buffer,
                most_bytes=self._settings.window_bytes,
                largest=self._settings.max_body,
                in_order=self._settings.order == "partition",
                tells_nothing=self._settings.group_protocol == "consumer",
                offload=self._offload,
                next_generation=self._generations.__next__,
                awaits_settled=self._events.awaits_settled,
            )
        subscription.sources[topic] = source
        if retry is not None:
            subscription.retries[topic] = retry
        subscription.windows[source] = window
        self.wake()

    def _prepare(self, subscription: Subscription) -> None:
        """Have those topics prepared that are new to it."""
        topics = [topic for topic in subscription.sources if topic not in subscription.prepared]
        if not topics or (subscription.life is Life.PREPARING and subscription.prepared):
            # Those that come while the others are prepared have their turn when it has joined: it joins once.
            return
        subscription.prepared.update(topics)
        settings = self._settings
        user = self._user
        joins = subscription.life is Life.PREPARING
        conf = configuration.consumer(settings, user, self.client_id, subscription.group)
        if joins:
            conf["on_commit"] = subscription.commits.answered
        # Who reads dead letters reads all of them.
        from_beginning = settings.start == "beginning" or not subscription.retries
        retries = [subscription.retries[topic] for topic in topics if topic in subscription.retries]
        dead = subscription.dead if self._names.keeps_dead else None

        def work() -> Prepared:
            found = prepare(settings, conf, user, topics, retries, dead, from_beginning=from_beginning)
            if not joins:
                clients.dispose([found.consumer])
            return found

        def done(found: Any, error: BaseException | None) -> None:
            if isinstance(error, ConnectFailed) and error.retryable and subscription.life is not Life.DRAINING:
                # No broker just now: once more when one is there.
                subscription.prepared.difference_update(topics)
                self._contact.lost(error)
            elif error is None:
                subscription.begin_at(topics, found.starts)
                if joins:
                    subscription.join(found, None)
                else:
                    subscription.subscribe_all()
            elif joins:
                subscription.join(None, error)
            else:
                subscription.refuse(topics, error)

        self._offload(work, done)

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        for group, subscription in list(self._groups.items()):
            if source in subscription.windows:
                subscription.remove(source)
                if not subscription.windows:
                    del self._groups[group]
                    self._leaving.append(subscription)
                else:
                    subscription.subscribe_all()
        self.wake()

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        if outcome is Outcome.REJECT and not self._names.keeps_dead:
            # It was told as lost where it was rejected; here it is done.
            outcome = Outcome.ACCEPT
        # After a source was subscribed anew, what was delivered before is still with its former consumer.
        parts: dict[Settling, list[Delivery]] = {}
        if not self._leaving and deliveries:
            deliveries[0].tag.partition.owner.settle(deliveries, outcome, delay, reason)
            return
        for delivery in deliveries:
            parts.setdefault(delivery.tag.partition.owner, []).append(delivery)
        for owner, part in parts.items():
            owner.settle(part, outcome, delay, reason)

    # Telling

    def _fire(self) -> None:
        contact = self._contact
        told, contact.told = contact.told, []
        for state, cause, retry_in in told:
            self._events.on_state(state, cause, retry_in, None)
        if self._sent:
            sent, self._sent = self._sent, []
            self._events.on_sent(sent)
        self._announce_again()
        for subscription in self._all():
            self._tell(subscription)
            if subscription.life is Life.GONE:
                self._forget(subscription)
                self._leaving = [each for each in self._leaving if each is not subscription]
                if self._groups.get(subscription.group) is subscription:
                    del self._groups[subscription.group]

    def _announce_again(self) -> None:
        """After an outage, say of each source that it is there again; its assignment has survived."""
        if not self._unannounced or self._contact.state is not State.READY:
            return
        self._unannounced = False
        for subscription in self._groups.values():
            told = {source for source, _, _ in subscription.news}
            subscription.news += [
                (source, subscription.group, None) for source in subscription.announced if source not in told
            ]
        self._contact.whole()

    def _tell(self, subscription: Subscription) -> None:
        events = self._events
        news, subscription.news = subscription.news, []
        for source, address, error in news:
            if error is None and self._contact.state is not State.READY:
                # It is said when brokers can be reached again.
                self._unannounced = True
            else:
                events.on_subscribed(source, address, error)
        commits = subscription.commits
        if commits.told:
            told, commits.told = commits.told, []
            for deliveries, error in told:
                events.on_settled(deliveries, error)
        batch, subscription.batch = subscription.batch, []
        if batch:
            begun = self._clock()
            for part in by_source(batch):
                events.on_deliveries(part[0].source, part)
            subscription.handled(len(batch), self._clock() - begun)

    # The end

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace
            self.wake()

    def _try_to_close(self, by: float) -> None:
        self._leaving += self._groups.values()
        self._groups.clear()
        late = self._clock() >= by
        if late or not self._copier.under_way:
            for subscription in self._leaving:
                subscription.finish()
        self._fire()
        if not late and self._leaving:
            return
        for subscription in self._leaving:
            self._forget(subscription)
        self._dispose(self._copier.take())
        self._contact.ended = True
        self._closed = True
        self._events.on_state(State.CLOSED, None, None, None)

    def _dispose(self, holder: list[Any]) -> None:
        if holder:
            self._services.offload(lambda: clients.dispose(holder), lambda _, error: None)

    def _forget(self, subscription: Subscription) -> None:
        self._stale += subscription.settling.stale
        self._rebalances += subscription.rebalances

    # What any thread may call

    def _offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run what blocks, and `done` on the owner; or, when the connection is closed, what is left to give back."""

        def ended(result: Any, error: BaseException | None) -> None:
            if self._closed:
                if isinstance(result, Prepared):
                    clients.dispose([result.consumer])
                return
            self._post(lambda: done(result, error))

        self._services.offload(function, ended)

    def _post(self, function: Callable[[], None]) -> None:
        self._posted.append(function)
        self.wake()

    def fileno(self) -> int | None:
        """See Connection; the library has no descriptor."""
        return None

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection; a listener's connection sends nothing."""
        error = Unsupported("this connection of kafka:// receives notifications and sends none")
        self._post(lambda: self._sent.append(SentResult(outgoing, None, error)))

    def counts(self) -> dict[str, int]:
        """See Connection."""
        everything = self._all()
        return {
            "reconnects": self._contact.reconnects,
            "stale_settlements": self._stale + sum(each.settling.stale for each in everything),
            "rebalances": self._rebalances + sum(each.rebalances for each in everything),
            "partitions": sum(each.partitions for each in everything),
            "waiting_for_retry": sum(len(each.delayed) for each in everything),
            "copies_failed": self._copier.failed,
        }
