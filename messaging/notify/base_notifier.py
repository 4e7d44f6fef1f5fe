"""What notifiers of both faces share: from a verb to an event, to the sinks, and to one message per topic. Nothing here
waits.

A message goes to all pools of a topic by one route; the level travels in its header, so that a listener can pass over
what it does not handle without decoding it, and so that all levels of one key keep their order.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import msgspec

from messaging.codec import Serializer, explain_unencodable
from messaging.deadline import timeout_seconds
from messaging.drivers.base import Role
from messaging.errors import (
    ConfigError,
    Delivered,
    EncodeError,
    MessagingError,
    NoRoute,
    PipelineFailed,
    TooLarge,
    Unsupported,
)
from messaging.message import CONTENT_TYPE, CORRELATION_ID, MESSAGE_ID, Outgoing, Route
from messaging.notify.burst import Way
from messaging.notify.event import LEVELS, Event, level_name
from messaging.notify.routing import Routing
from messaging.notify.session import KIND, NotifySession, Sending
from messaging.notify.sinks import Messaging, Noop, Sink, sinks_of
from messaging.target import Target
from messaging.transport import BaseTransport, check_transport
from messaging.wire.base import check_headers, with_headers
from messaging.wire.native import KEY_HEADER, LEVEL_HEADER, POOL_HEADER, VERSION, Kind, Notification

__all__ = ["OWN_HEADERS", "BaseNotifier", "Countdown", "NotifierAround", "OnError", "Sent"]

_log = logging.getLogger(__name__)

NOTIFY_TIMEOUT = 10.0
"""Seconds for a notification to be taken, when nothing else is said."""
_UNSET: Any = object()
OWN_HEADERS = frozenset({MESSAGE_ID, CORRELATION_ID, CONTENT_TYPE, LEVEL_HEADER, KEY_HEADER, POOL_HEADER})
"""Headers that users may not set."""

NotifierAround = Callable[[Event[Any]], Any]
"""Given the event that is about to leave, returns a context manager; `event.headers` and `event.context` may be added
to inside it.
"""
OnError = Literal["raise", "log"] | Callable[[Event[Any], Exception], object]


class Countdown:
    """Runs a function when it has been called so many times, by whatever threads; a counter's step is one of the
    interpreter.
    """

    __slots__ = ("_step", "_steps", "_then")

    def __init__(self, steps: int, then: Callable[[], object]) -> None:
        self._steps = steps
        self._step = itertools.count(1).__next__
        self._then = then

    def __call__(self) -> None:
        """Count one; the last one runs the function."""
        if self._step() == self._steps:
            self._then()


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `prepare` can change, with what the constructor has set."""

    publisher_id: str
    exchange: str | None = None
    topics: tuple[str, ...] = ("notifications",)
    timeout: float | None = None
    retry: int | None = None
    headers: dict[str, Any] = {}


class SentAround:
    """One notification under way to several topics or sinks: a Sending for each topic, and what went wrong in the
    other sinks.
    """

    __slots__ = ("errors", "sendings")

    def __init__(self) -> None:
        self.sendings: list[Sending] = []
        self.errors: list[Exception] = []

    @property
    def ended(self) -> bool:
        """Whether every outcome is there."""
        return all(sending.ended for sending in self.sendings)

    @property
    def taken(self) -> bool:
        """Whether it is known to have gone everywhere."""
        return not self.errors and all(sending.value for sending in self.sendings)


Sent = SentAround | Sending
"""One notification under way. Mostly it goes to one topic, and then its Sending is all there is: whatever a pipeline
keeps for each of thousands is work for the garbage collector (half of a pipeline's time was that).
"""


class BaseNotifier:
    """A notifier without a way of waiting. Immutable, thread-safe; `prepare` makes changed copies.

    `publisher_id`: who sends, by default the name of this host. `timeout`: seconds until a notification must be taken,
    10 by default. `retry`: how often it may be sent again; None: as often as the deadline allows. `serializer`: turns
    contexts and payloads into plain values. `on_error`: "raise" a failed send, "log" it, or a function that gets the
    event and the error. `unrouted`: "raise" NoRoute where nobody has ever listened, or only "count" it. `sinks`: where
    notifications go, objects or names; by default the transport. `around`: context managers, each made for one event.
    Raises ConfigError, InvalidTarget, or Unsupported.
    """

    _face: ClassVar[type[BaseTransport]] = BaseTransport
    """The kind of transport that this face can wait for."""

    def __init__(
        self,
        transport: BaseTransport,
        publisher_id: str | None = None,
        topics: Sequence[str] = ("notifications",),
        *,
        exchange: str | None = None,
        timeout: float | None = None,
        retry: int | None = None,
        serializer: Serializer | None = None,
        on_error: OnError = "raise",
        unrouted: Literal["raise", "count"] = "raise",
        sinks: Sequence[Sink | str] | None = None,
        around: Sequence[NotifierAround] = (),
    ) -> None:
        check_transport(transport, self._face)
        if on_error not in ("raise", "log") and not callable(on_error):
            raise ConfigError(f"on_error must be 'raise', 'log' or a function of (event, error), not {on_error!r}")
        if unrouted not in ("raise", "count"):
            raise ConfigError(f"unrouted must be 'raise' or 'count', not {unrouted!r}")
        self.transport = transport
        self._serializer = serializer
        self._on_error = on_error
        self._unrouted = unrouted
        self._sinks = sinks_of(sinks)
        self._around = tuple(around)
        self._uses_transport = any(isinstance(sink, Messaging) for sink in self._all_sinks())
        self._transport_alone = len(self._sinks) == 1 and isinstance(self._sinks[0], Messaging)
        self._epoch = -1
        self._set(
            _Options(
                publisher_id=os.uname().nodename if publisher_id is None else publisher_id,
                exchange=exchange,
                topics=topics,  # type: ignore[arg-type]
                timeout=timeout,
                retry=retry,
            )
        )

    def _set(self, options: _Options) -> None:
        topics: Any = options.topics
        if isinstance(topics, str) or not isinstance(topics, Sequence) or not topics:
            raise ConfigError(
                f'topics must be a list of at least one topic, for example ["notifications"], not {topics!r}'
            )
        for topic in topics:
            Target(exchange=options.exchange, topic=topic)
        if not isinstance(options.publisher_id, str):
            raise ConfigError(f"publisher_id must be a string, not {options.publisher_id!r}")
        if options.retry is not None and (type(options.retry) is not int or options.retry < 0):
            raise ConfigError(
                f"retry must be None (as the deadline allows) or a number of repeats from 0, not {options.retry!r}"
            )
        self._check_headers(options.headers)
        self._options = options
        self._way: Way | None = None
        self._timeout = timeout_seconds(options.timeout, NOTIFY_TIMEOUT)
        wire = self.transport.wire
        exchange = options.exchange or wire.exchange
        self._routes = {
            level: tuple((topic, Route.pools(exchange, wire.topic(topic, level))) for topic in dict.fromkeys(topics))
            for level in LEVELS
        }

    def prepare(
        self,
        *,
        publisher_id: str = _UNSET,
        exchange: str | None = _UNSET,
        topics: Sequence[str] = _UNSET,
        timeout: float | None = _UNSET,
        retry: int | None = _UNSET,
        headers: Mapping[str, Any] = _UNSET,
    ) -> Self:
        """Return a notifier like this one with other options; see the class. `headers` travel beside the context.

        Raises ConfigError or InvalidTarget.
        """
        given = {
            "publisher_id": publisher_id,
            "exchange": exchange,
            "topics": topics,
            "timeout": timeout,
            "retry": retry,
            "headers": headers if headers is _UNSET else dict(headers),
        }
        other = copy.copy(self)
        changes = {name: value for name, value in given.items() if value is not _UNSET}
        other._set(msgspec.structs.replace(self._options, **changes))
        return other

    def is_enabled(self) -> bool:
        """Whether notifications go anywhere: False when there is no sink but Noop."""
        return any(not isinstance(sink, Noop) for sink in self._all_sinks())

    def _all_sinks(self) -> list[Sink]:
        return [inner for sink in self._sinks for inner in (sink.sinks if isinstance(sink, Routing) else [sink])]

    # From a verb to messages

    def _event(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        headers: Mapping[str, Any] | None,
    ) -> Event[Any]:
        if type(event_type) is not str or not event_type:
            raise ConfigError(f"event_type must be a string that is not empty, not {event_type!r}")
        own = self._options.headers
        if headers:
            self._check_headers(headers)
            own = {**own, **headers}
        context: Any = {} if ctxt is None else ctxt
        if self._serializer is not None:
            context = self._serializer.serialize_context(context)
            payload = self._serializer.serialize_entity(ctxt, payload)
        elif type(context) is not dict and not isinstance(context, Mapping):
            raise ConfigError(
                f"the context must be a mapping or None, not {type(ctxt).__name__}; set a serializer for other types"
            )
        return Event(
            event_type=event_type,
            publisher_id=self._options.publisher_id,
            level=level_name(level),
            payload=payload,
            context=dict(context),
            timestamp=time.time(),
            message_id=self._new_id(),
            headers=dict(own),
        )

    def _new_id(self) -> str:
        if not self._uses_transport:
            return os.urandom(16).hex()
        return self.transport.wire.new_message_id() or self._session().operations.next_id()

    def _check_headers(self, headers: Mapping[str, Any]) -> None:
        for name in headers:
            if not isinstance(name, str):
                raise ConfigError(f"header names are strings, not {name!r}")
            if name in OWN_HEADERS:
                raise ConfigError(f"the header {name!r} is this library's own; choose another name")
        check_headers(self.transport.wire, headers)

    def _session(self) -> NotifySession:
        transport = self.transport
        # Looked up once; a forked child gets one of its own.
        if self._epoch != transport.epoch:
            self._found: NotifySession = transport.attached(Role.NOTIFIER, NotifySession)
            self._way = None
            self._epoch = transport.epoch
        return self._found

    def _short_way(self) -> Way | None:
        """The short way, for what needs nothing but the transport; None: there is none with these options."""
        if self._way is not None and self._epoch == self.transport.epoch:
            return self._way
        wire = self.transport.wire
        options = self._options
        if (
            not self._transport_alone
            or len(options.topics) > 1
            or self._around
            or self._serializer is not None
            or wire.context_headers is not None
            or wire.seal is not None
        ):
            return None
        session = self._session()
        topics = {level: routes[0] for level, routes in self._routes.items()}
        way = self._way = Way.of(session, options.publisher_id, topics, options.headers, self._timeout, options.retry)
        return way

    def _start(self, event: Event[Any], key: str | None, wake: Callable[[], object]) -> Sent:
        """Give an event to every sink; `wake` is called once, when every topic has its outcome. Any thread, never
        waits.

        Raises EncodeError or TooLarge before anything was sent.
        """
        routes = self._routes[event.level]
        if self._transport_alone and len(routes) == 1:
            # Not the message's id: a dead letter keeps that of its original, which may still be under way.
            id_ = self._session().operations.next_id()
            return self._send_to(*routes[0], id_, event, self._encoded(event), key, wake)
        sent = SentAround()
        if self._transport_alone:
            body = self._encoded(event)
        else:
            chosen = [
                inner for sink in self._sinks for inner in (sink.choose(event) if isinstance(sink, Routing) else [sink])
            ]
            over_transport = any(isinstance(sink, Messaging) for sink in chosen)
            body = self._encoded(event) if over_transport else b""
            _emit(chosen, event, sent)
            if not over_transport:
                wake()
                return sent
        arrived = wake if len(routes) == 1 else Countdown(len(routes), wake)
        for topic, route in routes:
            id_ = self._session().operations.next_id()
            sent.sendings.append(self._send_to(topic, route, id_, event, body, key, arrived))
        return sent

    def _send_to(
        self,
        topic: str,
        route: Route,
        id_: str,
        event: Event[Any],
        body: bytes,
        key: str | None,
        wake: Callable[[], object],
    ) -> Sending:
        """Start to send to one topic."""
        session = self._session()
        wire = self.transport.wire
        deadline = session.operations.reactor.clock() + self._timeout
        headers = {**event.headers, MESSAGE_ID: event.message_id, LEVEL_HEADER: event.level}
        if key is not None:
            if wire.context_headers is not None:
                raise Unsupported(
                    f"notifications on wire={wire.name} have no key, so key={key!r} cannot keep any order"
                )
            headers[KEY_HEADER] = key
        sending = Sending(
            id=id_,
            kind=KIND,
            timeout=self._timeout,
            deadline=deadline,
            wake=wake,
            session=session,
            topic=topic,
            retry=self._options.retry,
        )
        outgoing = Outgoing(route, body, headers, sending, key=key, deadline=deadline)
        seal = wire.seal
        if seal is not None:
            seal(outgoing)
        session.start(sending, outgoing)
        return sending

    def _encoded(self, event: Event[Any]) -> bytes:
        wire = self.transport.wire
        context = event.context if wire.context_headers is None else with_headers(wire, event.context, event.headers)
        try:
            body = wire.encode_notification(
                Notification(
                    VERSION,
                    Kind.NOTIFICATION,
                    0,
                    event.event_type,
                    event.publisher_id,
                    event.level,  # type: ignore[arg-type]  # `level_name` has looked at it
                    event.timestamp,
                    context,
                    event.payload,
                )
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            why = explain_unencodable({"payload": event.payload, "ctxt": event.context})
            raise EncodeError(
                f"{event.event_type}: {why}; pass plain values, dataclasses or msgspec structs, or set a serializer"
            ) from error
        limit = self._session().operations.reactor.capabilities.max_body
        if len(body) > limit:
            raise TooLarge(
                f"{event.event_type}: the encoded notification has {len(body)} bytes, "
                f"and this transport carries {limit}"
            )
        return body

    def _abandon(self, sent: Sent, error: Callable[[Sending], BaseException]) -> None:
        """Give up what has no outcome yet; any thread."""
        for sending in sent.sendings:
            sending.session.abandon(sending, error(sending))

    # From outcomes to an error, or none

    def _failure(self, sent: Sent) -> Exception | None:
        """Return what went wrong with an ended notification, for the caller to hear."""
        failures = list(sent.errors)
        taken = False
        for sending in sent.sendings:
            error = sending.error
            if error is None:
                taken = True
            elif not isinstance(error, Exception):
                raise error
            elif not (self._unrouted == "count" and isinstance(error, NoRoute)):
                error.add_note(f"topic {sending.topic}")
                failures.append(error)
        if not failures:
            return None
        if len(sent.sendings) + len(sent.errors) == 1:
            return failures[0]
        for index, error in enumerate(failures):
            error.index = index  # type: ignore[attr-defined]
        told = "; ".join(f"{' '.join(getattr(error, '__notes__', []))}: {error}" for error in failures)
        group = PipelineFailed(
            f"{len(failures)} of {len(sent.sendings) + len(sent.errors)} sinks and topics failed: {told}", failures
        )
        if taken:
            group.delivered = Delivered.MAYBE
        return group

    def _report(self, event: Event[Any], error: Exception) -> None:
        """Do with a failed send what `on_error` says."""
        if self._on_error == "raise":
            raise error
        if self._on_error == "log":
            _log.error(
                "notification %s (%s) was not sent: %s: %s",
                event.message_id,
                event.event_type,
                type(error).__name__,
                error,
            )
        else:
            self._on_error(event, error)

    def _reportable(self, error: MessagingError) -> bool:
        """Whether an error of starting to send is a failed send, and no mistake in how the notifier is used."""
        return self._on_error != "raise" and not isinstance(error, Unsupported | ConfigError)


def _emit(sinks: Sequence[Sink], event: Event[Any], sent: SentAround) -> None:
    for sink in sinks:
        try:
            sink.emit(event)
        except Exception as error:  # a sink is somebody else's code; its failure is a failed send
            error.add_note(f"raised by the sink {type(sink).__name__}")
            sent.errors.append(error)
