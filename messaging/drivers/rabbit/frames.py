"""The frames of messages, their settlements and confirmations, as bytes and back: what speed depends on.

Client libraries read and write every frame by way of classes of their own, which costs several times what the message
does. So the methods that carry the traffic (Publish, Deliver, Return, Ack, Nack, Reject, and their headers and bodies)
are done here, and everything else goes to the library unread, as the whole frames that it came in.

Pure: bytes in, calls and bytes out. It knows no socket and no library, and both drivers use it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

import msgspec

from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.tables import decode_table, encode_table

__all__ = ["FrameReader", "FrameSink", "FrameWriter"]

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = 0xCE
_BASIC = 60 << 16
_PUBLISH, _RETURN, _DELIVER, _ACK, _REJECT, _NACK = (_BASIC | number for number in (40, 50, 60, 80, 90, 120))
_CONFIRMING = frozenset({_ACK, _NACK})

_frame = struct.Struct(">BHI").unpack_from
_method = struct.Struct(">I").unpack_from
_tag_and_bits = struct.Struct(">QB").unpack_from
_size_and_flags = struct.Struct(">QH").unpack_from
_short = struct.Struct(">H").unpack_from
_long = struct.Struct(">Q")
_settle = struct.Struct(">BHIIQBB").pack
_frame_head = struct.Struct(">BHI").pack
_header_head = struct.Struct(">BHIHHQH").pack
_PROPERTIES = 14
"""Bytes of a header's payload before its properties: class, weight, size of the body, flags."""

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _MODE, _PRIORITY = (1 << bit for bit in (15, 14, 13, 12, 11))
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = (1 << bit for bit in (10, 9, 8, 7))
_TIMESTAMP, _TYPE, _USER_ID, _APP_ID, _CLUSTER_ID = (1 << bit for bit in (6, 5, 4, 3, 2))
_MORE_FLAGS = 1


class FrameSink(Protocol):
    """Who is told what the frames say; see ClientEvents."""

    def on_message(
        self, channel: int, consumer: str, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> None:
        """A delivery."""

    def on_unreadable(self, channel: int, consumer: str, tag: int) -> None:
        """A delivery whose properties are none."""

    def on_returned(self, channel: int, code: int, text: str, properties: Properties) -> None:
        """A mandatory message came back."""

    def on_confirmed(self, channel: int, tag: int, multiple: bool, positive: bool) -> None:
        """Messages were confirmed, or refused."""


class _Content(msgspec.Struct, eq=False):
    """A message whose frames are still coming."""

    consumer: str = ""
    tag: int = 0
    redelivered: bool = False
    reply: tuple[int, str] | None = None
    """Code and text, of one that came back."""
    properties: Properties | None = None
    left: int = -1
    """Bytes of the body that are still to come; -1: its header is."""
    parts: list[bytes] = []


class FrameReader:
    """Takes bytes as they come. `other` gets whole frames that are not of messages."""

    __slots__ = ("_buffer", "_contents", "_other", "_sink", "frame_max")

    def __init__(self, sink: FrameSink, other: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._other = other
        self._buffer = b""
        self._contents: dict[int, _Content] = {}
        self.frame_max = 0
        """Bytes of the largest frame, when that is agreed; 0: not yet."""

    def feed(self, data: bytes) -> None:
        """Read what has come. Raises ValueError for what are no frames."""
        if self._buffer:
            data = self._buffer + data
        at = 0
        size = len(data)
        contents = self._contents
        while size - at >= 8:
            kind, channel, length = _frame(data, at)
            end = at + 7 + length
            if end >= size:
                self._check(kind, length, data, at)
                break
            if data[end] != _END:
                raise ValueError("a frame does not end where it says")
            start = at + 7
            at = end + 1
            if kind == _METHOD:
                method = _method(data, start)[0] if length >= 4 else 0
                if method == _DELIVER:
                    contents[channel] = _delivery(data, start + 4, end)
                elif method in _CONFIRMING:
                    if length < 13:
                        raise ValueError("a confirmation is cut off")
                    tag, bits = _tag_and_bits(data, start + 4)
                    self._sink.on_confirmed(channel, tag, bits & 1 == 1, method == _ACK)
                elif method == _RETURN:
                    contents[channel] = _returned(data, start + 4, end)
                else:
                    self._other(data[start - 7 : at])
            elif kind == _HEADER and channel in contents:
                self._header(channel, contents[channel], data, start, end)
            elif kind == _BODY and channel in contents:
                content = contents[channel]
                content.left -= length
                if content.left < 0:
                    raise ValueError("a body is longer than its header says")
                content.parts.append(data[start:end])
                if content.left == 0:
                    del contents[channel]
                    self._complete(channel, content)
            elif kind != _HEARTBEAT:
                self._other(data[start - 7 : at])
        self._buffer = data[at:] if at < size else b""

    def _check(self, kind: int, length: int, data: bytes, at: int) -> None:
        """Do not wait for the rest of what can be no frame."""
        if data[at : at + 4] == b"AMQP":
            version = ".".join(map(str, data[at + 5 : at + 8]))
            raise ValueError(f"the other side speaks version {version} of AMQP only")
        if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
            raise ValueError(f"{kind} is no kind of frame")
        if self.frame_max and length > self.frame_max:
            raise ValueError(f"a frame of {length} bytes, and {self.frame_max} are agreed")

    def _header(self, channel: int, content: _Content, data: bytes, start: int, end: int) -> None:
        if content.left >= 0 or end - start < _PROPERTIES:
            raise ValueError("a header of a message where none can be")
        content.left, flags = _size_and_flags(data, start + 4)
        try:
            content.properties = decode_properties(data, start + _PROPERTIES, end, flags)
        except (ValueError, IndexError, struct.error):
            # The frame itself is whole: this message alone cannot be read.
            content.properties = None
        if content.left == 0:
            del self._contents[channel]
            self._complete(channel, content)

    def _complete(self, channel: int, content: _Content) -> None:
        parts = content.parts
        properties = content.properties
        if content.reply is not None:
            if properties is not None:
                self._sink.on_returned(channel, *content.reply, properties)
        elif properties is None:
            self._sink.on_unreadable(channel, content.consumer, content.tag)
        else:
            self._sink.on_message(
                channel,
                content.consumer,
                content.tag,
                content.redelivered,
                properties,
                parts[0] if len(parts) == 1 else b"".join(parts),
            )

    def forget(self, channel: int) -> None:
        """A channel is gone, perhaps in the middle of a message."""
        self._contents.pop(channel, None)


def _delivery(data: bytes, at: int, end: int) -> _Content:
    stop = at + 1 + data[at]
    if stop + 9 > end:
        raise ValueError("a delivery is cut off")
    tag, bits = _tag_and_bits(data, stop)
    return _Content(data[at + 1 : stop].decode(), tag, bits & 1 == 1)


def _returned(data: bytes, at: int, end: int) -> _Content:
    code = _short(data, at)[0]
    stop = at + 3 + data[at + 2]
    if stop > end:
        raise ValueError("a return is cut off")
    return _Content(reply=(code, data[at + 3 : stop].decode(errors="replace")))


def decode_properties(data: bytes, at: int, end: int, flags: int) -> Properties:
    """Read the properties between two places. Raises ValueError, IndexError or struct.error for what are none."""
    if flags & _MORE_FLAGS:
        raise ValueError("there are no more properties than fourteen")
    properties = Properties()
    if flags & _CONTENT_TYPE:
        stop = at + 1 + data[at]
        properties.content_type = data[at + 1 : stop].decode()
        at = stop
    if flags & _CONTENT_ENCODING:
        stop = at + 1 + data[at]
        properties.content_encoding = data[at + 1 : stop].decode()
        at = stop
    if flags & _HEADERS:
        properties.headers, at = decode_table(data, at)
    if flags & _MODE:
        properties.delivery_mode = data[at]
        at += 1
    if flags & _PRIORITY:
        properties.priority = data[at]
        at += 1
    if flags & _CORRELATION_ID:
        stop = at + 1 + data[at]
        properties.correlation_id = data[at + 1 : stop].decode()
        at = stop
    if flags & _REPLY_TO:
        stop = at + 1 + data[at]
        properties.reply_to = data[at + 1 : stop].decode()
        at = stop
    if flags & _EXPIRATION:
        stop = at + 1 + data[at]
        properties.expiration = data[at + 1 : stop].decode()
        at = stop
    if flags & _MESSAGE_ID:
        stop = at + 1 + data[at]
        properties.message_id = data[at + 1 : stop].decode()
        at = stop
    if flags & _TIMESTAMP:
        properties.timestamp = _long.unpack_from(data, at)[0]
        at += 8
    if flags & _TYPE:
        stop = at + 1 + data[at]
        properties.type = data[at + 1 : stop].decode()
        at = stop
    if flags & _USER_ID:
        stop = at + 1 + data[at]
        properties.user_id = data[at + 1 : stop].decode()
        at = stop
    if flags & _APP_ID:
        stop = at + 1 + data[at]
        properties.app_id = data[at + 1 : stop].decode()
        at = stop
    if flags & _CLUSTER_ID:
        at += 1 + data[at]
    if at != end:
        raise ValueError("the properties do not end where they should")
    return properties


def encode_properties(properties: Properties) -> tuple[int, bytes]:
    """Return the flags and the bytes of properties. Raises ValueError or TypeError for what cannot be written."""
    flags = 0
    parts: list[bytes] = []
    add = parts.append
    if properties.content_type is not None:
        flags |= _CONTENT_TYPE
        add(_repeated_text(properties.content_type))
    if properties.content_encoding is not None:
        flags |= _CONTENT_ENCODING
        add(_short_text(properties.content_encoding))
    if properties.headers is not None:
        flags |= _HEADERS
        add(encode_table(properties.headers))
    if properties.delivery_mode is not None:
        flags |= _MODE
        add(_BYTES[properties.delivery_mode])
    if properties.priority is not None:
        flags |= _PRIORITY
        if not 0 <= properties.priority <= 255:
            raise ValueError(f"a priority is a number from 0 to 255, not {properties.priority}")
        add(_BYTES[properties.priority])
    if properties.correlation_id is not None:
        flags |= _CORRELATION_ID
        add(_short_text(properties.correlation_id))
    if properties.reply_to is not None:
        flags |= _REPLY_TO
        add(_repeated_text(properties.reply_to))
    if properties.expiration is not None:
        flags |= _EXPIRATION
        add(_short_text(properties.expiration))
    if properties.message_id is not None:
        flags |= _MESSAGE_ID
        add(_short_text(properties.message_id))
    if properties.timestamp is not None:
        flags |= _TIMESTAMP
        add(_long.pack(properties.timestamp))
    if properties.type is not None:
        flags |= _TYPE
        add(_short_text(properties.type))
    if properties.user_id is not None:
        flags |= _USER_ID
        add(_short_text(properties.user_id))
    if properties.app_id is not None:
        flags |= _APP_ID
        add(_repeated_text(properties.app_id))
    return flags, b"".join(parts)


_BYTES = [bytes((number,)) for number in range(256)]
_texts: dict[str, bytes] = {}
_REMEMBERED = 4096
"""Addresses and texts whose bytes are remembered; addresses of answers are as many as there are callers."""


def _repeated_text(text: str) -> bytes:
    """A text that is the same in every message of a connection."""
    known = _texts.get(text)
    if known is None:
        if len(_texts) >= _REMEMBERED:
            _texts.clear()
        known = _texts[text] = _short_text(text)
    return known


def _short_text(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"an id, address or type has {len(data)} bytes, and 255 is the most: {text[:40]!r}...")
    return _BYTES[len(data)] + data


class FrameWriter:
    """Writes whole messages and settlements. `frame_max` is what both sides have agreed on."""

    __slots__ = ("_methods", "_most", "_write")

    def __init__(self, write: Callable[[bytes], None], frame_max: int) -> None:
        self._write = write
        self._most = (frame_max or 131_072) - 8
        self._methods: dict[tuple[int, str, str, bool], bytes] = {}
        """The method frames of addresses."""

    def publish(
        self, channel: int, exchange: str, key: str, mandatory: bool, properties: Properties, body: bytes
    ) -> None:
        """Write a message. Raises ValueError or TypeError for properties that cannot be written; then nothing is."""
        where = (channel, exchange, key, mandatory)
        method = self._methods.get(where)
        if method is None:
            if len(self._methods) >= _REMEMBERED:
                self._methods.clear()
            method = self._methods[where] = _publish(channel, exchange, key, mandatory)
        flags, encoded = encode_properties(properties)
        size = len(body)
        head = _header_head(_HEADER, channel, _PROPERTIES + len(encoded), 60, 0, size, flags)
        if size == 0:
            self._write(b"".join((method, head, encoded, b"\xce")))
        elif size <= self._most:
            frame = _frame_head(_BODY, channel, size)
            self._write(b"".join((method, head, encoded, b"\xce", frame, body, b"\xce")))
        else:
            parts = [method, head, encoded, b"\xce"]
            for start in range(0, size, self._most):
                part = body[start : start + self._most]
                parts += (_frame_head(_BODY, channel, len(part)), part, b"\xce")
            self._write(b"".join(parts))

    def ack(self, channel: int, tag: int, multiple: bool) -> None:
        """Write the settlement of a delivery, or of all up to it."""
        self._write(_settle(_METHOD, channel, 13, _ACK, tag, multiple, _END))

    def reject(self, channel: int, tag: int, requeue: bool) -> None:
        """Write that a delivery is not taken."""
        self._write(_settle(_METHOD, channel, 13, _REJECT, tag, requeue, _END))


def _publish(channel: int, exchange: str, key: str, mandatory: bool) -> bytes:
    payload = struct.pack(">IH", _PUBLISH, 0) + _short_text(exchange) + _short_text(key) + _BYTES[mandatory]
    return _frame_head(_METHOD, channel, len(payload)) + payload + b"\xce"
