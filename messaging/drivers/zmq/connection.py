"""The connection object of `zmq://`: the pump, and what joins its parts.

One for all roles of a transport. It is READY as soon as the matchmaker's table is read, and stays so whatever becomes
of single peers; BLOCKED while too much waits for them.
"""

from __future__ import annotations

import math
import os
from typing import Any

import zmq

from messaging.drivers.base import ConnectionEvents, Services, State
from messaging.drivers.zmq.callers import Caller, Callers
from messaging.drivers.zmq.choices import Choices
from messaging.drivers.zmq.frames import Batch
from messaging.drivers.zmq.inbox import Inbox
from messaging.drivers.zmq.link import Item, Link
from messaging.drivers.zmq.options import ZmqSettings
from messaging.drivers.zmq.peer import Peer
from messaging.drivers.zmq.peers import Peers
from messaging.drivers.zmq.runtime import Runtime
from messaging.drivers.zmq.sender import Sender
from messaging.errors import Cancelled, Closed, ConfigError, ConnectFailed, ConnectionLost, Delivered, Forked
from messaging.matchmaker.base import Matchmaker, Record
from messaging.message import Source, SourceKind

__all__ = ["ZmqConnection"]

_LEAVING = 0.25
"""Seconds for which a closing server waits until its callers have gone."""
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
        runtime = Runtime(settings, services)
        self._events = events
        self._forks = _forks
        self._runtime = runtime
        self._clock = services.clock
        self._waiter = runtime.waiter
        self._news = runtime.news
        self._matchmaker = matchmaker
        self._inbox = Inbox(runtime)
        self._choices = Choices(services.random)
        self._peers = Peers(runtime, matchmaker, self._choices, self, self._receive)
        self._resolved = self._peers.resolved
        self._sender = Sender(runtime, self._choices, self._peers, self._write_now)
        self._callers = Callers(runtime, self._inbox, self, self._receive)
        self._state: State | None = None
        self._unusable: ConfigError | None = None
        """Why nobody will ever be found."""
        self._requested: dict[Source, int] = {}
        """Sources to tell as subscribed, with the revision that has to be registered before."""
        self._failed: list[tuple[Item, Exception]] = []
        self._members_changed = False
        self._closing_until = math.inf
        self._leaving_until = math.inf
        self._terminating = False
        self._terminated = False
        self.publish = self._sender.publish
        self.settle = self._inbox.settle

    # The contract

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._forks != _forks:
            raise Forked("a connection was inherited by a forked child; open a transport there")
        runtime = self._runtime
        news = self._news
        runtime.turn += 1
        runtime.now = now = self._clock()
        if now >= runtime.due:
            self._tick(now)
            if self._state is State.CLOSED:
                return math.inf
        if runtime.dirty:
            self._flush(now)
        if news.pending or runtime.dirty:
            timeout = 0.0
        elif timeout > runtime.due - now:
            timeout = runtime.due - now
        handlers = self._waiter.wait(timeout)
        runtime.now = self._clock()
        for handler in handlers:
            handler()
        if self._resolved:
            self._peers.collect(runtime.now)
        if self._members_changed:
            self._decide()
        if news.pending:
            news.tell(self._events)
        if runtime.dirty:
            self._flush(runtime.now)
            if news.pending:
                news.tell(self._events)
        # Whoever waits elsewhere, on the descriptor, has to know what the descriptor does not show.
        if runtime.dirty or news.pending or self._waiter.look():
            return 0.0
        return runtime.due - runtime.now if runtime.due > runtime.now else 0.0

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
            self._register(self._runtime.now)
            self._callers.announce()
        self._news.subscribed(source, "", Cancelled("unsubscribed", delivered=Delivered.NO))

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

    # Turns

    def _tick(self, now: float) -> None:
        """Do what is due. Nothing is after CLOSED."""
        runtime = self._runtime
        if self._state is State.CLOSED:
            return
        runtime.due = math.inf
        if self._state is None:
            self._begin(now)
        if self._unusable is not None:
            self._refuse_subscriptions(self._unusable)
            if self._closing_until < math.inf:
                self._go_on_closing(now)
            return
        if self._requested:
            self._serve(now)
        self._peers.tick(now)
        self._callers.tick(now)
        self._sender.tick(now)
        if self._members_changed:
            self._decide()
        if self._sender.waiting.blocked is not (self._state is State.BLOCKED):
            self._enter(State.BLOCKED if self._sender.waiting.blocked else State.READY)
        if self._closing_until < math.inf:
            self._go_on_closing(now)

    def _begin(self, now: float) -> None:
        try:
            self._matchmaker.start(self._waiter.wake, now)
        except ConfigError as error:
            # Nobody can be found, and trying again would not change that.
            self._unusable = error
            self._enter(State.LOST, error)
        else:
            self._enter(State.READY)

    def _enter(self, state: State, cause: Exception | None = None) -> None:
        self._state = state
        self._news.state(state, cause)

    def _serve(self, now: float) -> None:
        """Make requested sources reachable, and tell those that are."""
        registered = self._matchmaker.registered
        for source, revision in list(self._requested.items()):
            if source.kind is SourceKind.REPLY:
                del self._requested[source]
                self._news.subscribed(source, self._runtime.identity, None)
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
                self._news.subscribed(source, self._runtime.identity, None)
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
            if source.kind is not SourceKind.REPLY or self._unusable is not None:
                del self._requested[source]
                self._inbox.close(source)
                known = isinstance(cause, ConnectFailed | ConfigError)
                error = cause if known else ConnectFailed(f"cannot be registered: {cause}")
                self._news.subscribed(source, "", error)

    def _flush(self, now: float) -> None:
        runtime = self._runtime
        dirty, runtime.dirty = runtime.dirty, []
        failed = self._failed
        for link in dirty:
            link.dirty = False
            try:
                done = link.flush(now, runtime.identity, self._news, failed)
            except zmq.ZMQError as error:
                if isinstance(link, Peer):
                    link.fail(ConnectionLost(f"{link.place}: {error}"))
                elif isinstance(link, Caller):
                    self._callers.unreachable(link, error)
                continue
            if not done:
                self._stalled(link, now)
        if failed:
            self._failed = []
            self._sender.failed(failed)

    def _write_now(self) -> None:
        # Between two turns, the end of the last one may be long past.
        self._runtime.now = self._clock()
        self._flush(self._runtime.now)

    def _stalled(self, link: Link, now: float) -> None:
        if isinstance(link, Caller):
            self._callers.full(link, now)
        elif isinstance(link, Peer):
            # What others can take goes to them; the rest waits where it can expire.
            self._peers.full(link, now)
            self._sender.place_again(link.take_queue())

    def _decide(self) -> None:
        self._members_changed = False
        self._sender.decide(self._runtime.now)

    # What the parts tell

    def members_changed(self) -> None:
        """See PeersEvents; acted upon when whoever told it has finished."""
        self._members_changed = True

    def _receive(self, link: Link, batch: Batch, bodies: list[bytes]) -> None:
        if link.awaited:
            link.answered(batch.messages)
        if batch.accepted or batch.refused:
            self._sender.settled(link, batch)
        if batch.messages:
            waited = link.waited(batch.sent, self._runtime.now) if batch.sent else 0.0
            self._inbox.receive(link, batch.messages, bodies, waited)

    def peer_lost(self, peer: Peer, error: Exception, processed: int | None) -> None:
        """See PeersEvents."""
        self._news.lost(self._sender.link_down(peer, error, processed))
        self._news.lost_peer(peer.address, error)
        self._inbox.drop(peer)

    def attempt_failed(self, peer: Peer) -> None:
        """See PeersEvents."""
        self._sender.peer_failed(peer, self._runtime.now)

    def caller_lost(self, caller: Caller, error: Exception) -> None:
        """See CallersEvents."""
        if caller.settling:
            self._news.broken(caller.settling, error)
        # It may still be among the links to flush.
        caller.accepted, caller.refused, caller.settling = [], [], []
        self._news.lost(self._sender.link_down(caller, error, None))
        self._inbox.drop(caller)

    # Closing

    def _go_on_closing(self, now: float) -> None:
        """Finish what can be finished, take leave, close the sockets, end the context: each when its turn has come."""
        if self._leaving_until == math.inf and (now >= self._closing_until or not self._unfinished()):
            self._take_leave(now)
        if (
            self._leaving_until < math.inf
            and not self._terminating
            and (now >= self._leaving_until or not len(self._callers))
        ):
            self._close_sockets()
        if self._terminated:
            self._news.tell(self._events)
            self._inbox.end()
            self._waiter.close()
            self._matchmaker.close()
            self._enter(State.CLOSED)
            self._news.tell(self._events)
            self._runtime.due = -math.inf
        else:
            self._runtime.at(now + 0.005)

    def _unfinished(self) -> bool:
        return bool(
            len(self._sender.waiting)
            or self._runtime.dirty
            or any(link.unfinished() for link in self._runtime.links.values())
        )

    def _take_leave(self, now: float) -> None:
        """Everything that can be written is: end the rest."""
        self._leaving_until = min(self._closing_until, now + _LEAVING)
        closed = Closed("the transport was closed")
        self._sender.give_up()
        for peer in self._peers.open:
            self._news.lost(self._sender.link_down(peer, closed, None))
        self._peers.close()
        self._callers.take_leave()

    def _close_sockets(self) -> None:
        self._terminating = True
        self._callers.close()

        def done(_result: Any, _error: BaseException | None) -> None:
            self._terminated = True
            self._waiter.wake()

        if not self._runtime.terminate(done):
            self._terminated = True
