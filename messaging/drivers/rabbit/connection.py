"""One connection to a RabbitMQ broker: states, the socket's life, and the events of the contract.

What happens is noted down by the parts (publisher, subscriptions, settling) and told at the end of `pump`. Here are
the steps by which a connection comes up, over all hosts, and how it goes; the parts hear of a life's beginning and
end. Which client library speaks the protocol is the caller's choice.
"""

from __future__ import annotations

import enum
import math
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from messaging.drivers.base import ConnectionEvents, Role, Services, State
from messaging.drivers.hosts import Hosts
from messaging.drivers.rabbit.channels import Channels
from messaging.drivers.rabbit.client import Client, Login, MakeClient
from messaging.drivers.rabbit.declarations import Declarations
from messaging.drivers.rabbit.frames import FrameReader, FrameWriter
from messaging.drivers.rabbit.options import DEFAULT_PORT, DEFAULT_TLS_PORT, RabbitSettings, tls_of
from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.publisher import Publisher
from messaging.drivers.rabbit.refusals import connection_refused
from messaging.drivers.rabbit.settling import Settling
from messaging.drivers.rabbit.subscriptions import Subscriptions
from messaging.drivers.rabbit.topology import Topology
from messaging.drivers.stream import Place, Stream
from messaging.errors import AuthFailed, Closed, ConnectFailed, ConnectionLost, MessagingError
from messaging.message import Delivery, Outcome, Outgoing, Source, SourceKind
from messaging.url import Host

__all__ = ["RabbitConnection"]

_ROUNDS = 4
"""How often one pump tells events that its own events have caused: a settlement made in on_deliveries is told in the
same pump."""
_READS = 4
"""Reads in one pump: what bounds it. What is left keeps the descriptor readable."""


class _Step(enum.Enum):
    """How far a connection has come."""

    NEW = "new"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    GREETING = "greeting"
    OPEN = "open"
    WAITING = "waiting"
    """Before the next try; for ever where there will be none."""
    CLOSING = "closing"
    CLOSED = "closed"

    __hash__ = object.__hash__


class RabbitConnection:
    """See messaging.drivers.base.Connection. `topology` is asked for with the connection's identity."""

    def __init__(
        self,
        settings: RabbitSettings,
        role: Role,
        events: ConnectionEvents,
        services: Services,
        *,
        make_client: MakeClient,
        topology: Callable[[str], Topology],
        direct_replies: bool,
    ) -> None:
        self._settings = settings
        self._role = role
        self._events = events
        self._services = services
        self._make_client = make_client
        self._clock = services.clock
        self._tls = tls_of(settings)
        self._hosts = Hosts(settings.url.hosts, services.random)
        self._answers_survive = not direct_replies
        identity = secrets.token_hex(8)
        self._identity = identity
        self.stream = Stream(settings.coalesce)
        self._channels = Channels()
        self._declarations = Declarations(self._channels, settings.declare)
        made = topology(identity)
        self._publisher = Publisher(
            self._channels,
            self._declarations,
            made,
            self.stream,
            identity=identity,
            max_body=settings.max_body,
            clock=services.clock,
            direct_replies=direct_replies,
        )
        self._subscriptions = Subscriptions(
            self._channels,
            self._declarations,
            made,
            declare=settings.declare,
            clock=services.clock,
            random=services.random,
            direct_returned=self._publisher.direct_returned,
        )
        self._settling = Settling(self._subscriptions, self._publisher, made, self.stream)
        self._client: Client | None = None
        self._reader: FrameReader | None = None
        self._step = _Step.NEW
        self._state: State | None = None
        self._notices: list[Callable[[], None]] = []
        self._host = Host("")
        self._places: list[Place] = []
        self._resolved: list[tuple[int, Any, BaseException | None]] = []
        """What other threads have found out; appended there, taken here."""
        self._attempt = 0
        self._attempt_by = math.inf
        self._retry_at = math.inf
        self._opened = False
        self._who = ""
        self._refused_login: tuple[str, str] | None = None
        self._login: tuple[str, str] | None = None
        self._end: Exception | None = None
        """Why this life is over; noted inside the client's dispatch, acted on after it."""
        self._held_by_peer = False
        self._whole = True
        self._read_at = 0.0
        self._wrote_at = 0.0
        self._close_by: float | None = None
        self._said_goodbye = False
        self._look_at_once = False
        """Something was asked that no descriptor tells of."""
        self._closed = False
        self._reconnects = 0

    # The contract

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._closed:
            return math.inf
        self._flush()
        if timeout > 0.0:
            timeout = min(timeout, self._rest())
        ready = self.stream.wait(timeout if timeout > 0.0 else 0.0)
        if ready:
            self._on_ready()
        self._turn(self._clock())
        for _ in range(_ROUNDS):
            self._tell()
            self._flush()
            if not self._has_news():
                break
        self._dispose()
        return self._rest()

    def _dispose(self) -> None:
        if self._closed:
            self.stream.dispose()

    def wake(self) -> None:
        """See Connection; any thread, and signal handlers."""
        self.stream.wake()

    def fileno(self) -> int | None:
        """See Connection."""
        return self.stream.fileno()

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection."""
        self._publisher.publish(outgoing)

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self._whole = False
        self._subscriptions.subscribe(source, window)

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._subscriptions.unsubscribe(source)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        self._settling.settle(deliveries, outcome, delay, reason)

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace
            self._look_at_once = True

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return {
            "reconnects": self._reconnects,
            "resubscribed": self._subscriptions.resubscribed,
            "stale_settlements": self._settling.stale,
            "undecodable": self._subscriptions.undecodable,
            "reads": self.stream.reads,
            "writes": self.stream.writes,
        }

    # One turn

    def _rest(self) -> float:
        """Seconds for which nothing is due."""
        if self._closed:
            return math.inf
        if self._look_at_once or self._resolved or self._has_news():
            return 0.0
        due = min(self._retry_at, self._attempt_by, self._publisher.next_expiry, self._subscriptions.due)
        if self._step is _Step.OPEN:
            beat = self._settings.heartbeat
            due = min(due, self._wrote_at + beat / 2, self._read_at + 1.5 * beat)
        if self._close_by is not None:
            due = min(due, self._close_by)
        return due if due == math.inf else max(0.0, due - self._clock())

    def _has_news(self) -> bool:
        return bool(
            self._notices
            or self._publisher.news
            or self._subscriptions.news
            or self._settling.news
            or self._subscriptions.batches
        )

    def _on_ready(self) -> None:
        """The socket has something."""
        try:
            if self._step is _Step.CONNECTING:
                if self.stream.advance():
                    self._greet()
            elif self._client is not None:
                for _ in range(_READS):
                    data = self.stream.read()
                    if not data:
                        break
                    self._feed(data)
                    if len(data) < _FULL or self._end is not None:
                        break
                self._read_at = self._clock()
        except (OSError, EOFError) as error:
            self._broken(error)

    def _feed(self, data: bytes) -> None:
        if self._reader is None:
            if self._client is not None:
                self._client.feed(data)
            return
        try:
            self._reader.feed(data)
        except (ValueError, IndexError, struct.error) as error:
            self.on_broken(error)

    def _turn(self, now: float) -> None:
        """Do what is due."""
        self._look_at_once = False
        self._take_resolved()
        if self._end is not None:
            self._lose(self._end, now)
        step = self._step
        if step is _Step.NEW or (step is _Step.WAITING and now >= self._retry_at):
            if self._close_by is None:
                self._connect(now)
        elif now >= self._attempt_by and step in (_Step.RESOLVING, _Step.CONNECTING, _Step.GREETING):
            self._lose(self._unreachable(TimeoutError(f"no answer within {self._settings.connect_timeout:g} s")), now)
        elif step is _Step.OPEN:
            self._beat(now)
            self._subscriptions.step(now)
            if not self._whole and self._subscriptions.complete:
                self._whole = True
                self._hosts.whole_again()
        self._publisher.expire(now)
        self._note_blocking()
        if self._close_by is not None:
            self._go_on_closing(now)

    def _flush(self) -> None:
        """Write what may go, without waiting."""
        if self._step is not _Step.OPEN and self._step is not _Step.CLOSING:
            if self.stream.unwritten:
                self._send()
            return
        if self._step is _Step.OPEN and not self._held_by_peer:
            self._publisher.write()
        # Answers are acknowledged with whatever else is written, or when there are many.
        self._subscriptions.acknowledge_answers(1 if self.stream.unwritten else _MOST_ANSWERS)
        if self.stream.unwritten:
            self._send()
        self._settling.flushed()
        self._publisher.flushed()

    def _send(self) -> None:
        stream = self.stream
        before = stream.taken
        try:
            stream.flush()
        except OSError as error:
            self._broken(error)
            return
        if stream.taken != before:
            self._wrote_at = self._clock()

    def _beat(self, now: float) -> None:
        beat = self._settings.heartbeat
        if now - self._read_at >= 1.5 * beat:
            # Whatever lay in the system's buffer was read before this, however long the owner was away.
            self._end = ConnectionLost(f"{self._host.address} has been silent for {1.5 * beat:g} s")
            self._lose(self._end, now)
            return
        if self._client is not None and now - self._wrote_at >= beat / 2 and not self.stream.unwritten:
            self._client.heartbeat()

    # Coming up

    def _note(self, state: State, cause: Exception | None = None, retry_in: float | None = None) -> None:
        self._note_sent()
        self._state = state
        self._notices.append(partial(self._events.on_state, state, cause, retry_in, None))

    def _note_sent(self) -> None:
        """Tell the news so far before what is noted next: what came back must not look refused by the next life."""
        news, self._publisher.news = self._publisher.news, []
        if news:
            self._notices.append(partial(self._events.on_sent, news))

    def _connect(self, now: float) -> None:
        self._retry_at = math.inf
        self._note(State.CONNECTING)
        self._opened = False
        self._attempt += 1
        self._attempt_by = now + self._settings.connect_timeout
        host = self._host = self._hosts.next()
        port = host.port or (DEFAULT_TLS_PORT if self._tls is not None else DEFAULT_PORT)
        if host.port is None:
            self._host = Host(host.name, port, host.username, host.password)
        attempt = self._attempt
        credentials = self._settings.credentials
        self._step = _Step.RESOLVING

        def ask() -> tuple[list[Place], tuple[str, str] | None]:
            places = socket.getaddrinfo(host.name, port, type=socket.SOCK_STREAM)
            return places, credentials() if credentials is not None else None  # type: ignore[return-value]

        def done(result: Any, error: BaseException | None) -> None:
            self._resolved.append((attempt, result, error))
            self.stream.wake()

        if credentials is None and _is_numeric(host.name):
            # Nothing to ask anybody for, so no thread is needed.
            self._resolved.append((attempt, ask(), None))
            self._take_resolved()
        else:
            self._services.offload(ask, done)

    def _take_resolved(self) -> None:
        while self._resolved:
            attempt, result, error = self._resolved.pop(0)
            if attempt != self._attempt or self._step is not _Step.RESOLVING:
                continue
            if error is not None:
                self._broken(error)
                continue
            self._places, given = result
            self._login = given if given is not None else (self._host.username or "guest", self._host.password or "")
            if given is None and self._host.username is None:
                self._login = ("guest", "guest")
            self._step = _Step.CONNECTING
            self._next_place(OSError("the name has no address"))

    def _next_place(self, error: BaseException) -> None:
        """Try the next address of the host; `error` is what the last one said."""
        while self._places:
            place = self._places.pop(0)
            try:
                name = self._settings.tls_server_name or self._host.name
                self.stream.connect(place, self._tls, name)
            except OSError as refused:
                error = refused
            else:
                self._step = _Step.CONNECTING
                return
        self._end = self._unreachable(error)

    def _unreachable(self, error: BaseException) -> Exception:
        failed = ConnectFailed(f"{self._host.address} cannot be connected: {_said(error)}")
        failed.__cause__ = error
        return failed

    def _greet(self) -> None:
        username, password = self._login or ("guest", "guest")
        external = self._settings.login == "external"
        self._who = "the client certificate" if external else f"user {username!r}"
        login = Login(
            mechanism="EXTERNAL" if external else "PLAIN",
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
        self._step = _Step.GREETING
        self._client = self._make_client(login, self, self.stream.write)
        self._reader = FrameReader(self, self._client.feed) if self._settings.codec == "own" else None
        self._client.start()

    def _broken(self, error: BaseException) -> None:
        """The socket, or the way to it, has failed."""
        if self._step is _Step.CONNECTING and self._places and not isinstance(error, TimeoutError):
            self._next_place(error)
        elif self._end is None:
            if self._step in (_Step.RESOLVING, _Step.CONNECTING, _Step.GREETING):
                self._end = self._unreachable(error)
            else:
                lost = ConnectionLost(f"the connection to {self._host.address} broke: {_said(error)}")
                lost.__cause__ = error
                self._end = lost

    # Going

    def _lose(self, cause: Exception, now: float) -> None:
        self._end = None
        self._attempt_by = math.inf
        was_open = self._step is _Step.OPEN or self._step is _Step.CLOSING
        self._client = None
        self._held_by_peer = False
        self._channels.end()
        if self._step is _Step.CLOSING:
            self._step = _Step.WAITING
            self._close_by = now
        retry_in = self._retry_in(cause)
        self._step = _Step.WAITING
        self._retry_at = math.inf if retry_in is None else now + retry_in
        self._note(State.LOST, cause, retry_in)
        self._subscriptions.lose()
        self._declarations.lose(cause)
        self._settling.lose(cause)
        self._publisher.lose(cause, self._answers_survive)
        self._note_sent()
        self.stream.drop()
        if was_open:
            self._whole = False

    def _retry_in(self, cause: Exception) -> float | None:
        final = isinstance(cause, AuthFailed) or (isinstance(cause, ConnectFailed) and not cause.retryable)
        if not final:
            return self._hosts.delay()
        if isinstance(cause, AuthFailed) and self._settings.credentials is not None:
            # Whoever asks for credentials at each connect may have others by now; the same ones are refused for good.
            refused, self._refused_login = self._refused_login, self._login
            if refused != self._login:
                return self._hosts.delay()
        return None

    def _go_on_closing(self, now: float) -> None:
        close_by = self._close_by
        if close_by is None or self._step is _Step.CLOSED:
            return
        if self._step is _Step.OPEN and now < close_by:
            if self._publisher.idle and self._settling.idle and not self.stream.unwritten:
                self._step = _Step.CLOSING
                for method in self._subscriptions.own_queues() if self._settings.declare else ():
                    self._declarations.run((method,), lambda _error: None)
                self._say_goodbye()
            return
        if self._step is _Step.CLOSING and now < close_by:
            self._say_goodbye()
            return
        self._finish()

    def _say_goodbye(self) -> None:
        if self._declarations.idle and self._client is not None and not self._said_goodbye:
            self._said_goodbye = True
            self._subscriptions.acknowledge_answers()
            self._client.close()

    def _finish(self) -> None:
        cause = Closed("the connection was closed")
        self._client = None
        self._channels.end()
        self._subscriptions.lose()
        self._declarations.lose(cause)
        self._settling.lose(cause)
        self._publisher.lose(cause, False)
        self.stream.drop()
        self._note(State.CLOSED)
        self._step = _Step.CLOSED
        self._closed = True

    # Telling

    def _note_blocking(self) -> None:
        if self._step is not _Step.OPEN:
            return
        blocked = self._held_by_peer or self._publisher.blocked
        if blocked and self._state is State.READY:
            self._note(State.BLOCKED)
        elif not blocked and self._state is State.BLOCKED:
            self._note(State.READY)

    def _tell(self) -> None:
        """Fire the events that were noted down."""
        events = self._events
        if self._notices:
            notices, self._notices = self._notices, []
            for notice in notices:
                notice()
        publisher = self._publisher
        if publisher.news:
            news, publisher.news = publisher.news, []
            events.on_sent(news)
        subscriptions = self._subscriptions
        if subscriptions.news:
            told, subscriptions.news = subscriptions.news, []
            for source, address, error in told:
                if source.kind is SourceKind.REPLY:
                    found = subscriptions.replies()
                    publisher.reply_address = address
                    publisher.answers_come_to(found.channel if found is not None and error is None else None)
                events.on_subscribed(source, address, error)
        settling = self._settling
        if settling.news:
            settled, settling.news = settling.news, []
            for deliveries, error in settled:
                events.on_settled(deliveries, error)
        if subscriptions.batches:
            batches, subscriptions.batches = subscriptions.batches, {}
            for subscription in batches:
                subscription.batch_taken()
            for subscription, batch in batches.items():
                events.on_deliveries(subscription.source, batch)

    # From the client

    def on_open(self, server_properties: Mapping[str, Any]) -> None:
        """See ClientEvents."""
        client = self._client
        if client is None:
            return
        now = self._clock()
        self._step = _Step.OPEN
        if self._attempt > 1 and not self._opened:
            self._reconnects += 1
        self._opened = True
        self._attempt_by = math.inf
        self._refused_login = None
        self._read_at = self._wrote_at = now
        writer = None
        if self._reader is not None:
            self._reader.frame_max = client.frame_max
            writer = FrameWriter(self.stream.write, client.frame_max)
        self._channels.begin(client, writer)
        self._note(State.READY)
        self._subscriptions.begin(now)

    def on_closed(self, code: int, text: str) -> None:
        """See ClientEvents."""
        self._end = connection_refused(code, text, self._host.address, self._who, self._opened)

    def on_close_ok(self) -> None:
        """See ClientEvents."""
        if self._close_by is not None:
            self._close_by = self._clock()

    def on_broken(self, error: Exception) -> None:
        """See ClientEvents."""
        failed: MessagingError = ConnectFailed(
            f"{self._host.address} speaks no AMQP 0-9-1 that we know: {_said(error)}"
        )
        if self._opened:
            failed = ConnectionLost(f"{self._host.address} has sent what is no AMQP 0-9-1: {_said(error)}")
        failed.__cause__ = error
        self._end = failed

    def on_blocked(self, reason: str) -> None:
        """See ClientEvents."""
        self._held_by_peer = True

    def on_unblocked(self) -> None:
        """See ClientEvents."""
        self._held_by_peer = False

    def on_channel_closed(self, channel: int, code: int, text: str) -> None:
        """See ClientEvents."""
        if self._reader is not None:
            self._reader.forget(channel)
        self._channels.closed(channel, code, text)

    def on_cancelled(self, channel: int, tag: str) -> None:
        """See ClientEvents."""
        owner = self._channels.find(channel)
        # At the end we delete our own queues ourselves.
        if owner is not None and self._step is not _Step.CLOSING:
            owner.on_cancelled(tag)

    def on_message(
        self, channel: int, consumer: str, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> None:
        """See ClientEvents."""
        owner = self._channels.find(channel)
        if owner is not None:
            owner.on_message(consumer, tag, redelivered, properties, body)

    def on_unreadable(self, channel: int, consumer: str, tag: int) -> None:
        """See FrameSink."""
        owner = self._channels.find(channel)
        if owner is not None:
            owner.on_unreadable(tag)

    def on_returned(self, channel: int, code: int, text: str, properties: Properties) -> None:
        """See ClientEvents."""
        owner = self._channels.find(channel)
        if owner is not None:
            owner.on_returned(text, properties)

    def on_confirmed(self, channel: int, tag: int, multiple: bool, positive: bool) -> None:
        """See ClientEvents."""
        owner = self._channels.find(channel)
        if owner is not None:
            owner.on_confirmed(tag, multiple, positive)


_FULL = 256 * 1024
_MOST_ANSWERS = 64


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
