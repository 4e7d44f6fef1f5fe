"""The properties and headers of a message on AMQP 0-9-1, and their way from Outgoing and to Delivery.

What the broker itself can use (ids, content type, priority, expiration, reply-to) travels as properties; everything
else as headers. No client library here: each translates `Properties` to its own class, and the own codec writes them
as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from messaging.message import (
    CONTENT_TYPE,
    CORRELATION_ID,
    MESSAGE_ID,
    PRIORITY,
    RESERVED_HEADERS,
    TRACEPARENT,
    Delivery,
    Source,
)

__all__ = ["ATTEMPT", "PERSISTENT", "TRANSIENT", "Properties", "copied", "delivered", "expiration", "stamped"]

TRANSIENT = 1
PERSISTENT = 2
ATTEMPT = "messaging-attempt"
"""Header of a copy: at which attempt it will be delivered, counted from 1."""
_DELIVERY_COUNT = "x-delivery-count"
"""Header of a quorum queue: how often the message was delivered before."""
_OF_THE_BROKER = ("x-death", "x-first-death-", "x-last-death-", _DELIVERY_COUNT)
"""Headers that a broker adds to what has been through a delay queue; a copy of a copy must not carry them along."""
_PROPERTIES = RESERVED_HEADERS - {TRACEPARENT}


class Properties(msgspec.Struct, eq=True):
    """Basic properties of AMQP 0-9-1 in the order of the protocol; None: absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


def expiration(seconds: float) -> str:
    """Seconds as the broker wants them: whole milliseconds, at least one, because 0 means "now or never"."""
    return str(max(1, math.ceil(seconds * 1000)))


def stamped(
    headers: Mapping[str, Any],
    *,
    message_id: str,
    reply_to: str,
    expires: float | None,
    persistent: bool,
    sender: str,
) -> Properties:
    """The properties of a message that is written now. `message_id` counts where its headers name none."""
    properties = Properties(
        delivery_mode=PERSISTENT if persistent else TRANSIENT,
        reply_to=reply_to or None,
        expiration=expiration(expires) if expires is not None else None,
        message_id=message_id,
        app_id=sender,
    )
    plain: dict[str, Any] | None = None
    for name, value in headers.items():
        if name not in _PROPERTIES:
            if plain is None:
                plain = {}
            plain[name] = value
        elif name == MESSAGE_ID:
            properties.message_id = value
        elif name == CORRELATION_ID:
            properties.correlation_id = value
        elif name == CONTENT_TYPE:
            properties.content_type = value
        else:
            properties.priority = value
    properties.headers = plain
    return properties


def delivered(
    source: Source, generation: int, tag: int, redelivered: bool, properties: Properties, body: bytes
) -> Delivery:
    """What a message is to the layer above. Raises ValueError for properties that nobody here has written."""
    headers = properties.headers or {}
    attempt = 1
    if headers:
        attempt = headers.pop(ATTEMPT, 1)
        before = headers.pop(_DELIVERY_COUNT, 0)
        # A library may read a number of 64 bits as its own kind of int, as pika does.
        if not isinstance(attempt, int) or not isinstance(before, int):
            raise ValueError("a count of attempts is no number")
        attempt = int(attempt) + int(before)
    if properties.message_id is not None:
        headers[MESSAGE_ID] = properties.message_id
    if properties.correlation_id is not None:
        headers[CORRELATION_ID] = properties.correlation_id
    if properties.content_type is not None:
        headers[CONTENT_TYPE] = properties.content_type
    if properties.priority is not None:
        headers[PRIORITY] = properties.priority
    expires = properties.expiration
    return Delivery(
        source,
        body,
        headers,
        properties.reply_to or "",
        int(expires) / 1000.0 if expires is not None else None,
        redelivered,
        # A classic queue only tells that it was delivered before.
        attempt if not redelivered or attempt > 1 else 2,
        properties.app_id or "",
        generation,
        False,
        tag,
    )


def copied(delivery: Delivery, more: Mapping[str, Any], expires: float | None) -> Properties:
    """The properties of a copy of a delivery: everything that it came with, and `more` headers."""
    headers = {name: value for name, value in delivery.headers.items() if not name.startswith(_OF_THE_BROKER)}
    headers.update(more)
    return stamped(
        headers,
        message_id="",
        reply_to=delivery.reply_to,
        expires=expires,
        persistent=True,
        sender=delivery.sent_by,
    )
