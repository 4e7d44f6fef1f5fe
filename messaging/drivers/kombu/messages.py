"""From Outgoing to kombu's messages, and from those to Delivery. Pure.

kombu's virtual transports write a message as JSON, with the body in base64 beside its headers and properties. What
other programs on kombu know has its usual place there (message and correlation id, reply_to, content type, priority);
ours are the properties `sender`, `budget` (seconds that were left at the write) and `not_after` (Unix time).
"""

from __future__ import annotations

import time
from typing import Any

from messaging.message import (
    CONTENT_TYPE,
    CORRELATION_ID,
    DEAD_ATTEMPT,
    DEAD_REASON,
    MESSAGE_ID,
    PRIORITY,
    Delivery,
    Outgoing,
    Route,
    Source,
)

__all__ = ["Written", "dead_letter", "delivery_of", "is_over", "written"]

_PROPERTIES = {MESSAGE_ID: "message_id", CORRELATION_ID: "correlation_id", PRIORITY: "priority"}
_PLAIN = (str, int, float, bool, bytes, type(None))


class Written:
    """A message as kombu's `prepare_message` wants it."""

    __slots__ = ("body", "content_type", "headers", "properties")

    def __init__(self, body: bytes, content_type: str | None, headers: dict[str, Any], properties: dict[str, Any]):
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.properties = properties

    def prepared(self, channel: Any) -> dict[str, Any]:
        """A message of kombu's; one for each queue, because publishing changes it."""
        message: dict[str, Any] = channel.prepare_message(
            self.body,
            content_type=self.content_type,
            headers=dict(self.headers),
            properties={**self.properties, "delivery_info": {}},
        )
        return message


def written(outgoing: Outgoing, body: bytes, reply_to: str, budget: float | None, sender: str) -> Written:
    """What is written for a message. Raises TypeError for a header that JSON cannot hold."""
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {"sender": sender}
    content_type: str | None = None
    for name, value in outgoing.headers.items():
        if not isinstance(value, _PLAIN):
            raise TypeError(f"header {name!r} is neither text, bytes, a number nor None, but {type(value).__name__}")
        if name == CONTENT_TYPE:
            content_type = str(value)
        elif name in _PROPERTIES:
            properties[_PROPERTIES[name]] = value
        else:
            headers[name] = value
    if reply_to:
        properties["reply_to"] = reply_to
    if budget is not None:
        properties["budget"] = budget
    if outgoing.store:
        properties["not_after"] = time.time() + outgoing.store
    return Written(body, content_type, headers, properties)


def delivery_of(source: Source, payload: dict[str, Any], body: bytes, generation: int, tag: Any) -> Delivery:
    """What a message of kombu's says. Raises TypeError, ValueError or LookupError for what is none."""
    properties = payload["properties"]
    headers: dict[str, Any] = dict(payload["headers"] or {})
    # Where kombu marks what it has restored by itself depends on the transport.
    restored = bool(headers.pop("redelivered", False) or payload.get("redelivered"))
    for name, key in _PROPERTIES.items():
        value = properties.get(key)
        if value is not None and not (name == PRIORITY and value == 0):
            headers[name] = value
    if payload.get("content-type"):
        headers[CONTENT_TYPE] = payload["content-type"]
    attempt = int(payload.get("attempt", 2 if restored else 1))
    budget = properties.get("budget")
    return Delivery(
        source,
        body,
        headers,
        str(properties.get("reply_to") or ""),
        None if budget is None else float(budget),
        attempt > 1,
        attempt,
        str(properties.get("sender") or ""),
        generation,
        False,
        tag,
    )


def is_over(payload: dict[str, Any]) -> bool:
    """Whether a message that was stored for some time has outlived it."""
    limit = payload["properties"].get("not_after")
    return limit is not None and time.time() > float(limit)


def dead_letter(delivery: Delivery, reason: str) -> Written:
    """What is kept of a delivery that was rejected: all of it, why and at which attempt, and where it came from."""
    source = delivery.source
    headers = {
        **delivery.headers,
        DEAD_REASON: reason,
        DEAD_ATTEMPT: delivery.attempt,
        "dead-exchange": source.exchange,
        "dead-topic": source.topic,
        "dead-pool": source.pool,
    }
    return written(
        Outgoing(Route.pools(source.exchange, source.topic), delivery.body, headers),
        delivery.body,
        "",
        None,
        delivery.sent_by,
    )
