"""A message as bytes: AMQP 1.0's sections, written and read. Pure; golden bytes are in the tests.

What is the same for all messages to one address is encoded once and kept as a `Prefix`; per message there are the ids,
the time to live and the body. proton's own encoder starts at 16 bytes and doubles until the message fits, which takes
14 us where this takes 0.7.

The body is one data section, which every peer hands on as it is. The remaining budget is the header's ttl, so a broker
expires by it what nobody waits for any more, and the receiver reads it from there.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

from messaging.drivers.amqp1.types import (
    encode_string,
    encode_symbol,
    encode_value,
    read_fields,
    read_value,
    skip_value,
)
from messaging.errors import EncodeError
from messaging.message import CONTENT_TYPE, CORRELATION_ID, MESSAGE_ID, PRIORITY

__all__ = ["ATTEMPT", "DELAY_ANNOTATION", "Decoded", "Prefix", "Undecodable", "decode_message", "encode_message"]

ATTEMPT = "x-messaging-attempt"
"""Property of a copy that was made for another attempt: which one it is, counted from 1."""
DELAY_ANNOTATION = "x-opt-delivery-delay"
"""Message annotation, in ms: do not deliver before."""

_LONG_CODES = {
    "amqp:header:list": 0x70,
    "amqp:delivery-annotations:map": 0x71,
    "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73,
    "amqp:application-properties:map": 0x74,
    "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76,
    "amqp:amqp-value:*": 0x77,
    "amqp:footer:map": 0x78,
}
"""Sections may name themselves by a symbol."""
_MAX_TTL = 2**32 - 1
_OURS = frozenset({MESSAGE_ID, CORRELATION_ID, CONTENT_TYPE, PRIORITY})
_pack = struct.Struct(">I").pack
_pack_list = struct.Struct(">II").pack
_UNREADABLE = (ValueError, IndexError, KeyError, TypeError, struct.error, RecursionError)


class Undecodable(Exception):
    """Bytes that are no message, or a message that carries no bytes."""


class Prefix(NamedTuple):
    """What all messages to one address have in common, encoded."""

    annotations: bytes
    """The section of message annotations, or nothing."""
    to: bytes
    """The properties between message-id and reply-to: user-id, to, subject."""


def make_prefix(to: str | None, annotations: dict[str, bytes] | None = None) -> Prefix:
    """Encode what all messages to `to` have in common; the values of the annotations are encoded already."""
    section = _map_section(0x72, [encode_symbol(name) + value for name, value in (annotations or {}).items()])
    return Prefix(section, b"\x40%b\x40" % (encode_string(to) if to is not None else b"\x40"))


def _map_section(code: int, pairs: list[bytes]) -> bytes:
    if not pairs:
        return b""
    body = b"".join(pairs)
    return b"\x00\x53%c\xd1%b%b" % (code, _pack_list(len(body) + 4, 2 * len(pairs)), body)


def encode_message(
    prefix: Prefix, body: bytes, headers: dict[str, Any], reply_to: bytes, durable: bool, ttl: float | None
) -> bytes:
    """Encode a message. `reply_to` is an encoded string or null; `ttl` in seconds, rounded up to whole ms.

    Raises EncodeError for headers that cannot be written, by name.
    """
    message_id = correlation_id = kind = b"\x40"
    priority = b"\x40"
    pairs: list[bytes] = []
    for name, value in headers.items():
        try:
            if name == MESSAGE_ID:
                message_id = encode_string(value)
            elif name == CORRELATION_ID:
                correlation_id = encode_string(value)
            elif name == CONTENT_TYPE:
                kind = encode_symbol(value)
            elif name == PRIORITY:
                priority = b"\x50%c" % value
            else:
                pairs.append(encode_string(name) + encode_value(value))
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise EncodeError(f"the header {name!r} cannot be written: {error}") from error
    lives = b"\x40" if ttl is None else b"\x70" + _pack(min(_MAX_TTL, max(1, math.ceil(ttl * 1000))))
    header = (b"\x41" if durable else b"\x42") + priority + lives
    fields = b"%b%b%b%b%b" % (message_id, prefix.to, reply_to, correlation_id, kind)
    size = len(body)
    return b"\x00\x53\x70\xc0%c\x03%b%b\x00\x53\x73\xd0%b%b%b\x00\x53\x75%b%b" % (
        len(header) + 1,
        header,
        prefix.annotations,
        _pack_list(len(fields) + 4, 7),
        fields,
        _map_section(0x74, pairs) if pairs else b"",
        b"\xa0%c" % size if size < 256 else b"\xb0" + _pack(size),
        body,
    )


class Decoded(NamedTuple):
    """A message that was read."""

    body: bytes
    headers: dict[str, Any]
    reply_to: str
    ttl: float | None
    """Seconds."""
    deliveries: int
    """How often it was delivered before, as far as the peer counts."""
    redelivered: bool


def decode_message(data: bytes) -> Decoded:
    """Read a message. Raises Undecodable, whatever the bytes are."""
    try:
        return _decode_usual(data) or _decode(data)
    except _UNREADABLE as error:
        raise Undecodable(f"{type(error).__name__}: {error}") from error


def _decode_usual(data: bytes) -> Decoded | None:
    """Read a message as `encode_message` writes most, by the places where everything stands then: in 2 µs instead of
    4. None: it is another, or has headers of its own.
    """
    if data[:6] != b"\x00\x53\x70\xc0\x08\x03" or data[7:9] != b"\x40\x70":
        return None
    at = 13
    if data[at : at + 4] == b"\x00\x53\x72\xd1":
        at += 8 + int.from_bytes(data[at + 4 : at + 8])
    if data[at : at + 4] != b"\x00\x53\x73\xd0" or data[at + 8 : at + 12] != b"\x00\x00\x00\x07":
        return None
    end = at + 8 + int.from_bytes(data[at + 4 : at + 8])
    at += 12
    headers: dict[str, Any] = {}
    if data[at] == 0xA1:
        stop = at + 2 + data[at + 1]
        headers[MESSAGE_ID] = data[at + 2 : stop].decode()
        at = stop
    elif data[at] == 0x40:
        at += 1
    # No user-id, then to, which has done its work, and no subject.
    if data[at : at + 2] != b"\x40\xa1":
        return None
    at += 3 + data[at + 2]
    reply_to = ""
    if data[at : at + 2] == b"\x40\xa1":
        stop = at + 3 + data[at + 2]
        reply_to = data[at + 3 : stop].decode()
        at = stop
    elif data[at : at + 2] == b"\x40\x40":
        at += 2
    else:
        return None
    if data[at] == 0xA1:
        stop = at + 2 + data[at + 1]
        headers[CORRELATION_ID] = data[at + 2 : stop].decode()
        at = stop
    elif data[at] == 0x40:
        at += 1
    # No content-type, and the body is the next section and the last.
    if at + 1 != end or data[at] != 0x40:
        return None
    kind = data[end : end + 4]
    start = end + 5 if kind == b"\x00\x53\x75\xa0" else end + 8 if kind == b"\x00\x53\x75\xb0" else 0
    body = data[start:]
    if not start or len(body) != int.from_bytes(data[end + 4 : start]):
        return None
    return Decoded(body, headers, reply_to, int.from_bytes(data[9:13]) / 1000, 0, False)


def _decode(data: bytes) -> Decoded:
    at = 0
    end = len(data)
    header: list[Any] = []
    properties: list[Any] = []
    headers: dict[str, Any] = {}
    parts: list[bytes] = []
    while at < end:
        if data[at] != 0x00:
            raise ValueError("a section without its descriptor")
        if data[at + 1] == 0x53:
            code = data[at + 2]
            at += 3
        else:
            code, at = read_value(data, at + 1)
            code = _LONG_CODES.get(code, code)
        if code == 0x73:
            properties, at = read_fields(data, at)
        elif code == 0x70:
            header, at = read_fields(data, at)
        elif 0x71 <= code <= 0x72 or code == 0x78:
            # Annotations and footers are for brokers.
            at = skip_value(data, at)
        else:
            value, at = read_value(data, at)
            if code == 0x75:
                parts.append(value)
            elif code == 0x74:
                headers = value
            elif code == 0x77:
                parts.append(value.encode() if type(value) is str else value)
            else:
                raise ValueError(f"its body is of a kind ({code}) that carries no bytes")
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if type(body) is not bytes or type(headers) is not dict:
        raise ValueError(f"its body is {type(body).__name__}, and bytes are wanted")
    reply_to = _properties(properties, headers)
    count = len(header)
    if count > 1 and header[1] is not None:
        headers[PRIORITY] = header[1]
    ttl = header[2] if count > 2 else None
    deliveries = (header[4] if count > 4 else None) or 0
    return Decoded(
        body,
        headers,
        reply_to,
        ttl / 1000 if ttl is not None else None,
        deliveries,
        deliveries > 0 or (count > 3 and header[3] is False),
    )


def _properties(properties: list[Any], headers: dict[str, Any]) -> str:
    count = len(properties)
    if not count:
        return ""
    if properties[0] is not None:
        headers[MESSAGE_ID] = properties[0]
        hash(properties[0])
    reply_to = properties[4] if count > 4 else None
    if count > 5 and properties[5] is not None:
        headers[CORRELATION_ID] = properties[5]
    if count > 6 and properties[6] is not None:
        headers[CONTENT_TYPE] = properties[6]
    return reply_to if type(reply_to) is str else ""
