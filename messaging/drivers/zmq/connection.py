"""The connection object of `zmq://`: the pump, and what joins its parts.

One for all roles of a transport. It is READY as soon as the matchmaker's table is read, and stays so whatever becomes
of single peers; BLOCKED while too much waits for them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import zmq

from messaging.drivers.base import ConnectionEvents, Services, State
from messaging.drivers.zmq.callers import Caller, Callers
from messaging.drivers.zmq.choices import Choices
from messaging.drivers.zmq.frames import Batch
from messaging.drivers.zmq.inbox import Inbox
from messaging.drivers.zmq.link import Link
from messaging.drivers.zmq.options import ZmqSettings
from messaging.drivers.zmq.peer import Peer
from messaging.drivers.zmq.peers import Peers
from messaging.drivers.zmq.runtime import Runtime
from messaging.drivers.zmq.sender import Sender
from messaging.drivers.zmq.waiter import Handler
from messaging.errors import Cancelled, Closed, ConnectFailed, ConnectionLost, Delivered, Forked
from messaging.matchmaker.base import Matchmaker, Record
from messaging.message import Delivery, Outcome, SentResult, Source, SourceKind

__all__ = ["ZmqConnection"]

_forks = 0
"""How often this process is a child of the one that loaded this module."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class ZmqConnection:
    """See messaging.drivers.base.Connection."""

    def __init__(
        self, settings: ZmqSettings, matchmaker: Matchmaker, events: ConnectionEvents, services: Services
    ) -> None:
        self._events = events
        self._forks = _forks
        self._runtime = Runtime(settings, services)
        self._clock = services.clock
        self._waiter = self._runtime.waiter
        self._news = self._runtime.news
        self._matchmaker = matchmaker
        self._inbox = Inbox(self._runtime)
        self._choices = Choices(services.random)
        self._peers = Peers(self._runtime, matchmaker, self._choices, self)
        self._sender = Sender(self._runtime, self._choices, self._peers)
        self._callers = Callers(self._runtime, self._inbox, self)
        self._state: State | None = None
        self._told_state: State | None = None
        self._cause: Exception | None = None
        self._requested: dict[Source, int] = {}
        """Sources to tell as subscribed, with the revision that has to be registered before."""
        self._subscribed: list[tuple[Source, str, Exception | None]] = []
        self._lost: list[SentResult] = []
        self._lost_peers: list[tuple[str, Exception]] = []
        self._broken: list[tuple[list[Delivery], Exception]] = []
        self._ready: list[Handler] = []
        self._members_changed = False
        self._closing_until = math.inf
        self._terminated = False
        self.publish = self._sender.publish

    # The contract

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._forks != _forks:
            raise Forked("a connection was inherited by a forked child; open a transport there")
        if self._closed():
            return math.inf
        runtime = self._runtime
        runtime.turn += 1
        now = self._clock()
        if runtime.dirty:
            self._flush(now)
        if now >= runtime.due:
            self._tick(now)
        if self._anything_to_tell():
            timeout = 0.0
        elif timeout > runtime.due - now:
            timeout = max(0.0, runtime.due - now)
        handlers, self._ready = self._ready, []
        for handler in handlers:
            handler()
        for handler in self._waiter.wait(0.0 if handlers else timeout):
            handler()
        if self._peers.resolved:
            self._peers.collect(self._clock())
        if self._members_changed:
            self._decide()
        self._tell()
        now = self._clock()
        if runtime.dirty:
            self._flush(now)
            self._tell_written()
        if self._closing_until < math.inf:
            self._go_on_closing(now)
        if self._closed():
            return math.inf
        self._ready = self._waiter.ready()
        if self._ready or runtime.dirty or self._anything_to_tell():
            return 0.0
        return max(0.0, runtime.due - now)

    def wake(self) -> None:
        """See Connection."""
        if self._forks == _forks:
            self._waiter.wake()

    def fileno(self) -> int | None:
        """See Connection."""
        return self._waiter.fileno()

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        known = self._inbox.find(source)
        self._inbox.open(source, window)
        if known is None:
            self._requested[source] = self._inbox.revision
            self._runtime.due = 0.0

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        if self._inbox.close(source):
            self._requested.pop(source, None)
            self._register(self._clock())
            self._callers.announce()
        self._subscribed.append((source, "", Cancelled("unsubscribed", delivered=Delivered.NO)))

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        self._news.settled += self._inbox.settle(deliveries, outcome, reason)

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._closing_until == math.inf:
            self._closing_until = self._clock() + grace
            self._runtime.due = 0.0
            self._matchmaker.withdraw()
            for source in self._inbox.served.values():
                self._inbox.close(source)
            self._callers.announce()

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return dict(self._runtime.counts)

    def _closed(self) -> bool:
        return self._state is State.CLOSED

    # Turns

    def _tick(self, now: float) -> None:
        runtime = self._runtime
        if self._state is None:
            self._matchmaker.start(self._waiter.wake, now)
            self._state = State.READY
        runtime.due = math.inf
        if self._requested:
            self._serve(now)
        self._peers.tick(now)
        self._callers.tick(now)
        self._sender.tick(now)
        if self._members_changed:
            self._decide()
        if self._closing_until < math.inf:
            runtime.at(min(self._closing_until, now + 0.02))

    def _serve(self, now: float) -> None:
        """Make requested sources reachable, and tell those that are."""
        registered = self._matchmaker.registered
        for source, revision in list(self._requested.items()):
            if source.kind is SourceKind.REPLY:
                del self._requested[source]
                self._subscribed.append((source, self._runtime.identity, None))
                continue
            if not self._callers.endpoint:
                try:
                    self._callers.bind()
                except ConnectFailed as error:
                    self._refuse_subscriptions(error)
                    return
            if registered is None or registered.revision < self._inbox.revision:
                self._register(now)
                registered = self._matchmaker.registered
            if registered is not None and registered.revision >= revision:
                del self._requested[source]
                self._subscribed.append((source, self._runtime.identity, None))
            elif self._matchmaker.failure is not None:
                self._refuse_subscriptions(self._matchmaker.failure)
                return
            else:
                self._runtime.at(now + 0.02)
        self._callers.announce()

    def _register(self, now: float) -> None:
        if not self._callers.endpoint:
            return
        served = self._inbox.served
        if served:
            self._matchmaker.register(
                Record(
                    instance=self._runtime.identity,
                    endpoint=self._callers.endpoint,
                    revision=self._inbox.revision,
                    sources=served,
                ),
                now,
            )
        else:
            self._matchmaker.withdraw()

    def _refuse_subscriptions(self, cause: Exception) -> None:
        for source in list(self._requested):
            if source.kind is not SourceKind.REPLY:
                del self._requested[source]
                self._inbox.close(source)
                error = cause if isinstance(cause, ConnectFailed) else ConnectFailed(f"cannot be registered: {cause}")
                self._subscribed.append((source, "", error))

    def _flush(self, now: float) -> None:
        runtime = self._runtime
        dirty, runtime.dirty = runtime.dirty, []
        news = self._news
        for link in dirty:
            link.dirty = False
            try:
                done = link.flush(now, runtime.identity, news)
            except zmq.ZMQError as error:
                if isinstance(link, Peer):
                    link.fail(ConnectionLost(f"{link.place}: {error}"))
                elif isinstance(link, Caller):
                    self._callers.unreachable(link, error)
                continue
            if not done:
                self._stalled(link, now)
        if news.failed:
            failed, news.failed = news.failed, []
            self._sender.failed(failed)

    def _stalled(self, link: Link, now: float) -> None:
        if isinstance(link, Caller):
            self._callers.full(link, now)
        elif isinstance(link, Peer):
            # What others can take goes to them; the rest waits where it can expire.
            self._peers.full(link, now)
            self._sender.place_again(link.take_queue(), now)

    def _decide(self) -> None:
        self._members_changed = False
        self._sender.decide(self._clock())

    # What the parts tell

    def members_changed(self) -> None:
        """See PeersEvents; acted upon when whoever told it has finished."""
        self._members_changed = True

    def batch_received(self, link: Link, batch: Batch, bodies: list[bytes]) -> None:
        """See PeersEvents and CallersEvents."""
        if batch.accepted or batch.refused:
            self._sender.settled(link, batch)
        if batch.messages:
            if isinstance(link, Peer):
                link.answered(batch)
            self._inbox.receive(link, batch.messages, bodies)

    def peer_lost(self, peer: Peer, error: Exception, processed: int | None) -> None:
        """See PeersEvents."""
        self._lost += self._sender.link_down(peer, error, processed)
        self._lost_peers.append((peer.address, error))
        self._inbox.drop(peer)

    def attempt_failed(self, peer: Peer) -> None:
        """See PeersEvents."""
        self._sender.peer_failed(peer, self._clock())

    def caller_lost(self, caller: Caller, error: Exception) -> None:
        """See CallersEvents."""
        if caller.settling:
            self._broken.append((caller.settling, error))
            caller.settling = []
        self._lost += self._sender.link_down(caller, error, None)
        self._inbox.drop(caller)

    # Telling

    def _anything_to_tell(self) -> bool:
        return bool(
            self._news.urgent
            or self._news.settled
            or self._subscribed
            or self._lost
            or self._inbox.arrivals
            or self._lost_peers
            or self._broken
            or self._state is not self._told_state
            or self._sender.blocked is not (self._state is State.BLOCKED)
        )

    def _tell(self) -> None:
        """Tell everything, in the order in which it is true: what was taken, what has come, what is lost."""
        events = self._events
        if self._closing_until == math.inf and self._state is not None:
            self._state = State.BLOCKED if self._sender.blocked else State.READY
        if self._state is not self._told_state and self._state is not None and self._state is not State.CLOSED:
            self._told_state = self._state
            events.on_state(self._state, None, None, None)
        if self._subscribed:
            subscribed, self._subscribed = self._subscribed, []
            for source, address, error in subscribed:
                events.on_subscribed(source, address, error)
        self._tell_written()
        if self._inbox.arrivals:
            arrivals, self._inbox.arrivals = self._inbox.arrivals, []
            for subscription in arrivals:
                arrived, subscription.arrived = subscription.arrived, []
                events.on_deliveries(subscription.source, arrived)
        if self._lost:
            lost, self._lost = self._lost, []
            events.on_sent(lost)
        if self._lost_peers:
            lost_peers, self._lost_peers = self._lost_peers, []
            for taker, cause in lost_peers:
                events.on_peer_lost(taker, cause)

    def _tell_written(self) -> None:
        news = self._news
        if news.sent:
            sent, news.sent = news.sent, []
            news.urgent = False
            self._events.on_sent(sent)
        if news.settled:
            settled, news.settled = news.settled, []
            self._events.on_settled(settled, None)
        if self._broken:
            broken, self._broken = self._broken, []
            for deliveries, error in broken:
                self._events.on_settled(deliveries, error)

    # Closing

    def _go_on_closing(self, now: float) -> None:
        if self._terminated:
            if self._state is not State.CLOSED:
                self._state = self._told_state = State.CLOSED
                self._waiter.close()
                self._matchmaker.close()
                self._events.on_state(State.CLOSED, None, None, None)
            return
        self._runtime.at(now + 0.02)
        if now < self._closing_until and self._unfinished():
            return
        self._abandon()

    def _unfinished(self) -> bool:
        return bool(
            self._sender.waiting
            or self._runtime.dirty
            or any(link.unfinished() for link in self._runtime.links.values())
        )

    def _abandon(self) -> None:
        """Everything that can be written is; end the rest and close the sockets."""
        if self._closing_until == -math.inf:
            return
        closed = Closed("the transport was closed")
        self._sender.give_up(closed)
        for peer in self._peers.open:
            self._lost += self._sender.link_down(peer, closed, None)
        self._peers.close()
        self._callers.close()
        self._tell()
        self._closing_until = -math.inf

        def done(_result: Any, _error: BaseException | None) -> None:
            self._terminated = True
            self._waiter.wake()

        if not self._runtime.terminate(done):
            self._terminated = True
