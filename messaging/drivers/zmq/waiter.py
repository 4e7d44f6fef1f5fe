"""Waiting for ZeroMQ sockets and for a wake-up with one descriptor, which an event loop can watch as well.

A ZeroMQ socket's descriptor does not say "there is a message" but "look again", once: every send, one that fails as
well, every receive and every poll may eat that sign. So whoever has used a socket must ask it again before waiting on
the descriptor. `touch` remembers who has to be asked; `zmq_poll` asks several for the price of one (1.2 us; the
socket's own EVENTS option costs 1.4 us each, a receive that finds nothing 3.4 us).

The wake-up is an eventfd in edge-triggered mode: each write is reported once, so nobody has to read it.

A thread that waits for a few sockets uses `zmq_poll` itself, which looks behind the signs without coming back and costs
the same. Where there is no epoll, that is the only way, and there is no descriptor for a loop.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable
from typing import Any

from zmq import POLLIN, Socket
from zmq.backend import zmq_poll

from messaging.drivers.wakeup import WakeUp

__all__ = ["Waiter"]

_POLLIN = int(POLLIN)
_MOST = 64
"""How many descriptors one wait reports; the others are reported by the next."""
_LONGEST = 60_000
"""Milliseconds."""
_FEW = 16
"""Up to so many sockets `zmq_poll` is the cheaper wait: it asks each of them, at 0.3 us."""

Handler = Callable[[], None]
"""Called when its socket may have messages: reads until there are none, or touches the socket again."""


class Waiter:
    """Handlers of sockets, and one wait for all of them. Only `wake` is thread-safe."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._watched = False
        self._wakeup = WakeUp()
        self._event = self._wakeup.descriptor
        self.wake = self._wakeup.ring
        """Make the wait that is going on, or else the next one, return at once."""
        if self._epoll is not None:
            self._epoll.register(self._event, select.EPOLLIN | select.EPOLLET)
        self._handlers: dict[int, Handler] = {}
        self._sockets: dict[Socket[bytes], tuple[int, Handler]] = {}
        self._few: list[tuple[Any, int]] | None = [(self._event, _POLLIN)]
        """What a thread waits for; None: too many, or an event loop watches the descriptor."""
        self._touched: set[Socket[bytes]] = set()
        self._ready: list[Handler] = []
        self.touch = self._touched.add
        """Call it with a socket that was used: it has to be asked again."""

    def fileno(self) -> int | None:
        """The descriptor that is readable when `wait` would not block, if nothing is touched; None: there is none."""
        if self._epoll is None:
            return None
        if not self._watched:
            self._watched = True
            self._few = None
            if self._touched:
                # Nobody has asked them yet, and they may have given their sign before.
                self.wake()
        return self._epoll.fileno()

    def add(self, socket: Socket[bytes], handler: Handler) -> None:
        """Watch a socket for messages."""
        descriptor = int(socket.FD)
        self._handlers[descriptor] = handler
        self._sockets[socket] = (descriptor, handler)
        if self._epoll is not None:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._touched.add(socket)
        self._count()

    def remove(self, socket: Socket[bytes]) -> None:
        """Stop watching, if it is watched; call it before the socket is closed, while it still has its descriptor."""
        descriptor, handler = self._sockets.pop(socket, (-1, None))
        if handler is None:
            return
        del self._handlers[descriptor]
        if self._epoll is not None:
            self._epoll.unregister(descriptor)
        self._touched.discard(socket)
        if handler in self._ready:
            self._ready.remove(handler)
        self._count()

    def _count(self) -> None:
        if self._epoll is not None and (self._watched or len(self._sockets) > _FEW):
            self._few = None
        else:
            self._few = [(self._event, _POLLIN), *((socket, _POLLIN) for socket in self._sockets)]

    def look(self) -> bool:
        """Ask the touched sockets whether they have messages; those that have are returned by the next `wait`."""
        touched = self._touched
        if not touched or self._few is not None:
            # The next wait asks all of them anyway.
            return bool(self._ready)
        found: list[tuple[Any, int]] = zmq_poll([(socket, _POLLIN) for socket in touched], 0)
        touched.clear()
        for socket, _event in found:
            self._ready.append(self._sockets[socket][1])
        return bool(self._ready)

    def wait(self, timeout: float) -> list[Handler]:
        """Wait up to `timeout` seconds, not at all if a touched socket has messages; return whom to call."""
        if self._few is not None or self._epoll is None:
            return self._wait_for_few(self._few or [], timeout)
        if self._touched:
            self.look()
        handlers, self._ready = self._ready, []
        if handlers:
            timeout = 0.0
        known = self._handlers
        for descriptor, _event in self._epoll.poll(timeout, _MOST):
            handler = known.get(descriptor)
            if handler is not None and handler not in handlers:
                handlers.append(handler)
        return handlers

    def _wait_for_few(self, few: list[tuple[Any, int]], timeout: float) -> list[Handler]:
        self._touched.clear()
        handlers, self._ready = self._ready, []
        # Whole milliseconds, and never 0 for a wait that was asked for.
        wait = 0 if handlers or timeout <= 0.0 else math.ceil(min(timeout * 1000, _LONGEST))
        for what, _event in zmq_poll(few, wait):
            # Not `is`: what comes back of a descriptor is its number, which from 257 on is another object.
            if what == self._event:
                self._wakeup.silence()
            else:
                handler = self._sockets[what][1]
                if handler not in handlers:
                    handlers.append(handler)
        return handlers

    def close(self) -> None:
        """Stop watching for good."""
        if self._epoll is not None:
            self._epoll.close()
