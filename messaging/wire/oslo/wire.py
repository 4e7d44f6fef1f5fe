"""What the patterns ask of a wire format, answered in the predecessor's: see messaging.wire.base.Wire.

What it cannot say is left out: no server tells that it has accepted a call, no caller tells that it gave up, and
nothing travels beside the body. What has come is looked into once, when it comes, because ids, levels and the address
for an answer stand inside.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from messaging.errors import DecodeError
from messaging.message import CORRELATION_ID, DEAD_ATTEMPT, DEAD_REASON, MESSAGE_ID, TRACEPARENT, Delivery, Outgoing
from messaging.wire.base import Contents, OpenedBatch, Opener
from messaging.wire.native import LEVEL_HEADER, Alive, Failure, Kind, Notification, Ping, Request, Result
from messaging.wire.oslo import notifications, rpc
from messaging.wire.oslo.text import opened, quoted

__all__ = ["Opened", "OsloWire"]

_MOST_PARTS = 10_000
"""Halves of answers that are kept at most."""


class Opened(bytes):
    """A body with what was found in it, so that it is parsed once."""

    message: dict[str, Any]


def _look(delivery: Delivery) -> dict[str, Any]:
    """Parse a body and keep what was found on the delivery. Raises DecodeError."""
    body = Opened(delivery.body)
    body.message = opened(body, delivery.headers.get("compression"))
    delivery.body = body
    return body.message


def _message(body: bytes) -> dict[str, Any]:
    return body.message if type(body) is Opened else opened(body)


class _Answers:
    """Opens what comes to a reply queue. An older predecessor sends an answer in two messages, the result and then its
    end; the first is kept until the second comes.
    """

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, Any]] = {}

    def __call__(self, batch: Sequence[Delivery]) -> OpenedBatch:
        readable, unreadable = [], []
        for delivery in batch:
            try:
                message = _look(delivery)
                id = str(message.get("_msg_id", ""))
                if not message.get("ending") and not rpc.is_alive(message):
                    if len(self._parts) >= _MOST_PARTS:
                        self._parts.pop(next(iter(self._parts)))
                    self._parts[id] = message
                    continue
                first = self._parts.pop(id, None) if self._parts and message.get("ending") else None
                if first is not None and message.get("result") is None and not message.get("failure"):
                    message.update(result=first.get("result"), failure=first.get("failure"))
                delivery.headers[CORRELATION_ID] = id
                readable.append(delivery)
            except DecodeError:
                unreadable.append(delivery)
        return OpenedBatch(readable, unreadable)


class OsloWire:
    """The predecessor's format. `notification_format`: which of its two forms is sent; `context_inside`: its form on
    Kafka, where the context is one member.
    """

    name = "oslo"
    silence = 0.0
    least_silence = 2.0
    tells_acceptance = False
    context_headers = frozenset({TRACEPARENT, "tracestate", DEAD_REASON, DEAD_ATTEMPT})
    has_mailboxes = False
    ping = Ping(None, "oslo_rpc_server_ping", "pong")
    remembers = 1_000
    encode_request = staticmethod(rpc.request)

    def __init__(
        self, exchange: str = "openstack", notification_format: str = "messagingv2", context_inside: bool = False
    ) -> None:
        self.exchange = exchange
        self._quoted_inside: Callable[[str], str] = quoted
        if context_inside:
            self.encode_notification = notifications.notification_on_log
        elif notification_format == "messaging":
            self.encode_notification = notifications.notification_alone
            self._quoted_inside = str
        else:
            self.encode_notification = notifications.notification

    def interval(self, silence: float) -> float:
        """Its clients say the silence itself, and its servers halve it."""
        return silence

    def seal(self, outgoing: Outgoing) -> None:
        """Put the ids in; of a call, the address for its answer and its unique id are left to the write.

        So a call that is sent once more, because its caller allows that, is no repetition which a server would drop,
        and is answered. A cast or a notification keeps its unique id: having arrived once is enough for it.
        """
        if outgoing.reply_to:
            outgoing.body = outgoing.body.replace(rpc.MESSAGE_MARK, outgoing.headers[MESSAGE_ID].encode())
            outgoing.encode = functools.partial(_written, outgoing.body)
        else:
            body = outgoing.body.replace(rpc.UNIQUE_MARK, rpc.new_id().encode())
            # Quoted twice where the envelope is: an id that came from elsewhere may hold anything.
            id = quoted(outgoing.headers[MESSAGE_ID])
            outgoing.body = body.replace(notifications.NOTIFICATION_MARK, self._quoted_inside(id).encode())

    # What comes to a reply address

    def kind_of(self, body: bytes) -> int:
        """See Wire."""
        message = _message(body)
        if rpc.is_alive(message):
            return Kind.ALIVE
        return Kind.FAILURE if message.get("failure") else Kind.RESULT

    def decode_reply(self, body: bytes) -> Result | Failure:
        """See Wire."""
        return rpc.answer_from(_message(body))

    def decode_control(self, body: bytes) -> Alive:
        """See Wire."""
        return rpc.alive_from(_message(body))

    def encode_cancel(self, ids: Sequence[str]) -> None:
        """Its servers cannot be told."""
        return

    # A server

    def decode_request(self, body: bytes) -> Request:
        """See Wire."""
        return rpc.request_from(_message(body))

    def encode_answer(self, answer: Result | Failure, request: bytes, error: BaseException | None = None) -> bytes:
        """See Wire."""
        return rpc.answer(answer, str(_message(request).get("_msg_id", "")), error)

    def encode_accepted(self, address: str, server: str) -> None:
        """Its clients cannot be told."""
        return

    def encode_alive(self, ids: Sequence[str], server: str) -> Iterable[bytes]:
        """One message for each call."""
        return map(rpc.alive, ids)

    # Notifications

    def decode_notification(self, body: bytes) -> Notification:
        """See Wire."""
        return notifications.notification_from(_message(body))

    def new_message_id(self) -> str:
        """A uuid with dashes."""
        return str(uuid.uuid4())

    def topic(self, topic: str, level: str) -> str:
        """Each level has a topic of its own."""
        return f"{topic}.{level}"

    def topics(self, topic: str, levels: Collection[str]) -> Sequence[str]:
        """Those of the levels that are handled; what others handle has to stay where it is."""
        return [f"{topic}.{level}" for level in sorted(levels)]

    # Both

    def opener(self, contents: Contents) -> Opener:
        """See Wire."""
        if contents == "answers":
            return _Answers()
        return functools.partial(_open_each, _show_request if contents == "requests" else _show_notification)

    def unique_id(self, body: bytes) -> str:
        """See Wire."""
        return _unique_id(_message(body))


def _written(body: bytes, address: str, remaining: float | None) -> bytes:
    """The body of a call as it is written; what is left of its time travels as its expiration."""
    return body.replace(rpc.REPLY_MARK, address.encode()).replace(rpc.UNIQUE_MARK, rpc.new_id().encode())


def _open_each(show: Callable[[Delivery, dict[str, Any]], None], batch: Sequence[Delivery]) -> OpenedBatch:
    """Look into each delivery, and show on its outside what the patterns go by."""
    readable, unreadable = [], []
    for delivery in batch:
        try:
            message = _look(delivery)
        except DecodeError:
            unreadable.append(delivery)
            continue
        show(delivery, message)
        # What travels in the context in place of headers is shown where headers are looked for.
        inside = message.get("_context")
        context = inside if isinstance(inside, dict) else rpc.context_of(message)
        delivery.headers.update({name: context[name] for name in OsloWire.context_headers if name in context})
        readable.append(delivery)
    return OpenedBatch(readable, unreadable)


def _show_request(delivery: Delivery, message: dict[str, Any]) -> None:
    message_id, address = message.get("_msg_id"), message.get("_reply_q")
    if isinstance(message_id, str) and isinstance(address, str):
        delivery.reply_to = address
        delivery.headers[MESSAGE_ID] = message_id
    elif unique_id := _unique_id(message):
        delivery.headers[MESSAGE_ID] = unique_id
    else:
        # That of a driver tells messages of one connection apart, and not those of two senders.
        delivery.headers.pop(MESSAGE_ID, None)


def _show_notification(delivery: Delivery, message: dict[str, Any]) -> None:
    delivery.headers[MESSAGE_ID] = str(message.get("message_id", ""))
    delivery.headers[LEVEL_HEADER] = notifications.level_of(message)


def _unique_id(message: dict[str, Any]) -> str:
    found = message.get("_unique_id")
    return found if isinstance(found, str) else ""
