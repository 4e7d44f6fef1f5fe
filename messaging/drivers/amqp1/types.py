"""AMQP 1.0's primitive types: bytes to Python values and back. Pure.

A decoder of our own, because a message is one call per value through proton's C library, each of which gives up the
GIL: 9 us for a message of five fields there, 2 us here. What is not plain data is refused by ValueError, IndexError or
struct.error; whoever decodes what strangers send catches those three.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

__all__ = ["encode_string", "encode_symbol", "encode_value", "read_fields", "read_value", "skip_value"]

_NULL = b"\x40"
_pack_int = struct.Struct(">q").pack
_pack_float = struct.Struct(">d").pack
_pack_size = struct.Struct(">I").pack


def encode_string(text: str) -> bytes:
    """A string."""
    data = text.encode()
    return b"\xa1%c%b" % (len(data), data) if len(data) < 256 else b"\xb1%b%b" % (_pack_size(len(data)), data)


def encode_symbol(text: str) -> bytes:
    """A symbol. Raises UnicodeEncodeError for what is not ASCII."""
    data = text.encode("ascii")
    return b"\xa3%c%b" % (len(data), data) if len(data) < 256 else b"\xb3%b%b" % (_pack_size(len(data)), data)


def encode_value(value: Any) -> bytes:
    """A plain value: None, bool, int of 64 bits, float, str, bytes. Raises ValueError or TypeError for others."""
    kind = type(value)
    if kind is str:
        return encode_string(value)
    if kind is bool:
        return b"\x41" if value else b"\x42"
    if kind is int:
        if -128 <= value < 128:
            return b"\x55%c" % (value & 0xFF)
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{value} does not fit in 64 bits")
        return b"\x81" + _pack_int(value)
    if kind is float:
        return b"\x82" + _pack_float(value)
    if kind is bytes:
        return b"\xa0%c%b" % (len(value), value) if len(value) < 256 else b"\xb0%b%b" % (_pack_size(len(value)), value)
    if value is None:
        return _NULL
    raise TypeError(f"{kind.__name__} is no plain value")


Reader = Callable[[bytes, int], tuple[Any, int]]
"""Reads a value whose constructor stands before a position; returns the value and the position behind it."""

_READERS: dict[int, Reader] = {}


def read_value(data: bytes, at: int) -> tuple[Any, int]:
    """Read the value at a position; return it and the position behind it.

    A described value is the plain value without its descriptor. Raises ValueError, IndexError or struct.error.
    """
    reader = _READERS.get(data[at])
    if reader is None:
        raise ValueError(f"no type has the code {data[at]:#04x}")
    return reader(data, at + 1)


def read_fields(data: bytes, at: int) -> tuple[list[Any], int]:
    """Read a list of plain fields; the same as `read_value`, with the types that most fields have written out."""
    code = data[at]
    if code == 0xC0:
        end = at + 2 + data[at + 1]
        count = data[at + 2]
        at += 3
    elif code == 0xD0:
        end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
        count = int.from_bytes(data[at + 5 : at + 9])
        at += 9
    elif code == 0x45:
        return [], at + 1
    else:
        raise ValueError("a list was expected")
    if end > len(data):
        raise ValueError("a list goes past the end")
    fields: list[Any] = []
    for _ in range(count):
        code = data[at]
        if code == 0x40:
            fields.append(None)
            at += 1
        elif code == 0xA1:
            start = at + 2
            at = start + data[at + 1]
            if at > end:
                raise ValueError("a string goes past its list")
            fields.append(data[start:at].decode())
        else:
            value, at = read_value(data, at)
            fields.append(value)
    if at != end:
        raise ValueError("a list does not end where it says")
    return fields, end


def skip_value(data: bytes, at: int) -> int:
    """Return the position behind a map or a list, without reading it; of others, behind the value."""
    code = data[at]
    if code in (0xC0, 0xC1):
        end = at + 2 + data[at + 1]
    elif code in (0xD0, 0xD1):
        end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
    else:
        return read_value(data, at)[1]
    if end > len(data):
        raise ValueError("a value goes past the end")
    return end


def _fixed(code: int, layout: str) -> None:
    format = struct.Struct(layout)
    size = format.size

    def read(data: bytes, at: int) -> tuple[Any, int]:
        return format.unpack_from(data, at)[0], at + size

    _READERS[code] = read


def _constant(code: int, value: Any) -> None:
    _READERS[code] = lambda data, at: (value, at)


def _opaque(code: int, width: int) -> None:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        return _cut(data, at, at + width), at + width

    _READERS[code] = read


def _cut(data: bytes, start: int, end: int) -> bytes:
    if end > len(data):
        raise ValueError(f"a value of {end - start} bytes goes past the end")
    return data[start:end]


def _size(data: bytes, at: int, wide: bool) -> tuple[int, int]:
    return (int.from_bytes(_cut(data, at, at + 4)), at + 4) if wide else (data[at], at + 1)


def _binary(code: int, wide: bool, text: str = "") -> None:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        size, start = _size(data, at, wide)
        cut = _cut(data, start, start + size)
        return (cut.decode(text) if text else cut), start + size

    _READERS[code] = read


def _compound(code: int, wide: bool, mapping: bool) -> None:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        size, start = _size(data, at, wide)
        end = start + size
        _cut(data, start, end)
        count, at = _size(data, start, wide)
        items = []
        for _ in range(count):
            # Every item has at least its constructor, so a count that lies is found at the end of the data.
            value, at = read_value(data, at)
            items.append(value)
        if at != end:
            raise ValueError("a list or map does not end where it says")
        if not mapping:
            return items, end
        if count % 2:
            raise ValueError("a map with a key that has no value")
        return dict(zip(items[::2], items[1::2], strict=True)), end

    _READERS[code] = read


def _array(code: int, wide: bool) -> None:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        size, start = _size(data, at, wide)
        end = start + size
        _cut(data, start, end)
        count, at = _size(data, start, wide)
        element = data[at]
        at += 1
        if element == 0x00:
            _, at = read_value(data, at)
            element = data[at]
            at += 1
        reader = _READERS.get(element)
        if reader is None or count > size:
            raise ValueError("an array of what is no type, or longer than it is")
        items = []
        for _ in range(count):
            value, at = reader(data, at)
            items.append(value)
        return items, end

    _READERS[code] = read


def _described(data: bytes, at: int) -> tuple[Any, int]:
    _, at = read_value(data, at)
    return read_value(data, at)


def _uuid(data: bytes, at: int) -> tuple[Any, int]:
    return UUID(bytes=_cut(data, at, at + 16)), at + 16


def _truth(data: bytes, at: int) -> tuple[Any, int]:
    return data[at] != 0, at + 1


for _code, _value in ((0x40, None), (0x41, True), (0x42, False), (0x43, 0), (0x44, 0)):
    _constant(_code, _value)
_constant(0x45, [])
for _code, _layout in (
    *((0x50, ">B"), (0x60, ">H"), (0x70, ">I"), (0x80, ">Q"), (0x51, ">b"), (0x61, ">h"), (0x71, ">i"), (0x81, ">q")),
    *((0x52, ">B"), (0x53, ">B"), (0x54, ">b"), (0x55, ">b"), (0x72, ">f"), (0x82, ">d"), (0x83, ">q"), (0x73, ">I")),
):
    _fixed(_code, _layout)
for _code, _width in ((0x74, 4), (0x84, 8), (0x94, 16)):
    _opaque(_code, _width)
for _code, _wide in ((0xA0, False), (0xB0, True)):
    _binary(_code, _wide)
    _binary(_code + 1, _wide, "utf-8")
    _binary(_code + 3, _wide, "ascii")
for _code, _wide in ((0xC0, False), (0xD0, True)):
    _compound(_code, _wide, mapping=False)
    _compound(_code + 1, _wide, mapping=True)
    _array(_code + 0x20, _wide)
_READERS[0x00] = _described
_READERS[0x98] = _uuid
_READERS[0x56] = _truth
