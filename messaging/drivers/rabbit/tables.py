"""Field tables of AMQP 0-9-1 as bytes, and back: the headers of messages.

RabbitMQ's dialect of the types, which is what both client libraries write and read too. Pure; the bytes are held in
tests. Only what a header can be is written: text, bytes, numbers, truth, None, times, lists and mappings of these.
"""

from __future__ import annotations

import datetime
import decimal
import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["decode_table", "encode_table"]

_UNSIGNED = struct.Struct(">I")
_READERS: dict[int, struct.Struct] = {
    ord("b"): struct.Struct(">b"),
    ord("B"): struct.Struct(">B"),
    ord("s"): struct.Struct(">h"),
    ord("u"): struct.Struct(">H"),
    ord("I"): struct.Struct(">i"),
    ord("i"): struct.Struct(">I"),
    ord("l"): struct.Struct(">q"),
    ord("L"): struct.Struct(">q"),
    ord("f"): struct.Struct(">f"),
    ord("d"): struct.Struct(">d"),
}
_INT = struct.Struct(">ci")
_LONG = struct.Struct(">cq")
_DOUBLE = struct.Struct(">cd")
_DECIMAL = struct.Struct(">cBi")
_DEEPEST = 32
"""Tables in tables; a peer that nests deeper wants us to run out of stack."""


def encode_table(values: Mapping[str, Any]) -> bytes:
    """Return a table with its length in front. Raises ValueError or TypeError, which name the key that cannot be
    written.
    """
    parts = []
    for name, value in values.items():
        key = name.encode()
        if len(key) > 255:
            raise ValueError(f"the name of a header has {len(key)} bytes, and 255 is the most: {name[:40]!r}...")
        try:
            parts.append(bytes((len(key),)) + key + _encoded(value))
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            raise ValueError(f"header {name!r}: {error}") from error
    body = b"".join(parts)
    return _UNSIGNED.pack(len(body)) + body


def _encoded(value: Any) -> bytes:
    kind = type(value)
    if kind is str:
        data: bytes = value.encode()
        return b"S" + _UNSIGNED.pack(len(data)) + data
    if kind is bool:
        return b"t\x01" if value else b"t\x00"
    if kind is int:
        return _INT.pack(b"I", value) if -(2**31) <= value < 2**31 else _LONG.pack(b"l", value)
    if kind is float:
        return _DOUBLE.pack(b"d", value)
    if value is None:
        return b"V"
    return _encoded_rarely(value)


def _encoded_rarely(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return b"x" + _UNSIGNED.pack(len(value)) + bytes(value)
    if isinstance(value, str):
        return _encoded(str(value))
    if isinstance(value, Mapping):
        return b"F" + encode_table(value)
    if isinstance(value, list | tuple):
        body = b"".join(map(_encoded, value))
        return b"A" + _UNSIGNED.pack(len(body)) + body
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.UTC)
        return _LONG.pack(b"T", int(value.timestamp()))
    if isinstance(value, decimal.Decimal):
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int):
            raise ValueError(f"{value} is no number that can be written")
        scale = max(0, -exponent)
        return _DECIMAL.pack(b"D", scale, int(value.scaleb(scale)))
    if isinstance(value, int):
        return _encoded(int(value))
    raise TypeError(f"{type(value).__name__} cannot be a header; text, bytes, numbers, lists and mappings can")


def decode_table(data: bytes, start: int) -> tuple[dict[str, Any], int]:
    """Read the table at `start`; returns it and where it ends. Raises ValueError for what is no table."""
    return _decode_table(data, start, 0)


def _decode_table(data: bytes, start: int, depth: int) -> tuple[dict[str, Any], int]:
    end = _end(data, start)
    at = start + 4
    values: dict[str, Any] = {}
    while at < end:
        stop = at + 1 + data[at]
        name = data[at + 1 : stop].decode()
        # The usual kind, without a call.
        if data[stop] == 83:
            at = _end(data, stop + 1)
            raw = data[stop + 5 : at]
            try:
                values[name] = raw.decode()
            except UnicodeDecodeError:
                values[name] = raw
        else:
            values[name], at = _decoded(data, stop, depth)
    if at != end:
        raise ValueError("a table of headers does not end where it says")
    return values, end


def _end(data: bytes, start: int) -> int:
    if start + 4 > len(data):
        raise ValueError("a table of headers is cut off")
    end: int = start + 4 + _UNSIGNED.unpack_from(data, start)[0]
    if end > len(data):
        raise ValueError("a table of headers is longer than its frame")
    return end


def _decoded(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at]
    at += 1
    reader = _READERS.get(kind)
    if reader is not None:
        end = at + reader.size
        if end > len(data):
            raise ValueError("a header is cut off")
        return reader.unpack_from(data, at)[0], end
    if kind == ord("t"):
        return data[at] != 0, at + 1
    if kind == ord("V"):
        return None, at
    if kind == ord("S"):
        end = _end(data, at)
        raw = data[at + 4 : end]
        try:
            return raw.decode(), end
        except UnicodeDecodeError:
            return raw, end
    if kind == ord("x"):
        end = _end(data, at)
        return data[at + 4 : end], end
    return _decoded_rarely(data, at, kind, depth + 1)


def _decoded_rarely(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError("headers are nested too deeply")
    if kind == ord("F"):
        return _decode_table(data, at, depth)
    if kind == ord("A"):
        end = _end(data, at)
        at += 4
        items = []
        while at < end:
            item, at = _decoded(data, at, depth)
            items.append(item)
        if at != end:
            raise ValueError("a list among the headers does not end where it says")
        return items, end
    if at + 8 > len(data) and kind == ord("T"):
        raise ValueError("a time among the headers is cut off")
    if kind == ord("T"):
        seconds = int.from_bytes(data[at : at + 8], "big")
        try:
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC), at + 8
        except (OverflowError, OSError) as error:
            raise ValueError(f"{seconds} is no time") from error
    if kind == ord("D") and at + 5 <= len(data):
        return decimal.Decimal(int.from_bytes(data[at + 1 : at + 5], "big", signed=True)).scaleb(-data[at]), at + 5
    raise ValueError(f"a header is of the unknown type {chr(kind)!r}")
