"""The processes that have connected to us: one ROUTER, bound when the first source is subscribed, shared by all
servers and listeners of the connection.

Nobody is listened to before its greeting, and what is remembered of a caller is bounded and dropped when it is gone.
ZeroMQ does not say whose connection has ended, but it refuses to send to one that has: so whoever has been silent for
a while is sent a few bytes.
"""

from __future__ import annotations

import errno
from typing import Protocol

import zmq

from messaging.drivers.zmq.addresses import bind_somewhere
from messaging.drivers.zmq.frames import (
    HIGHEST_VERSION,
    LOWEST_VERSION,
    PROBE,
    Batch,
    Bye,
    Hello,
    Table,
    Welcome,
    decode,
    encode,
    sources_to_rows,
)
from messaging.drivers.zmq.inbox import Inbox
from messaging.drivers.zmq.link import Link
from messaging.drivers.zmq.peer import Receive
from messaging.drivers.zmq.reading import NOBLOCK, SNDMORE, read_router, send
from messaging.drivers.zmq.runtime import Runtime
from messaging.drivers.zmq.security import Authenticator
from messaging.errors import ConnectionLost, DecodeError

__all__ = ["Caller", "Callers", "CallersEvents"]

_SILENT = 15.0
"""Seconds of silence after which a caller is probed."""
_UNPROVEN = 2**63 - 1
"""As `processed` in Bye: nothing is known about anything."""


class Caller(Link):
    """One connection of another process to ours."""

    __slots__ = ("heard_at", "last", "router", "routing", "waiter")

    def __init__(self, runtime: Runtime, router: zmq.Socket[bytes], routing: bytes, hello: Hello, now: float) -> None:
        super().__init__(routing.decode("ascii", "backslashreplace"), now)
        self.router = router
        self.routing = routing
        self.waiter = runtime.waiter
        self.identity = hello.identity
        self.limit = hello.limit
        if hello.sent:
            self.waited(hello.sent, now)
        self.heard_at = now
        self.last = 0
        """The highest sequence number that was looked at."""

    def send_frames(self, frame: bytes, bodies: list[bytes]) -> bool:
        """See Link."""
        router = self.router
        # First: a send that fails eats the sign of what has come as well.
        self.waiter.touch(router)
        try:
            send(router, self.routing, SNDMORE)
        except zmq.Again:
            return False
        send(router, frame, SNDMORE if bodies else NOBLOCK)
        for position, body in enumerate(bodies, 1):
            send(router, body, SNDMORE if position < len(bodies) else NOBLOCK, False)
        return True


class CallersEvents(Protocol):
    """What the keeper of callers tells the connection."""

    def caller_lost(self, caller: Caller, error: Exception) -> None:
        """A caller is gone."""


class Callers:
    """All callers of one connection, and the socket that they come through."""

    def __init__(self, runtime: Runtime, inbox: Inbox, events: CallersEvents, receive: Receive) -> None:
        self._runtime = runtime
        self._inbox = inbox
        self._events = events
        self._receive = receive
        self._leaving = False
        """Whether everybody was told that nothing more will be looked at."""
        self._several = False
        """Whether the last turn brought more than one message."""
        self._router: zmq.Socket[bytes] | None = None
        self._authenticator: Authenticator | None = None
        self._callers: dict[bytes, Caller] = {}
        self._told = 0
        """The revision that callers know."""
        self._full: set[Caller] = set()
        self._next_probe = 0.0
        self.endpoint = ""
        """Where others reach us; empty while nothing is bound."""

    def bind(self) -> None:
        """Listen. Raises ConnectFailed when no port is free or the address is not ours."""
        if self._router is not None:
            return
        router = self._runtime.socket(zmq.ROUTER)
        # Without this a message for somebody who is gone vanishes; with it the send fails.
        router.router_mandatory = True
        router.backlog = 1024
        runtime = self._runtime
        if runtime.keys is not None:
            self._authenticator = Authenticator(runtime.context, runtime.keys, runtime.waiter, self._count_refusal)
            runtime.keys.protect_server(router)
        try:
            self.endpoint = bind_somewhere(router, self._runtime.settings, self._runtime.random)
        except BaseException:
            router.close(0)
            self._close_authenticator()
            raise
        self._router = router
        self._runtime.waiter.add(router, self._read)

    def _read(self) -> None:
        router = self._router
        if router is not None:
            self._several = read_router(router, self._on_message, self._several) > 1
            # What is left, or has just come, is found by the look at touched sockets.
            self._runtime.waiter.touch(router)

    def _on_message(self, routing: bytes, data: bytes, bodies: list[bytes]) -> bool:
        try:
            frame = decode(data)
        except DecodeError:
            self._runtime.count("undecodable")
            return True
        caller = self._callers.get(routing)
        if self._leaving:
            if type(frame) is Bye and caller is not None:
                self._drop(caller, "it has gone")
        elif type(frame) is Batch:
            if caller is None:
                self._runtime.count("strangers")
                self._send(routing, encode(Bye(_UNPROVEN, "say hello first")))
                return True
            caller.heard_at = self._runtime.now
            if frame.messages:
                caller.last = max(caller.last, frame.messages[-1][0])
            self._receive(caller, frame, bodies)
            if caller.overrun():
                self._runtime.count("flooded")
                self._drop(caller, "it reads no settlements")
        elif type(frame) is Hello:
            self._on_hello(routing, frame)
        elif type(frame) is Bye:
            if caller is not None:
                self._drop(caller, f"it has closed: {frame.reason}")
        else:
            self._runtime.count("undecodable")
        return self._router is not None

    def _on_hello(self, routing: bytes, hello: Hello) -> None:
        version = min(hello.highest, HIGHEST_VERSION)
        if version < max(hello.lowest, LOWEST_VERSION):
            version = 0
        inbox = self._inbox
        rows = sources_to_rows(inbox.served.items())
        welcome = Welcome(version, self._runtime.identity, self._runtime.settings.max_message, inbox.revision, rows)
        known = self._callers.get(routing)
        if known is not None:
            self._drop(known, "it has begun anew")
        if not self._send(routing, encode(welcome)) or not version or self._router is None:
            return
        if hello.instance not in ("", self._runtime.identity):
            # It looks for the process that had this address before, and will go away.
            return
        caller = Caller(self._runtime, self._router, routing, hello, self._runtime.now)
        self._callers[routing] = caller
        # A stranger chooses its routing id, but takes nobody's address.
        self._runtime.links.setdefault(caller.address, caller)
        self._runtime.at(self._next_probe)

    def _send(self, routing: bytes, frame: bytes) -> bool:
        """Send something that needs no settlement, if that can be done now."""
        if self._router is None:
            return False
        self._runtime.waiter.touch(self._router)
        try:
            self._router.send(routing, SNDMORE)
            self._router.send(frame, NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def announce(self) -> None:
        """Tell the callers what is served now, if that has changed."""
        if self._told == self._inbox.revision:
            return
        self._told = self._inbox.revision
        if self._callers:
            table = encode(Table(self._inbox.revision, sources_to_rows(self._inbox.served.items())))
            for routing in self._callers:
                self._send(routing, table)

    def full(self, caller: Caller, now: float) -> None:
        """A caller's connection took no more: try again soon."""
        if caller.overrun():
            self._runtime.count("flooded")
            self._drop(caller, "it reads nothing")
        else:
            self._full.add(caller)
            self._runtime.at(now + 0.02)

    def unreachable(self, caller: Caller, error: zmq.ZMQError) -> None:
        """A caller's connection is gone, as sending to it showed."""
        told = "its connection ended" if error.errno == errno.EHOSTUNREACH else str(error)
        self._drop(caller, told)

    def _drop(self, caller: Caller, reason: str) -> None:
        if self._callers.get(caller.routing) is caller:
            del self._callers[caller.routing]
            self._runtime.unlink(caller)
            self._full.discard(caller)
            self._events.caller_lost(caller, ConnectionLost(f"the caller {caller.address} is gone: {reason}"))

    def tick(self, now: float) -> None:
        """Try again where sending was not possible, and probe the silent."""
        full, self._full = self._full, set()
        for caller in full:
            self._runtime.mark(caller)
        if now >= self._next_probe:
            self._next_probe = now + _SILENT / 3
            for caller in [found for found in self._callers.values() if now - found.heard_at > _SILENT]:
                self._probe(caller)
        if self._callers:
            self._runtime.at(self._next_probe)

    def _probe(self, caller: Caller) -> None:
        try:
            caller.send_frames(PROBE, [])
        except zmq.ZMQError as error:
            self.unreachable(caller, error)

    def __len__(self) -> int:
        return len(self._callers)

    def take_leave(self) -> None:
        """Refuse what is still there, and tell everybody up to where they were heard.

        Closing a connection on which something is unread resets it, and takes what was written last along; so the
        callers are given a moment to go first.
        """
        if self._router is None or self._leaving:
            return
        while read_router(self._router, self._on_message, True):
            pass
        self._leaving = True
        for caller in self._callers.values():
            try:
                caller.flush(self._runtime.now, "", self._runtime.news, [])
            except zmq.ZMQError:
                continue
            self._send(caller.routing, encode(Bye(caller.last, "closed")))

    def close(self) -> None:
        """Close the socket."""
        if self._router is None:
            return
        for caller in list(self._callers.values()):
            self._drop(caller, "this side closed")
        self._runtime.waiter.remove(self._router)
        self._router.close(int(self._runtime.settings.linger * 1000))
        self._router = None
        self._close_authenticator()

    def _count_refusal(self) -> None:
        self._runtime.count("refused_keys")

    def _close_authenticator(self) -> None:
        if self._authenticator is not None:
            self._authenticator.close()
            self._authenticator = None
