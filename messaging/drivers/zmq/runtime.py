"""What all parts of one connection share: settings, clock, the ZeroMQ context, the waiter, and the news to tell.

The context is made at the first socket, in the process that uses it: a context does not survive a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import zmq

from messaging.drivers.base import Services
from messaging.drivers.zmq.link import ENVELOPE, Link
from messaging.drivers.zmq.news import News
from messaging.drivers.zmq.options import ZmqSettings
from messaging.drivers.zmq.security import load_keys
from messaging.drivers.zmq.waiter import Waiter

__all__ = ["Runtime"]

_COUNTS = (
    "undecodable",
    "strangers",
    "busy",
    "late_settlements",
    "stale_settlements",
    "lost_peers",
    "reconnects",
    "failed_connects",
    "flooded",
    "refused_keys",
    "dropped_replies",
)


class Runtime:
    """Shared by the parts of one connection; touched by its owner only."""

    def __init__(self, settings: ZmqSettings, services: Services) -> None:
        self.settings = settings
        self.clock: Callable[[], float] = services.clock
        self.random: Callable[[], float] = services.random
        self.offload = services.offload
        self.identity = os.urandom(16).hex()
        """This incarnation: the reply address of the connection, and the instance of its record."""
        self.keys = load_keys(settings)
        """CURVE; None: plain."""
        self.waiter = Waiter()
        self.news = News()
        self.counts = dict.fromkeys(_COUNTS, 0)
        self.links: dict[str, Link] = {}
        """Every process that can be written to by address: takers and callers."""
        self.dirty: list[Link] = []
        self.due = 0.0
        """When the connection has something to do without being asked."""
        self.turn = 0
        """Counts the turns of the pump."""
        self.now = self.clock()
        """When this turn began, or its waiting ended."""
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._sockets = 0

    def at(self, when: float) -> None:
        """Have `tick` called at that time, or earlier."""
        if when < self.due:
            self.due = when

    def mark(self, link: Link) -> None:
        """Have a link flushed by the end of this pump."""
        if not link.dirty:
            link.dirty = True
            self.dirty.append(link)

    def unlink(self, link: Link) -> None:
        """A link cannot be written to any more. One process may be reached by several: fixed places with two names."""
        if self.links.get(link.address) is link:
            del self.links[link.address]

    def count(self, name: str) -> None:
        """Add one to a count."""
        self.counts[name] += 1

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The ZeroMQ context of this connection alone."""
        if self._context is None:
            self._context = zmq.Context()
            # Each peer takes a DEALER and the two ends of its monitor.
            self._context.max_sockets = max(1023, 3 * self.settings.max_peers + 64)
        return self._context

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        """Make a socket with everything bounded."""
        settings = self.settings
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.sndhwm = settings.send_hwm
        socket.rcvhwm = settings.receive_hwm
        socket.maxmsgsize = max(settings.max_message, ENVELOPE)
        beat = int(settings.heartbeat * 1000)
        socket.heartbeat_ivl = beat
        # A beat that is not answered before the next one is due proves a stalled peer; so a stall is noticed within
        # two.
        socket.heartbeat_timeout = beat
        socket.heartbeat_ttl = 3 * beat
        socket.handshake_ivl = max(1, int(settings.connect_timeout * 1000))
        socket.tcp_keepalive = 1
        return socket

    def unique(self) -> int:
        """A number that this connection has not used before, for the names of sockets."""
        self._sockets += 1
        return self._sockets

    def terminate(self, done: Callable[[Any, BaseException | None], None]) -> bool:
        """End the context once its sockets have lingered, which blocks and so happens elsewhere; False: there is
        none.
        """
        context, self._context = self._context, None
        if context is None:
            return False
        self.offload(context.term, done)
        return True
