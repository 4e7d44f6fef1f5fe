"""A process that we connect to: one DEALER, its monitor, and the greeting that comes before anything else.

ZeroMQ would reconnect by itself and deliver what it had queued to whoever answers then: a server that was away
executes requests whose callers gave up long ago. So its reconnecting is off, each attempt is a new socket with a new
identity, and nothing is queued in a socket before the process at the other end has said who it is.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import zmq

from messaging.backoff import Backoff
from messaging.drivers.zmq.frames import (
    HIGHEST_VERSION,
    LOWEST_VERSION,
    Batch,
    Bye,
    Hello,
    Table,
    Welcome,
    decode,
    encode,
    sources_from_rows,
)
from messaging.drivers.zmq.link import Link
from messaging.drivers.zmq.reading import NOBLOCK, SNDMORE, read_bodies, read_dealer, send
from messaging.drivers.zmq.runtime import Runtime
from messaging.errors import AuthFailed, ConnectFailed, DecodeError, ServerLost
from messaging.matchmaker.base import Record
from messaging.message import Source

if TYPE_CHECKING:
    from messaging.drivers.zmq.choices import Choice

__all__ = ["Peer", "PeerEvents", "PeerState", "Receive"]

_EVENTS = int(
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.DISCONNECTED
    | zmq.Event.CLOSED
)
_EVENT = struct.Struct("=hi")


_NO_BODIES: list[bytes] = []
_OTHER_KEYS = "it may have another key than curve_server_key, or no curve_key at all"

Receive = Callable[[Link, Batch, list[bytes]], None]
"""Takes what a process has sent: the batch, and the frames of large bodies."""


class PeerState(enum.Enum):
    """How far a peer is from taking messages."""

    IDLE = "idle"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    GREETING = "greeting"
    READY = "ready"
    FULL = "full"
    """Connected, but its socket takes no more for now."""

    __hash__ = object.__hash__


class PeerEvents(Protocol):
    """What a peer tells whoever keeps it."""

    def peer_ready(self, peer: Peer, sources_changed: bool) -> None:
        """It has answered the greeting: `sources` and `address` are known."""

    def peer_sources_changed(self, peer: Peer) -> None:
        """It serves something else than before."""

    def peer_down(self, peer: Peer, error: Exception, processed: int | None, *, was_ready: bool) -> None:
        """It is gone, or the attempt failed; the socket is closed. `processed`: it will never look at what came
        after. `was_ready`: it had answered the greeting.
        """


class Peer(Link):
    """One record of the table, and the connection to it, if any."""

    __slots__ = (
        "_monitor",
        "_reader",
        "_receive",
        "_runtime",
        "_several",
        "_socket",
        "_trouble",
        "_watcher",
        "backoff",
        "choices",
        "events",
        "failed_at",
        "failure",
        "listed",
        "not_after",
        "record",
        "replaced",
        "retry_at",
        "revision",
        "sources",
        "state",
        "wanted",
    )

    def __init__(self, runtime: Runtime, record: Record, events: PeerEvents, receive: Receive) -> None:
        super().__init__(record.instance if record.incarnate else "", -1.0)
        self._runtime = runtime
        self.record = record
        self.events = events
        self.sources = record.sources
        """What it serves, by subscription number; None: only it can tell, and has not yet."""
        self.revision = record.revision
        self.state = PeerState.IDLE
        self.listed = True
        """Whether it stands in the matchmaker's table: one that does not gets no new messages."""
        self.replaced = False
        """Whether another process was met at its address: then it is dead, whatever the table says."""
        self.wanted = False
        """Whether to connect as soon as the backoff allows."""
        self.choices: list[Choice] = []
        self.backoff = Backoff(0.05, 1.0, runtime.random)
        self.retry_at = 0.0
        self.not_after = 0.0
        """When the attempt that is under way has failed."""
        self.failed_at = float("-inf")
        self.failure: Exception | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._receive = receive
        self._several = False
        """Whether the last turn brought more than one message."""
        self._trouble: zmq.ZMQError | None = None
        """Why the attempt could not even begin."""
        self._reader = self._read
        self._watcher = self._watch

    @property
    def place(self) -> str:
        """How errors call it."""
        return self.record.endpoint.removeprefix("tcp://")

    def occupied(self, now: float) -> bool:
        """Whether closing the connection would cost somebody something."""
        if self.unsettled or self.queue or self.dirty or self.state is not PeerState.READY:
            return True
        return any(deadline > now for deadline in self.awaited.values())

    def resolve(self, now: float) -> float:
        """Wait for the name to be resolved; the return value is the mark of this attempt."""
        self.state = PeerState.RESOLVING
        self.not_after = now + self._runtime.settings.connect_timeout
        self._runtime.at(self.not_after)
        return self.not_after

    def connect(self, now: float, endpoint: str) -> None:
        """Begin an attempt; events tell how it ends, `not_after` when the keeper gives it up."""
        self.state = PeerState.CONNECTING
        self.not_after = now + self._runtime.settings.connect_timeout
        self._trouble = None
        try:
            self._open(endpoint)
        except zmq.ZMQError as error:
            # An endpoint that is none, or no descriptors left. Told by the keeper's next look, not from in here, where
            # whoever wanted the connection is in the middle of something.
            self._trouble = error
            self.not_after = now
        self._runtime.at(self.not_after)

    def _open(self, endpoint: str) -> None:
        runtime = self._runtime
        number = runtime.unique()
        socket = runtime.socket(zmq.DEALER)
        self._socket = socket
        socket.routing_id = f"{runtime.identity}.{number}".encode()
        socket.reconnect_ivl = -1
        socket.ipv6 = "[" in endpoint
        if runtime.keys is not None:
            runtime.keys.protect_client(socket)
        self._monitor = socket.get_monitor_socket(_EVENTS, f"inproc://monitor-{number}")
        self._monitor.linger = 0
        runtime.waiter.add(socket, self._reader)
        runtime.waiter.add(self._monitor, self._watcher)
        socket.connect(endpoint)

    def disconnect(self, *, linger: float = 0.0) -> None:
        """Close the socket without telling anybody."""
        socket, monitor = self._socket, self._monitor
        self._socket = self._monitor = None
        self.state = PeerState.IDLE
        self.sequence = 0
        self.awaited.clear()
        self.accepted, self.refused, self.settling = [], [], []
        if socket is not None:
            self._runtime.waiter.remove(socket)
            # Before the monitor's other end is closed: an event that nobody can receive blocks ZeroMQ's I/O thread,
            # with the lock that this call waits for.
            socket.disable_monitor()
            socket.close(int(linger * 1000))
        if monitor is not None:
            self._runtime.waiter.remove(monitor)
            monitor.close(0)

    def fail(self, error: Exception, processed: int | None = None, *, linger: float = 0.0) -> None:
        """End the connection or the attempt, and tell."""
        was_ready = self.state in (PeerState.READY, PeerState.FULL)
        self.disconnect(linger=linger)
        self.failure = error
        self.events.peer_down(self, error, processed, was_ready=was_ready)

    def timed_out(self) -> None:
        """The attempt has taken too long."""
        if self._trouble is not None:
            self.fail(ConnectFailed(f"{self.place} cannot be connected: {self._trouble}"))
            return
        step = "answered the greeting" if self.state is PeerState.GREETING else "could be reached"
        self.fail(ConnectFailed(f"nobody at {self.place} {step} within {self._runtime.settings.connect_timeout:g} s"))

    def say_bye(self, reason: str) -> None:
        """Tell the other end that this one closes, as well as can be done."""
        if self._socket is not None and self.state in (PeerState.READY, PeerState.FULL):
            try:
                self._socket.send(encode(Bye(0, reason)), NOBLOCK)
            except zmq.ZMQError:
                # It will find out by the connection's end.
                pass

    def send_frames(self, frame: bytes, bodies: list[bytes]) -> bool:
        """See Link."""
        socket = self._socket
        if socket is None:
            return False
        # First: a send that fails eats the sign of what has come as well.
        self._runtime.waiter.touch(socket)
        try:
            send(socket, frame, SNDMORE if bodies else NOBLOCK)
        except zmq.Again:
            return False
        for position, body in enumerate(bodies, 1):
            send(socket, body, SNDMORE if position < len(bodies) else NOBLOCK, False)
        return True

    def writable(self) -> bool:
        """Whether a FULL socket takes messages again."""
        if self._socket is None:
            return False
        self._runtime.waiter.touch(self._socket)
        return bool(self._socket.poll(0, zmq.POLLOUT))

    def _watch(self) -> None:
        """Read the monitor."""
        while self._monitor is not None:
            try:
                event, _value = _EVENT.unpack(self._monitor.recv_multipart(NOBLOCK)[0])
            except zmq.Again:
                return
            self._on_monitor(event & 0xFFFF)

    def _on_monitor(self, event: int) -> None:
        curve = self._runtime.keys is not None
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self._greet()
        elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            self.fail(AuthFailed(f"{self.place} refused the CURVE key; add its public key to curve_allowed there"))
        elif event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
            cure = _OTHER_KEYS if curve else "it may ask for CURVE: set curve_key"
            self.fail(AuthFailed(f"{self.place} does not speak as this process does; {cure}"))
        elif event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            if curve:
                # It may also have died just now, so this is worth another attempt.
                self.fail(AuthFailed(f"{self.place} broke off the greeting; {_OTHER_KEYS}", retryable=True))
            else:
                told = "it may ask for CURVE: set curve_key; or it may not speak ZeroMQ"
                self.fail(ConnectFailed(f"{self.place} broke off the greeting; {told}"))
        elif event == zmq.Event.DISCONNECTED:
            # What arrived before the end still counts.
            self._read_out()
            if self._socket is not None:
                if self.state in (PeerState.READY, PeerState.FULL):
                    self.fail(ServerLost(f"the connection to {self.place} broke"))
                else:
                    self.fail(ConnectFailed(f"{self.place} closed the connection during the greeting"))
        elif event == zmq.Event.CLOSED and self.state is PeerState.CONNECTING:
            self.fail(ConnectFailed(f"{self.place} cannot be reached"))

    def _greet(self) -> None:
        instance = self.record.instance if self.record.incarnate else ""
        runtime = self._runtime
        hello = Hello(
            "messaging",
            LOWEST_VERSION,
            HIGHEST_VERSION,
            runtime.identity,
            instance,
            runtime.settings.max_message,
            runtime.now,
        )
        if self.send_frames(encode(hello), []):
            self.state = PeerState.GREETING
        else:
            self.fail(ConnectFailed(f"{self.place} took no greeting"))

    def _read(self) -> None:
        socket = self._socket
        if socket is not None:
            self._several = read_dealer(socket, self._on_message, self._several) > 1
            if self._socket is socket:
                # What is left, or has just come, is found by the look at touched sockets.
                self._runtime.waiter.touch(socket)

    def _read_out(self) -> None:
        """Read everything that arrived before the end."""
        while self._socket is not None and read_dealer(self._socket, self._on_message, True):
            pass

    def _on_message(self, data: bytes) -> bool:
        """Handle one ZeroMQ message; False when the socket is gone by it."""
        try:
            frame = decode(data)
        except DecodeError:
            self._runtime.count("undecodable")
            return True
        if type(frame) is Batch:
            socket = self._socket
            bodies = read_bodies(socket) if frame.bodies and socket is not None else _NO_BODIES
            self._receive(self, frame, bodies)
        elif type(frame) is Welcome:
            self._on_welcome(frame)
        elif type(frame) is Table:
            self._on_table(frame.revision, sources_from_rows(frame.rows))
        elif type(frame) is Bye:
            self.say_bye("as you like")
            linger = self._runtime.settings.linger
            self.fail(ServerLost(f"{self.place} has closed: {frame.reason}"), frame.processed, linger=linger)
        else:
            self._runtime.count("undecodable")
        return self._socket is not None

    def _on_welcome(self, welcome: Welcome) -> None:
        if self.state is not PeerState.GREETING:
            return
        if not LOWEST_VERSION <= welcome.version <= HIGHEST_VERSION:
            self.fail(
                ConnectFailed(
                    f"{self.place} speaks the versions {welcome.lowest} to {welcome.highest} of the protocol, "
                    f"this process {LOWEST_VERSION} to {HIGHEST_VERSION}; upgrade the older one",
                    retryable=False,
                )
            )
        elif self.record.incarnate and welcome.instance != self.record.instance:
            self.replaced = True
            self.fail(ConnectFailed(f"{self.place} has become the address of another process"))
        else:
            self.address = self.identity = welcome.instance
            self.limit = welcome.limit
            self.state = PeerState.READY
            self.failure = None
            self.sequence = 0
            before = self.sources
            if not self.record.incarnate or welcome.revision >= self.revision:
                self.revision = welcome.revision
                self.sources = sources_from_rows(welcome.rows)
            self.events.peer_ready(self, self.sources != before)

    def _on_table(self, revision: int, sources: dict[int, Source]) -> None:
        if self.state in (PeerState.READY, PeerState.FULL) and revision > self.revision:
            self.revision = revision
            self.sources = sources
            self.events.peer_sources_changed(self)
