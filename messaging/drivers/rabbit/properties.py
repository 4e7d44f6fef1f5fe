"""The properties and headers of a message on AMQP 0-9-1, and their way from Outgoing and to Delivery.

What the broker itself can use (ids, content type, priority, expiration, reply-to) travels as properties; everything
else as headers. No client library here: each translates `Properties` to its own class, and the own codec writes them
as bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["PERSISTENT", "TRANSIENT", "Properties"]

TRANSIENT = 1
PERSISTENT = 2


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
