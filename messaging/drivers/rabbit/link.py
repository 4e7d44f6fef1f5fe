"""The way to a broker, life after life: hosts, the socket, TLS, the login, heartbeats, and the end of each life.

It owns the socket and the client library's protocol engine, and tells the connection two things by its fields: that a
life has begun (`begun`), and why it is over (`ended`). What happens on the channels of a life goes to whoever owns
them, without passing through here.

Names are resolved, and credentials asked for, in another thread; nothing else ever waits. Heartbeats are judged here
and not by the library: a broker writes one every half interval, so one that has been silent for one and a half is
given up, which is within two.
"""

from __future__ import annotations

import enum
import math
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

from messaging.drivers.base import Role, Services
from messaging.drivers.hosts import Hosts
from messaging.drivers.logins import Logins
from messaging.drivers.rabbit.channels import Channels
from messaging.drivers.rabbit.client import Client, Login, MakeClient
from messaging.drivers.rabbit.frames import FrameReader, FrameWriter
from messaging.drivers.rabbit.options import DEFAULT_PORT, DEFAULT_TLS_PORT, RabbitSettings
from messaging.drivers.rabbit.refusals import connection_refused, cure_of
from messaging.drivers.stream import Place, Stream
from messaging.drivers.tls import tls_of
from messaging.errors import AuthFailed, ConnectFailed, ConnectionLost, MessagingError
from messaging.url import Host

__all__ = ["Link", "Phase"]

_FULL = 64 * 1024
_READS = 4
"""Reads in one pump: what bounds it. What is left keeps the descriptor readable."""


class Phase(enum.Enum):
    """How far a life has come."""

    DOWN = "down"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    GREETING = "greeting"
    OPEN = "open"

    __hash__ = object.__hash__


class Link(Channels):
    """See above. Everything is called by the connection's owner, from inside `pump`."""

    def __init__(
        self, settings: RabbitSettings, role: Role, services: Services, make_client: MakeClient, stream: Stream
    ) -> None:
        super().__init__()
        self._settings = settings
        self._role = role
        self._services = services
        self._make_client = make_client
        self._tls = tls_of(settings)
        self._hosts = Hosts(settings.url.hosts, services.random)
        self.stream = stream
        self.phase = Phase.DOWN
        self.begun = False
        """A life has begun, and the connection has not taken note of it."""
        self.ended: Exception | None = None
        """Why the life, or the attempt at one, is over; the connection has to take note of it and `drop`."""
        self.held = False
        """The broker wants no messages now."""
        self.parted = False
        """The broker has agreed to our `part`."""
        self.attention = True
        """Something has happened beside the traffic of messages, so `run` has something to do whatever the time is."""
        self._engine: Client | None = None
        self._reader: FrameReader | None = None
        self._host = Host("")
        self._places: list[Place] = []
        self._place: Place | None = None
        """The address that is tried, or in use."""
        self._resolved: deque[tuple[int, Any, BaseException | None]] = deque()
        """What other threads have found out; appended there, taken here."""
        self._attempt = 0
        self._attempt_by = math.inf
        self._accepted = False
        self._login = ("guest", "guest")
        self._logins = Logins()
        self._read_at = 0.0
        self._wrote_at = 0.0

    @property
    def due(self) -> float:
        """When `run` is to be called next."""
        if self._resolved:
            return 0.0
        if self.phase is not Phase.OPEN:
            return self._attempt_by
        beat = self._settings.heartbeat
        return min(self._wrote_at + beat / 2, self._read_at + 1.5 * beat)

    def delay(self, cause: Exception) -> float | None:
        """Seconds before the next attempt after such an end; None: there shall be none."""
        final = isinstance(cause, ConnectFailed) and not cause.retryable
        if isinstance(cause, AuthFailed):
            final = self._logins.refused(self._login if self._settings.credentials is not None else None)
        return None if final else self._hosts.delay()

    def whole_again(self) -> None:
        """Everything is back that the last loss took."""
        self._hosts.whole_again()

    # Coming up

    def connect(self, now: float) -> None:
        """Begin an attempt, at the next host."""
        self._accepted = self.parted = False
        self._attempt += 1
        self._attempt_by = now + self._settings.connect_timeout
        host = self._hosts.next()
        port = host.port or (DEFAULT_TLS_PORT if self._tls is not None else DEFAULT_PORT)
        self._host = Host(host.name, port, host.username, host.password)
        attempt = self._attempt
        credentials = self._settings.credentials
        self.phase = Phase.RESOLVING

        def ask() -> tuple[list[Any], tuple[str, str] | None]:
            places = socket.getaddrinfo(host.name, port, type=socket.SOCK_STREAM)
            return places, credentials() if credentials is not None else None

        def done(result: Any, error: BaseException | None) -> None:
            self._resolved.append((attempt, result, error))
            # After it, as `run` lowers it before it looks.
            self.attention = True
            self.stream.wake()

        if credentials is None and _is_numeric(host.name):
            # Nobody has to be asked, so no thread is needed.
            self._resolved.append((attempt, ask(), None))
            self._take_resolved()
        else:
            self._services.offload(ask, done)

    def _take_resolved(self) -> None:
        while self._resolved:
            attempt, result, error = self._resolved.popleft()
            if attempt != self._attempt or self.phase is not Phase.RESOLVING:
                continue
            if error is not None:
                self.ended = self._unreachable(error)
                continue
            places, given = result
            self._places = self._hosts.in_turn(places)
            host = self._host
            if given is not None:
                self._login = given
            elif host.username is not None:
                self._login = (host.username, host.password or "")
            self.phase = Phase.CONNECTING
            self._next_place(OSError("the name has no address"))

    def _next_place(self, error: BaseException) -> None:
        """Try the next address of the host; `error` is what the last one said."""
        while self._places:
            place = self._place = self._places.pop(0)
            try:
                self.stream.connect(place, self._tls, self._settings.tls_server_name or self._host.name)
            except OSError as refused:
                error = refused
            else:
                return
        self.ended = self._unreachable(error)

    def _unreachable(self, error: BaseException) -> Exception:
        cure = cure_of(error, self._tls is not None)
        failed = ConnectFailed(f"{self._host.address} cannot be connected: {_said(error)}{cure}")
        failed.__cause__ = error
        return failed

    def _greet(self) -> None:
        username, password = self._login
        login = Login(
            mechanism="EXTERNAL" if self._settings.login == "external" else "PLAIN",
            username=username,
            password=password,
            vhost=self._settings.url.vhost or "/",
            heartbeat=self._settings.heartbeat,
            frame_max=self._settings.frame_max,
            client_properties={
                "product": "messaging",
                "connection_name": f"{os.path.basename(sys.argv[0] or 'python')}:{os.getpid()}:{self._role.value}",
            },
        )
        self.phase = Phase.GREETING
        engine = self._engine = self._make_client(login, self, self.stream.write)
        self._reader = FrameReader(self, self._feed_engine) if self._settings.codec == "own" else None
        engine.start()

    # Bytes

    def read(self, now: float) -> None:
        """The socket has something: go on connecting, or read and pass on what was read."""
        try:
            if self.phase is Phase.CONNECTING:
                self.attention = True
                if self.stream.advance():
                    self._greet()
            elif self._engine is not None:
                self._read_at = now
                for _ in range(_READS):
                    data = self.stream.read()
                    if not data:
                        break
                    self._feed(data)
                    if len(data) < _FULL or self.ended is not None:
                        break
        except (OSError, EOFError) as error:
            self._broken(error)

    def _feed(self, data: bytes) -> None:
        if self._reader is None:
            self._feed_engine(data)
            return
        try:
            self._reader.feed(data)
        except (ValueError, IndexError, struct.error) as error:
            self.on_broken(error)

    def _feed_engine(self, data: bytes) -> None:
        self.attention = True
        if self._engine is not None:
            self._engine.feed(data)

    def send(self, now: float) -> None:
        """Write as much as the system takes."""
        stream = self.stream
        before = stream.taken
        try:
            stream.flush()
        except OSError as error:
            self._broken(error)
            return
        if stream.taken != before:
            self._wrote_at = now

    def _broken(self, error: BaseException) -> None:
        """The socket, or the way to it, has failed."""
        self.attention = True
        if self.phase is Phase.CONNECTING and self._places:
            self._next_place(error)
        elif self.ended is None:
            if self._accepted:
                lost = ConnectionLost(f"the connection to {self._host.address} broke: {_said(error)}")
                lost.__cause__ = error
                self.ended = lost
            else:
                self.ended = self._unreachable(error)

    # Time

    def run(self, now: float) -> None:
        """Do what is due."""
        self.attention = False
        self._take_resolved()
        if self.ended is not None:
            return
        if self.phase is Phase.OPEN:
            self._beat(now)
        elif now >= self._attempt_by:
            if self._place is not None:
                self._hosts.silent(self._place)
            self.ended = self._unreachable(TimeoutError(f"no answer within {self._settings.connect_timeout:g} s"))

    def _beat(self, now: float) -> None:
        beat = self._settings.heartbeat
        if now - self._read_at >= 1.5 * beat:
            # Whatever lay in the system's buffer was read before this, however long the owner was away.
            self.ended = ConnectionLost(f"{self._host.address} has been silent for {1.5 * beat:g} s")
        elif self._engine is not None and now - self._wrote_at >= beat / 2 and not self.stream.unwritten:
            self._engine.heartbeat()

    # Going

    def part(self) -> None:
        """Begin an orderly end; `parted` when the broker has agreed."""
        if self._engine is not None:
            self._engine.close()

    def drop(self) -> None:
        """Give up this life: its socket and its channels."""
        self.phase = Phase.DOWN
        self.ended = None
        self.begun = self.held = False
        self._attempt_by = math.inf
        self._engine = None
        self._reader = None
        self._places = []
        self._place = None
        self.end()
        self.stream.drop()

    # From the client

    def on_open(self, server_properties: Mapping[str, Any]) -> None:
        """See ClientEvents."""
        engine = self._engine
        if engine is None:
            return
        self.phase = Phase.OPEN
        self.begun = self._accepted = True
        self._attempt_by = math.inf
        self._logins.accepted()
        self._read_at = self._wrote_at = self._services.clock()
        writer = None
        if self._reader is not None:
            self._reader.frame_max = engine.frame_max
            writer = FrameWriter(self.stream.write, engine.frame_max)
        self.begin(engine, writer)

    def on_closed(self, code: int, text: str) -> None:
        """See ClientEvents."""
        who = "the client certificate" if self._settings.login == "external" else f"user {self._login[0]!r}"
        self.ended = connection_refused(code, text, self._host.address, who, self._accepted)

    def on_close_ok(self) -> None:
        """See ClientEvents."""
        self.parted = True

    def on_broken(self, error: Exception) -> None:
        """See ClientEvents."""
        failed: MessagingError = ConnectFailed(
            f"{self._host.address} speaks no AMQP 0-9-1 that we know: {_said(error)}"
        )
        if self._accepted:
            failed = ConnectionLost(f"{self._host.address} has sent what is no AMQP 0-9-1: {_said(error)}")
        failed.__cause__ = error
        self.attention = True
        self.ended = failed

    def on_blocked(self, reason: str) -> None:
        """See ClientEvents."""
        self.held = True

    def on_unblocked(self) -> None:
        """See ClientEvents."""
        self.held = False

    def on_channel_closed(self, channel: int, code: int, text: str) -> None:
        """See ClientEvents."""
        if self._reader is not None:
            self._reader.forget(channel)
        super().on_channel_closed(channel, code, text)


def _is_numeric(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
