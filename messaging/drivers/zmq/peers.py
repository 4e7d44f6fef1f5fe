"""The processes that we may connect to: one for each record of the matchmaker's table, connected when needed, bounded
in number, closed when idle.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from messaging.drivers.zmq.choices import SPREAD, Choice, Choices
from messaging.drivers.zmq.peer import Peer, PeerState, Receive
from messaging.drivers.zmq.runtime import Runtime
from messaging.errors import ConnectFailed
from messaging.matchmaker.base import Matchmaker, Record

__all__ = ["Peers", "PeersEvents"]

_SWEEP = 1.0
"""Seconds between two looks for idle connections."""
_FULL_LOOK = 0.02
"""Seconds between two looks at a socket that took no more, and for a place when `max_peers` are connected."""


class PeersEvents(Protocol):
    """What the keeper of peers tells the connection."""

    def members_changed(self) -> None:
        """Who can be reached, or who serves what, is not what it was."""

    def peer_lost(self, peer: Peer, error: Exception, processed: int | None) -> None:
        """A peer that was ready is gone. `processed`: it will never look at what came after."""

    def attempt_failed(self, peer: Peer) -> None:
        """A peer could not be reached."""


class Peers:
    """All peers of one connection."""

    def __init__(
        self, runtime: Runtime, matchmaker: Matchmaker, choices: Choices, events: PeersEvents, receive: Receive
    ) -> None:
        self._runtime = runtime
        self._matchmaker = matchmaker
        self._choices = choices
        self._events = events
        self._receive = receive
        self._peers: dict[str, Peer] = {}
        self._table: Mapping[str, Record] | None = None
        self._unknown = False
        """Whether some record does not say what its peer serves."""
        self._moving: set[Peer] = set()
        """Peers with something to look at in `tick`."""
        self._open: set[Peer] = set()
        self._closed = False
        self.resolved: deque[tuple[Peer, float, str, BaseException | None]] = deque()
        """What `collect` has to go on with; filled by other threads."""
        self._refreshed = -1
        self._next_sweep = 0.0

    # The table

    def sync(self) -> None:
        """Take over the matchmaker's table if it has changed."""
        records = self._matchmaker.records
        if records is self._table:
            return
        self._table = records
        for instance, peer in list(self._peers.items()):
            peer.listed = instance in records and not peer.replaced
            if not peer.listed and peer.state is PeerState.IDLE and instance not in records:
                del self._peers[instance]
                self._moving.discard(peer)
        for instance, record in records.items():
            known = self._peers.get(instance)
            if known is None:
                self._peers[instance] = Peer(self._runtime, record, self, self._receive)
            elif record.revision > known.revision:
                known.revision = record.revision
                known.sources = record.sources
        self._unknown = any(peer.sources is None for peer in self._peers.values())
        self._rebuild()

    def _rebuild(self) -> None:
        self._choices.rebuild(self._peers.values())
        self._events.members_changed()

    def refresh(self, now: float, turn: int) -> None:
        """Somebody is not found: look at the store again, at most once in a turn of the pump."""
        if turn != self._refreshed:
            self._refreshed = turn
            self._matchmaker.refresh(now)
            self.sync()

    def asking(self, since: float, now: float) -> bool:
        """Whether some peer has not told yet what it serves; those that were not asked since then are asked."""
        pending = False
        if self._unknown:
            for peer in self._peers.values():
                if peer.sources is None and peer.failed_at < since:
                    self.want(peer, now)
                    pending = True
        return pending

    def unreached(self) -> Exception | None:
        """Why a peer could not be asked what it serves; None: all have told."""
        for peer in self._peers.values():
            if peer.sources is None and peer.failure is not None:
                return peer.failure
        return None

    # Connecting

    def spread(self, choice: Choice, now: float) -> None:
        """Have several candidates of a choice connected, beginning with those that have not failed lately."""
        choice.sparse = False
        busy = sum(peer.state is not PeerState.IDLE for peer, _number in choice.candidates)
        idle = [peer for peer, _number in choice.candidates if peer.state is PeerState.IDLE]
        for peer in sorted(idle, key=lambda found: found.failed_at)[: max(0, SPREAD - busy)]:
            self.want(peer, now)

    def want(self, peer: Peer, now: float) -> None:
        """Connect a peer as soon as its backoff and the bound on connections allow."""
        if peer.state is not PeerState.IDLE or self._closed:
            return
        if now < peer.retry_at:
            self._later(peer, peer.retry_at)
        elif len(self._open) >= self._runtime.settings.max_peers and not self._make_room():
            self._later(peer, now + _FULL_LOOK)
        else:
            self._connect(peer, now)

    def _later(self, peer: Peer, when: float) -> None:
        peer.wanted = True
        peer.retry_at = when
        self._moving.add(peer)
        self._runtime.at(when)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest; False: all are in use."""
        idle = [peer for peer in self._open if not peer.occupied(self._runtime.now)]
        if not idle:
            return False
        self._part(min(idle, key=lambda peer: peer.active_at), "another connection needed the place")
        return True

    def _connect(self, peer: Peer, now: float) -> None:
        peer.wanted = False
        self._open.add(peer)
        self._moving.add(peer)
        host, _, port = peer.record.endpoint.removeprefix("tcp://").rpartition(":")
        if _is_address(host):
            peer.connect(now, peer.record.endpoint)
            return
        # ZeroMQ would ask for the name in its I/O thread, where a slow answer holds up every heartbeat.
        attempt = peer.resolve(now)

        def done(result: Any, error: BaseException | None) -> None:
            self.resolved.append((peer, attempt, result or "", error))
            self._runtime.waiter.wake()

        self._runtime.offload(lambda: _resolve(host, int(port)), done)

    def collect(self, now: float) -> None:
        """Go on with the names that have been resolved."""
        while self.resolved:
            peer, attempt, endpoint, error = self.resolved.popleft()
            if peer.state is not PeerState.RESOLVING or peer.not_after != attempt:
                continue
            if error is not None:
                peer.fail(ConnectFailed(f"{peer.place} cannot be resolved: {error}"))
            else:
                peer.connect(now, endpoint)

    # What peers tell

    def peer_ready(self, peer: Peer, sources_changed: bool) -> None:
        """See PeerEvents."""
        self._moving.discard(peer)
        peer.backoff.reset()
        peer.active_at = self._runtime.now
        self._runtime.links[peer.address] = peer
        if sources_changed:
            self.peer_sources_changed(peer)
        else:
            self._update(peer)
            self._events.members_changed()

    def peer_sources_changed(self, peer: Peer) -> None:
        """See PeerEvents."""
        self._unknown = any(found.sources is None for found in self._peers.values())
        self._rebuild()

    def peer_down(self, peer: Peer, error: Exception, processed: int | None, *, was_ready: bool) -> None:
        """See PeerEvents."""
        now = self._runtime.now
        self._open.discard(peer)
        self._moving.discard(peer)
        peer.failed_at = now
        peer.retry_at = now + peer.backoff.next()
        self._runtime.unlink(peer)
        self._runtime.count("lost_peers" if was_ready else "failed_connects")
        if peer.replaced:
            peer.listed = False
        self._matchmaker.suspect(peer.record.instance, now)
        self.sync()
        if not peer.listed:
            self._forget(peer)
            self._rebuild()
        else:
            self._update(peer)
        if was_ready:
            self._events.peer_lost(peer, error, processed)
            if peer.listed:
                self._runtime.count("reconnects")
                self.want(peer, now)
        else:
            self._events.attempt_failed(peer)

    def _forget(self, peer: Peer) -> None:
        # One whose address another process has taken stays known for as long as its record does.
        if not peer.replaced and self._peers.get(peer.record.instance) is peer:
            del self._peers[peer.record.instance]

    def _update(self, peer: Peer) -> None:
        for choice in peer.choices:
            choice.update()

    def full(self, peer: Peer, now: float) -> None:
        """A peer's socket took no more: nothing new goes there until it does again."""
        peer.state = PeerState.FULL
        self._moving.add(peer)
        self._runtime.at(now + _FULL_LOOK)
        self._update(peer)

    # Time

    def tick(self, now: float) -> None:
        """Do what is due with the store and the peers."""
        self._runtime.at(self._matchmaker.tick(now))
        self.sync()
        for peer in list(self._moving):
            self._look_at(peer, now)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            self._sweep(now)
        if self._open:
            self._runtime.at(self._next_sweep)

    def _look_at(self, peer: Peer, now: float) -> None:
        if peer.state is PeerState.FULL:
            if peer.writable():
                self._moving.discard(peer)
                peer.state = PeerState.READY
                self._update(peer)
                self._events.members_changed()
            else:
                self._runtime.at(now + _FULL_LOOK)
        elif peer.state is PeerState.IDLE:
            self._moving.discard(peer)
            if peer.wanted and peer.listed:
                self.want(peer, now)
        elif peer.state is not PeerState.READY:
            if now >= peer.not_after:
                peer.timed_out()
            else:
                self._runtime.at(peer.not_after)

    def _sweep(self, now: float) -> None:
        longest = self._runtime.settings.idle_close
        for peer in list(self._open):
            peer.forget_expired(now)
            if peer.state is PeerState.READY and not peer.occupied(now):
                if not peer.listed:
                    self._part(peer, "its record is gone")
                elif now - peer.active_at > longest:
                    self._part(peer, "idle")

    def _part(self, peer: Peer, reason: str) -> None:
        """Close an unused connection; nobody has lost anything by it."""
        peer.say_bye(reason)
        peer.disconnect(linger=self._runtime.settings.linger)
        self._open.discard(peer)
        self._moving.discard(peer)
        self._runtime.unlink(peer)
        if not peer.listed:
            self._forget(peer)
        self._update(peer)

    @property
    def open(self) -> list[Peer]:
        """Peers with a socket."""
        return list(self._open)

    def close(self) -> None:
        """Take leave of everybody, for good: a socket made later would belong to a context that nobody ends."""
        self._closed = True
        for peer in list(self._open):
            self._part(peer, "closed")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _resolve(host: str, port: int) -> str:
    """Look a name up; blocks. IPv4 comes first, because it is what servers listen on unless told otherwise."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _kind, _protocol, _name, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return f"tcp://[{address[0]}]:{port}" if family == socket.AF_INET6 else f"tcp://{address[0]}:{port}"
