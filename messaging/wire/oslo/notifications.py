"""Notifications in the predecessor's form: with an envelope (its driver messagingv2), without (messaging), on Kafka.

    {"message_id": ..., "publisher_id": ..., "event_type": ..., "priority": "INFO", "payload": ..., "timestamp": ...,
     "_unique_id": ..., "_context_KEY": ..., ...}         on Kafka instead: "_context": {...}

The level, which is the priority in lower case, is also the end of the topic by which a notification is routed: a
listener hears of the levels that it handles and of no others, because what it took of others would be lost for whoever
does handle them. Timestamps are naive UTC there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

from messaging.errors import DecodeError, EncodeError
from messaging.wire.native import VERSION, Kind, Level, Notification
from messaging.wire.oslo.rpc import context_members, context_of
from messaging.wire.oslo.text import dumps, dumps_tagged, enveloped, quoted

__all__ = [
    "NOTIFICATION_MARK",
    "level_of",
    "notification",
    "notification_alone",
    "notification_from",
    "notification_on_log",
]

NOTIFICATION_MARK = b"\x03"
_LEVELS = frozenset(get_args(Level))
_MARK = "\x03"
_UNIQUE = ', "_unique_id": "\x02"'


def _members(body: Notification) -> dict[str, Any]:
    return {
        "publisher_id": body.publisher_id,
        "event_type": body.event_type,
        "priority": body.level.upper(),
        "payload": body.payload,
        "timestamp": str(datetime.fromtimestamp(body.timestamp, UTC).replace(tzinfo=None)),
    }


def notification(body: Notification) -> bytes:
    """Write a notification in an envelope, with marks in the places of its ids. Raises EncodeError."""
    try:
        members = quoted(dumps(_members(body))[1:-1])
        context = context_members(body.context)
    except EncodeError as error:
        raise _explained(body, error) from error
    start, unique = quoted('{"message_id": "'), quoted(', "_unique_id": "')
    quote = quoted('"')
    return enveloped(f"{start}{_MARK}{quote}, {members}{unique}\x02{quote}{context}}}")


def notification_alone(body: Notification) -> bytes:
    """Write a notification without an envelope, with marks in the places of its ids. Raises EncodeError."""
    try:
        members = dumps_tagged(_members(body))[1:-1]
        context = {f"_context_{key}": value for key, value in body.context.items()}
        tail = f", {dumps_tagged(context)[1:-1]}" if context else ""
    except EncodeError as error:
        raise _explained(body, error) from error
    return f'{{"message_id": "{_MARK}", {members}{_UNIQUE}{tail}}}'.encode()


def notification_on_log(body: Notification) -> bytes:
    """Write a notification for Kafka, with a mark in the place of its id. Raises EncodeError."""
    try:
        members = quoted(dumps({**_members(body), "_context": body.context})[1:-1])
    except EncodeError as error:
        raise _explained(body, error) from error
    start, quote = quoted('{"message_id": "'), quoted('"')
    return enveloped(f"{start}{_MARK}{quote}, {members}}}")


def _explained(body: Notification, error: EncodeError) -> EncodeError:
    where = "ctxt"
    try:
        dumps(body.context)
    except EncodeError as found:
        error = found
    else:
        where = "payload"
    return EncodeError(
        f"{body.event_type}: {where}: {error}; pass plain values, dataclasses or msgspec structs, or set a serializer"
    )


def level_of(message: dict[str, Any]) -> str:
    """The level of a notification, empty where it says none."""
    priority = message.get("priority")
    return priority.lower() if isinstance(priority, str) else ""


def notification_from(message: dict[str, Any]) -> Notification:
    """Read a notification of any of the three forms. Raises DecodeError."""
    event_type = message.get("event_type")
    if not isinstance(event_type, str):
        raise DecodeError("a notification without an event type")
    level = level_of(message)
    if level not in _LEVELS:
        raise DecodeError(f"a notification of level {level!r}, which is none")
    inside = message.get("_context")
    return Notification(
        VERSION,
        Kind.NOTIFICATION,
        0,
        event_type,
        str(message.get("publisher_id") or ""),
        level,  # type: ignore[arg-type]  # as was just seen
        _moment(message.get("timestamp")),
        inside if isinstance(inside, dict) else context_of(message),
        message.get("payload"),
    )


def _moment(timestamp: object) -> float:
    """Seconds since the epoch; 0 for what is no moment, which is no reason to refuse a notification."""
    try:
        moment = timestamp if isinstance(timestamp, datetime) else datetime.fromisoformat(str(timestamp))
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
