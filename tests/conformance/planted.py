"""Broken drivers: the reference driver with one bug each, planted between the connection and its owner.

A bug is what a driver's author may really get wrong: a message lost now and then, a window forgotten, an event at the
wrong time. `BUGS` names for each the scenarios that must fail.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

from messaging.drivers import memory
from messaging.drivers.base import ConnectionEvents, Role, Services, State
from messaging.drivers.wakeup import WakeUp
from messaging.errors import ConnectionLost, Delivered, NoRoute
from messaging.message import Delivery, Outcome, Outgoing, RouteKind, SentResult, Source, SourceKind, Stage


class Events:
    """Passes every event on; a bug overrides one."""

    def __init__(self, owner: ConnectionEvents) -> None:
        self.owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.owner, name)


class Connection:
    """Passes every call on; a bug overrides one."""

    def __init__(self, real: Any, events: Any) -> None:
        self.real = real
        self.events = events
        self.count = itertools.count(1).__next__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Driver(memory.Driver):
    """The reference driver with the two above in between."""

    def __init__(self, connection: type[Connection] = Connection, events: type[Events] = Events) -> None:
        self._connection = connection
        self._events = events

    def connect(  # type: ignore[override]  # it stands in for a connection, by the contract and not by its class
        self, settings: memory.Settings, role: Role, events: ConnectionEvents, services: Services
    ) -> Connection:
        between: Any = self._events(events)
        return self._connection(super().connect(settings, role, between, services), between)


# Messages that are lost, repeated, mixed up or changed


class LosesReplies(Connection):
    """One answer in a hundred goes nowhere."""

    def publish(self, outgoing: Outgoing) -> None:
        if outgoing.route.kind is not RouteKind.REPLY or self.count() % 100:
            self.real.publish(outgoing)


class LosesRequests(Connection):
    """One request in thirty is confirmed, and lost."""

    def __init__(self, real: Any, events: Any) -> None:
        super().__init__(real, events)
        real.hub.faults.lose(SourceKind.ANY, probability=1 / 30)


class MixesUpReplies(Connection):
    """Now and then two answers are exchanged: each goes to the call of the other."""

    kept: Outgoing | None = None

    def publish(self, outgoing: Outgoing) -> None:
        if outgoing.route.kind is RouteKind.REPLY:
            if self.kept is None and self.count() % 10 == 0:
                self.kept = outgoing
                return
            kept, self.kept = self.kept, None
            if kept is not None:
                kept.headers, outgoing.headers = outgoing.headers, kept.headers
                self.real.publish(kept)
        self.real.publish(outgoing)


class DeliversTwice(Events):
    """Every tenth message is handed over a second time."""

    seen = 0

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        twice = []
        for delivery in batch:
            twice.append(delivery)
            self.seen += 1
            if source.kind is not SourceKind.REPLY and self.seen % 10 == 0:
                twice.append(copy.copy(delivery))
        self.owner.on_deliveries(source, twice)


class ForgetsHeaders(Connection):
    """Headers of the user's own are dropped."""

    def publish(self, outgoing: Outgoing) -> None:
        outgoing.headers = {key: value for key, value in outgoing.headers.items() if not key.startswith("x-")}
        self.real.publish(outgoing)


class ForgetsBudgets(Connection):
    """The receiver is not told how long the caller waits."""

    def publish(self, outgoing: Outgoing) -> None:
        outgoing.budget = False
        self.real.publish(outgoing)


class IgnoresDeadlines(Connection):
    """What has expired is written all the same."""

    def publish(self, outgoing: Outgoing) -> None:
        outgoing.deadline = 0.0
        self.real.publish(outgoing)


class ReversesOrder(Events):
    """What arrives together is handed over in reverse."""

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        self.owner.on_deliveries(source, list(reversed(batch)))


# Wrong news


class SaysNoOfWhatIsWritten(Events):
    """One message in ten is written, and reported as if it had not been."""

    count = 0

    def on_sent(self, results: Sequence[SentResult]) -> None:
        told = []
        for result in results:
            self.count += 1
            if result.stage is Stage.TAKEN and self.count % 10 == 0:
                result = result._replace(error=ConnectionLost("lost before the write", delivered=Delivered.NO))
            told.append(result)
        self.owner.on_sent(told)


class SwallowsNoRoute(Events):
    """Nobody is told that nobody was there."""

    def on_sent(self, results: Sequence[SentResult]) -> None:
        self.owner.on_sent([result for result in results if not isinstance(result.error, NoRoute)])


class TellsAtOnce(Connection):
    """publish tells WRITTEN by itself, outside of pump."""

    def publish(self, outgoing: Outgoing) -> None:
        self.events.on_sent([SentResult(outgoing, Stage.WRITTEN)])
        self.real.publish(outgoing)


class HidesTheLoss(Events):
    """LOST is not told."""

    def on_state(self, state: State, *about: Any) -> None:
        if state is not State.LOST:
            self.owner.on_state(state, *about)


# Windows and settlements


class IgnoresTheWindow(Connection):
    """As much is handed over as there is."""

    def subscribe(self, source: Source, window: int) -> None:
        self.real.subscribe(source, 10**6)


class AcknowledgesOnReceipt(Connection):
    """What was received is settled before anybody has looked at it; what its owner says later is for show."""

    def __init__(self, real: Any, events: Any) -> None:
        super().__init__(real, events)
        on_deliveries = events.on_deliveries

        def accepting(source: Source, batch: Sequence[Delivery]) -> None:
            if source.kind is not SourceKind.REPLY:
                real.settle(batch, Outcome.ACCEPT)
            on_deliveries(source, batch)

        events.on_deliveries = accepting


class RequeueIsAccept(Connection):
    """What shall come again does not."""

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        self.real.settle(deliveries, Outcome.ACCEPT if outcome is Outcome.REQUEUE else outcome, delay, reason)


class SettlesStale(Connection):
    """A stale settlement is taken for a good one: reported, and not counted."""

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        good = [delivery for delivery in deliveries if not delivery.stale and delivery.tag is not None]
        self.real.settle(good, outcome, delay, reason)


# Pumps and lives


class OverstaysItsTimeout(Connection):
    """pump waits longer than it was told."""

    def pump(self, timeout: float) -> float:
        hint: float = self.real.pump(timeout + 0.4 if timeout else 0.0)
        return hint


class IgnoresWake(Connection):
    """A waiting pump is not woken."""

    def wake(self) -> None:
        pass


class TellsOfWakeUpsAlone(Connection):
    """The descriptor is not readable for messages."""

    def __init__(self, real: Any, events: Any) -> None:
        super().__init__(real, events)
        self.own = WakeUp()

    def fileno(self) -> int:
        return self.own.descriptor

    def wake(self) -> None:
        self.own.ring()
        self.real.wake()

    def pump(self, timeout: float) -> float:
        hint: float = self.real.pump(timeout)
        self.own.silence()
        return hint


class NeverUnsubscribes(Events):
    """unsubscribe is not answered."""

    def on_subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        if error is None:
            self.owner.on_subscribed(source, address, error)


class NeverCloses(Connection):
    """close does nothing."""

    def close(self, grace: float) -> None:
        pass


class DoesNotSubscribeAgain(Connection):
    """After a cut only the first subscription is there again."""

    def subscribe(self, source: Source, window: int) -> None:
        self.real.subscribe(source, window)
        self.real._wanted.clear()


# Peers that stand still


class HidesThatItIsBlocked(Events):
    """Nobody hears that the peer wants nothing more."""

    def on_state(self, state: State, *about: Any) -> None:
        if state is not State.BLOCKED:
            self.owner.on_state(state, *about)


class StaysBlocked(Events):
    """Once blocked, it is never told to be READY again."""

    blocked = False

    def on_state(self, state: State, *about: Any) -> None:
        self.blocked = self.blocked or state is State.BLOCKED
        if not (self.blocked and state is State.READY):
            self.owner.on_state(state, *about)


class DropsWhatIsBlocked(Connection):
    """What is published while the peer wants nothing more is dropped."""

    def publish(self, outgoing: Outgoing) -> None:
        if not self.real._link.held:
            self.real.publish(outgoing)


class TrustsTheNetwork(Connection):
    """A connection is good until its end is told."""

    def __init__(self, real: Any, events: Any) -> None:
        super().__init__(real, events)
        real._silence = math.inf


class GivesUpListening(Connection):
    """A connection that was silent once is never listened to again, and not given up either."""

    deaf = False

    def pump(self, timeout: float) -> float:
        self.deaf = self.deaf or self.real._link.stalled
        if self.deaf:
            time.sleep(min(timeout, 0.05))
            return 0.05
        hint: float = self.real.pump(timeout)
        return hint


BUGS: dict[type[Connection] | type[Events], tuple[str, ...]] = {
    LosesReplies: ("thousand_concurrent_calls",),
    LosesRequests: ("cast_executed_once",),
    MixesUpReplies: ("thousand_concurrent_calls", "thread_storm"),
    DeliversTwice: ("cast_executed_once", "pools_get_each_once"),
    ForgetsHeaders: ("context_and_headers", "message_arrives"),
    ForgetsBudgets: ("expired_is_never_executed", "budget_reaches_the_handler", "reply_addresses"),
    IgnoresDeadlines: ("expiry_and_withdrawal",),
    ReversesOrder: ("order_of_keys",),
    SaysNoOfWhatIsWritten: ("cast_executed_once",),
    SwallowsNoRoute: ("nobody_there", "unknown_server", "nobody_listens"),
    TellsAtOnce: ("events_inside_pump",),
    HidesTheLoss: ("keeps_trying", "reconnects_by_itself"),
    IgnoresTheWindow: ("window_is_kept",),
    AcknowledgesOnReceipt: ("window_is_kept", "stale_after_a_cut"),
    RequeueIsAccept: ("failed_is_repeated",),
    SettlesStale: ("stale_after_a_cut", "settled_twice"),
    OverstaysItsTimeout: ("pump_keeps_its_timeout",),
    IgnoresWake: ("wake_ends_the_wait", "descriptor_is_readable"),
    TellsOfWakeUpsAlone: ("descriptor_is_readable",),
    NeverUnsubscribes: ("unsubscribe_is_answered",),
    NeverCloses: ("close_from_every_state",),
    DoesNotSubscribeAgain: ("reconnects_by_itself",),
    HidesThatItIsBlocked: ("blocked_is_told", "blocked_is_held_back"),
    StaysBlocked: ("blocked_is_told", "blocked_is_held_back"),
    DropsWhatIsBlocked: ("blocked_is_told",),
    TrustsTheNetwork: ("stall_is_noticed",),
    GivesUpListening: ("deadline_in_silence",),
}
"""Each bug, with the scenarios that must not pass with it."""
