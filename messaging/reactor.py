"""Who owns a connection's I/O. All hand-overs between threads are here and in thread_reactor.py, and nowhere else.

A connection has one owner at a time, which alone touches it: a thread of ours or, between two operations, a caller
that waits anyway (ThreadReactor), or the user's event loop (LoopReactor). All others append to an inbox and wake the
owner if it sleeps. The rule that everything rests on:

    If nobody pumps and something is outstanding or in the inbox, some awake thread will still look.

    owner:   raises `_sleeping`, then looks into the inbox once more, then waits in pump
    poster:  appends to the inbox, then looks at `_sleeping`; if it is raised, lowers it and wakes the connection

Whatever the order in which those steps fall, either the owner sees what was posted or the poster sees that it must
wake. Turned round on either side, a message can lie in the inbox while everybody waits; random traffic does not find
that, so a test steps through the orders.

It knows nothing of calls and notifications: it holds what cannot go yet, keeps subscriptions, runs timers, and hands
batches to whoever subscribed. User code never runs here, except handlers that asked for `inline`.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import LockType
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from messaging.backoff import draw
from messaging.deadline import Clock
from messaging.drivers.base import Capabilities, CollectableConnection, Connection, ConnectionEvents, Services, State
from messaging.errors import Closed, ConnectFailed, Delivered, TransportError
from messaging.holding import Holding, answer, tell_one, tell_taken, told_at_close
from messaging.message import Delivery, Outcome, Outgoing, SentResult, Source, SourceKind, Token, by_source
from messaging.offload import Offload
from messaging.relay import Relay
from messaging.settlements import Settlements, Told
from messaging.state_log import StateLog
from messaging.subscription import DeliveryHandler, SubscribedHandler, Subscription, Subscriptions
from messaging.timers import Timers

__all__ = ["Connect", "Reactor"]

_log = logging.getLogger(__name__)
# A member of an enumeration costs 70 ns to look up, as much as a call.
_ACCEPT = Outcome.ACCEPT

Connect = Callable[[ConnectionEvents, Services], Connection]


class Reactor:
    """Owner of one connection. All public methods are thread-safe unless they say otherwise.

    Subclasses say who the owner is by `_launch` (make somebody pump), `_rouse` (wake it) and `is_owner`.
    """

    def __init__(
        self, connect: Connect, capabilities: Capabilities, *, name: str, clock: Clock = time.monotonic
    ) -> None:
        self.name = name
        self.clock = clock
        self.random = draw
        self.capabilities = capabilities
        self.state = State.CONNECTING
        self.on_change: list[Callable[[], None]] = []
        """Called on the owner after the state or a subscription changed."""
        self.on_peer: Callable[[str, Exception], None] | None = None
        self._inbox: deque[Any] = deque()
        self._sleeping = False
        self._launched = False
        self.finished = False
        """Whether the connection is closed for good."""
        self._closing = False
        self._launch_lock = threading.Lock()
        self._closed = threading.Event()
        self._state_log = StateLog(_log, name, clock)
        self.holding = Holding(name, clock)
        """What cannot go yet, and why."""
        self.outstanding: Callable[[], int] = int
        """How many operations are under way, for whoever counts them to say."""
        self._settlements = Settlements(self._shield)
        self.awaits_settled = self._settlements.__bool__
        self._flushed: list[Callable[[], None]] = []
        self.timers = Timers()
        self.timers.hooks.append(self._expire_held)
        self._in_events = False
        self._offload = Offload()
        self.offload = self._offload.run
        """See Services."""
        self._connect = connect
        self._relay = Relay(self)
        self._connection = connect(self._relay, self)
        self._subscriptions = Subscriptions(self._connection)
        # A driver whose publish is thread-safe saves the caller the hand-over, and the owner the wake-up.
        self._direct = capabilities.threadsafe_publish

    # What any thread may call

    def publish(self, outgoing: Outgoing) -> None:
        """Send a message as soon as it can go; its token gets the news, on the owner. Raises Closed."""
        holding = self.holding
        # `may_go`, written out: this runs once per message.
        if holding.ready and (not outgoing.reply_to or holding.reply_ready) and (self._direct or self.in_events()):
            if 0.0 < outgoing.deadline < self.timers.due:
                self.call_soon(partial(self._look_by, outgoing))
            self._connection.publish(outgoing)
        else:
            self._post(outgoing)

    def exchange(self, outgoing: Outgoing, bell: LockType, until: float) -> bool:
        """Send a message and wait until `bell` is rung (True) or the time is `until`. Blocks. Raises Closed."""
        self.publish(outgoing)
        return bell.acquire(timeout=max(0.0, until - self.clock()))

    def collect(self, sender: Token, timeout: float) -> bool:
        """Fetch, or wait up to `timeout` seconds for, what is taken; tell `sender` at once, and others on the owner.
        False: nobody has waited, because the owner alone can tell.
        """
        if not (self.capabilities.collects and self.holding.ready):
            return False
        taken = cast("CollectableConnection", self._connection).collect(timeout)
        if taken is None:
            return False
        others = tell_one(sender, taken)
        if others:
            self._append(partial(tell_taken, others))
        return True

    def accept(self, delivery: Delivery) -> None:
        """Settle one delivery as done; the fast form of `settle`, batched with its neighbours in the inbox."""
        if self._in_events and self.is_owner():
            self._connection.settle((delivery,), _ACCEPT)
        elif self._closing:
            raise self.holding.gone()
        else:
            # `_append`, written out: this runs once per message, and what has brought one is launched.
            self._inbox.append(delivery)
            if self._sleeping:
                self._sleeping = False
                self._rouse()
            if self.finished:
                self._refuse_inbox()

    def answer(self, delivery: Delivery, outgoing: Outgoing) -> None:
        """Settle a delivery as done and send the answer to it, in one flush: where settling is end to end they share a
        message.
        """
        if self._closing:
            raise self.holding.gone()
        if self._in_events and self.is_owner():
            self._connection.settle((delivery,), _ACCEPT)
            self._send(outgoing)
            return
        # Nobody is woken for the first of the two, so the owner cannot flush between them unless it is awake anyway.
        self._inbox.append(delivery)
        self._append(outgoing)

    def settle(
        self,
        deliveries: Sequence[Delivery],
        outcome: Outcome,
        delay: float = 0.0,
        reason: str = "",
        done: Told | None = None,
    ) -> None:
        """Settle deliveries of one source; `done` is called on the owner for each, when it was written or failed."""
        settle = self._settlements.settle
        self.call_soon(lambda: settle(self._connection, deliveries, outcome, delay, reason, done))

    def subscribe(
        self, source: Source, window: int, on_deliveries: DeliveryHandler, on_subscribed: SubscribedHandler
    ) -> None:
        """Receive from a source. `on_subscribed(address, error)` is called on the owner at each change, after every
        reconnect too.
        """
        wanted = Subscription(source, window, on_deliveries, on_subscribed)
        if self.in_events():
            self._subscriptions.add(wanted)
        else:
            self._post(wanted)

    def change_window(self, source: Source, window: int) -> None:
        """Change the window of a subscription; 0 holds it."""
        self.call_soon(lambda: self._subscriptions.change_window(source, window))

    def unsubscribe(self, source: Source) -> None:
        """Stop receiving; the subscription's on_subscribed gets Cancelled when it is done."""
        self.call_soon(lambda: self._subscriptions.remove(source))

    def address_of(self, source: Source) -> str:
        """The address under which a source is reachable now, or an empty string."""
        return self._subscriptions.address_of(source)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run a function on the owner; at once when called by the owner in an event. Raises Closed."""
        if self.in_events():
            function()
        else:
            self._post(function)

    def call_later(self, delay: float, function: Callable[[], None]) -> None:
        """Run a function on the owner after `delay` seconds; it is dropped when the connection closes."""
        self.call_soon(partial(self.timers.at, self.clock() + delay, function))

    def after_flush(self, function: Callable[[], None]) -> None:
        """Run a function on the owner once all that was posted before has been through a pump."""
        self.call_soon(lambda: self._flushed.append(function))

    def in_events(self) -> bool:
        """Whether the caller is the owner, handling events: then it may touch the connection at once."""
        return self._in_events and self.is_owner()

    def counts(self) -> dict[str, int]:
        """The driver's own counts."""
        return self._connection.counts()

    def close(self, grace: float) -> None:
        """Flush and close, and wait for it up to `grace` seconds and a moment. Idempotent, callable from anywhere.

        Called by the owner itself it only starts to close, because waiting there would be waiting for oneself.
        """
        self.start_close(grace)
        if not self.is_owner():
            self._closed.wait(grace + 1.0)

    def start_close(self, grace: float) -> None:
        """Begin to close without waiting."""
        with self._launch_lock:
            if self._closing:
                return
            self._closing = True
            if not self._launched:
                # Nobody owns it yet, so this thread may: the driver gives back what it made for itself.
                self._launched = True
                self._connection.close(0.0)
                self._connection.pump(0.0)
                self._finish(Closed("the transport was closed"))
                return
        self._append(lambda: self._begin_close(grace))

    # Inbox

    def is_owner(self) -> bool:
        """Whether the calling thread owns the connection."""
        raise TypeError("a reactor says who its owner is")

    def _launch(self) -> None:
        raise TypeError("a reactor says who its owner is")

    def _rouse(self) -> None:
        raise TypeError("a reactor says how its owner is woken")

    def _post(self, item: Any) -> None:
        if self._closing:
            raise self.holding.gone()
        self._append(item)

    def _append(self, item: Any) -> None:
        self._inbox.append(item)
        if self._sleeping:
            self._sleeping = False
            self._rouse()
        elif not self._launched:
            with self._launch_lock:
                if not self._launched:
                    self._launch()
                    self._launched = True
        if self.finished:
            self._refuse_inbox()

    def _refuse_inbox(self) -> None:
        while self._inbox:
            try:
                item = self._inbox.popleft()
            except IndexError:
                return
            if type(item) is Outgoing:
                answer(item, self.holding.gone())
            elif type(item) is Subscription:
                item.tell("", self.holding.gone())

    def _release(self) -> None:
        for outgoing in self.holding.release():
            self._send(outgoing)

    def _drain(self) -> None:
        """Act on everything that was posted; owner only."""
        inbox = self._inbox
        holding = self.holding
        timers = self.timers
        publish = self._connection.publish
        accepts: list[Delivery] = []
        # Where settling is end to end, a settlement rides on the answer that follows it; elsewhere many go in one.
        rides = self.capabilities.acceptance == "peer"
        self._in_events = True
        try:
            while inbox:
                item = inbox.popleft()
                kind = type(item)
                if kind is Outgoing:
                    if rides and accepts:
                        self._accept_all(accepts)
                        accepts = []
                    if 0.0 < item.deadline < timers.due:
                        timers.due = item.deadline
                    # `_send`, written out: this runs once per message.
                    if holding.ready and (not item.reply_to or holding.reply_ready):
                        publish(item)
                    else:
                        holding.hold(item)
                elif kind is Delivery:
                    accepts.append(item)
                elif kind is Subscription:
                    self._subscriptions.add(item)
                else:
                    self._shield("a posted action failed", item)
            if accepts:
                self._accept_all(accepts)
        finally:
            self._in_events = False

    def _accept_all(self, deliveries: list[Delivery]) -> None:
        for batch in by_source(deliveries) if len(deliveries) > 1 else (deliveries,):
            self._connection.settle(batch, _ACCEPT)

    def _look_by(self, outgoing: Outgoing) -> None:
        """Have the deadline of a message looked at in time; on the owner."""
        if 0.0 < outgoing.deadline < self.timers.due:
            self.timers.due = outgoing.deadline

    def _send(self, outgoing: Outgoing) -> None:
        if 0.0 < outgoing.deadline < self.timers.due:
            self.timers.due = outgoing.deadline
        if self.holding.may_go(outgoing):
            self._connection.publish(outgoing)
        else:
            self.holding.hold(outgoing)

    # Turns of the owner

    def _wait(self) -> float:
        """Do what is due, and return for how long, in seconds, nothing else will be."""
        now = self.clock()
        timers = self.timers
        if now >= timers.due:
            self._in_events = True
            try:
                timers.run(now, partial(self._shield, "a timer failed"))
            finally:
                self._in_events = False
        return timers.due - now if timers.due > now else 0.0

    def _expire_held(self, now: float) -> float:
        self.holding.expire(now)
        return self.holding.next_expiry

    def _shield(self, what: str, function: Callable[..., object], *arguments: Any) -> None:
        """Call what stands above; its bugs are logged and must not stop the owner."""
        try:
            function(*arguments)
        except Exception:
            _log.exception("%s: %s", self.name, what)

    def _run_flushed(self) -> None:
        waiting, self._flushed = self._flushed, []
        for function in waiting:
            self._shield("an action after a flush failed", function)

    def _begin_close(self, grace: float) -> None:
        self.holding.give_up(Closed("the transport was closed"))
        self._connection.close(grace)

        def abandon() -> None:
            # A driver that does not reach CLOSED by itself must not keep its owner.
            _log.warning("%s: the driver did not close in time and was abandoned", self.name)
            self.state = State.CLOSED

        self.timers.at(self.clock() + grace + 0.5, abandon)

    def _finish(self, cause: Exception) -> None:
        """The connection is gone for good: end everything that waits. Once, on the owner or before there is one."""
        self._closing = True
        self.finished = True
        self.state = State.CLOSED
        self.holding.give_up(cause)
        self._refuse_inbox()
        self._subscriptions.refuse(cause)
        self._changed()
        self._offload.close()
        self._closed.set()

    def _broke(self, error: Exception) -> None:
        _log.exception("%s: the driver failed; the connection is given up", self.name)
        cause = TransportError(
            f"the driver of {self.name} failed: {type(error).__name__}: {error}", delivered=Delivered.MAYBE
        )
        cause.__cause__ = error
        self._finish(cause)

    def _changed(self) -> None:
        for listener in list(self.on_change):
            self._shield("a listener to changes failed", listener)

    # Events of the connection

    def on_state(
        self, state: State, cause: Exception | None, retry_in: float | None, peer: Capabilities | None
    ) -> None:
        """See ConnectionEvents."""
        self._in_events = True
        try:
            self._state_log.note(state, cause, retry_in is None)
            self.state = state
            self.holding.state_changed(state, cause)
            if state is State.READY:
                if peer is not None:
                    self.capabilities = peer
                self._release()
            elif state is State.LOST:
                self._subscriptions.lost()
                if retry_in is None and not self._closing:
                    fatal = cause or ConnectFailed(f"{self.name} cannot be connected")
                    self.holding.give_up(fatal)
                    self._subscriptions.refuse(fatal)
            self._changed()
        finally:
            self._in_events = False

    def on_subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        """See ConnectionEvents."""
        self._in_events = True
        try:
            if source.kind is SourceKind.REPLY:
                self.holding.reply_ready = error is None
                self._release()
            self._subscriptions.changed(source, address, error)
            self._changed()
        finally:
            self._in_events = False

    def on_sent(self, results: Sequence[SentResult]) -> None:
        """See ConnectionEvents."""
        self._sleeping = False
        self._in_events = True
        try:
            for outgoing, stage, error, taker in results:
                if error is not None:
                    if self.holding.takes_back(outgoing, error):
                        self._send(outgoing)
                        continue
                    if self._closing:
                        error = told_at_close(error)
                token = outgoing.token
                if token is not None:
                    try:
                        token.sent(outgoing, stage, error, taker)
                    except Exception:
                        _log.exception("%s: the sender of a message failed on its news", self.name)
        finally:
            self._in_events = False

    def on_taken(self, outgoings: Sequence[Outgoing]) -> None:
        """See ConnectionEvents."""
        self._sleeping = False
        self._in_events = True
        tell_taken(outgoings)
        self._in_events = False

    def on_peer_lost(self, taker: str, error: Exception) -> None:
        """See ConnectionEvents."""
        # Our own close breaks every connection; who waits is told of that.
        if self.on_peer is not None and not self._closing:
            self._in_events = True
            self._shield("whoever follows peers failed", self.on_peer, taker, error)
            self._in_events = False

    def on_settled(self, deliveries: Sequence[Delivery], error: Exception | None) -> None:
        """See ConnectionEvents."""
        if self._settlements:
            self._in_events = True
            self._settlements.told(deliveries, error)
            self._in_events = False

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        """See ConnectionEvents."""
        self._sleeping = False
        subscription = self._subscriptions.get(source)
        if subscription is None:
            self._connection.settle(batch, Outcome.REQUEUE)
            return
        now = self.clock()
        for delivery in batch:
            delivery.received = now
        self._in_events = True
        self._shield("a subscriber failed on its deliveries", subscription.on_deliveries, batch)
        self._in_events = False
