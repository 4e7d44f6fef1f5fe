"""JSON as the predecessor writes it: its separators, its order, its plain forms of values, its envelope.

    {"oslo.version": "2.0", "oslo.message": "<the JSON text of the message>"}

A message without the envelope is of version 1. What stands in it without a form of its own in JSON is written as the
predecessor writes it: inside an envelope as plain text, without one in the tagged form of its JSON encoder. Integers
have any size here, and keys become text.
"""

from __future__ import annotations

import base64
import bz2
import datetime
import decimal
import ipaddress
import json
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from messaging.errors import DecodeError, EncodeError

__all__ = ["MESSAGE_KEY", "VERSION_KEY", "dumps", "dumps_tagged", "enveloped", "loads", "opened", "quoted"]

VERSION_KEY = "oslo.version"
MESSAGE_KEY = "oslo.message"
_ENVELOPE = '{"oslo.version": "2.0", "oslo.message": "'
_MOMENT = "%Y-%m-%dT%H:%M:%S.%f"
_LARGEST = 2**27
"""Bytes of a decompressed body: a broker's own limit for bodies, so that a few bytes cannot ask for all memory."""
_KEPT = (bytes, bytearray, memoryview, datetime.datetime, datetime.date, datetime.time, decimal.Decimal, uuid.UUID)


def _plain(value: Any) -> Any:
    """The form inside an envelope of what JSON does not have. Raises TypeError for what has none."""
    if isinstance(value, bytes | bytearray):
        return value.decode()
    if isinstance(value, datetime.datetime):
        # The zone is kept where there is one; the predecessor drops it, which makes another moment of it.
        return value.strftime(_MOMENT) if value.tzinfo is None else value.isoformat(timespec="microseconds")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID | ipaddress.IPv4Address | ipaddress.IPv6Address):
        return str(value)
    if isinstance(value, Exception):
        return repr(value)
    return _structured(value)


def _tagged(value: Any) -> Any:
    """The form without an envelope."""
    if isinstance(value, bytes | bytearray):
        try:
            return _tag("bytes", value.decode())
        except UnicodeDecodeError:
            return _tag("base64", base64.b64encode(value).decode())
    if isinstance(value, datetime.datetime):
        return _tag("datetime", value.isoformat())
    if isinstance(value, datetime.date):
        return _tag("date", value.isoformat())
    if isinstance(value, datetime.time):
        return _tag("time", value.isoformat())
    if isinstance(value, decimal.Decimal):
        return _tag("decimal", str(value))
    if isinstance(value, uuid.UUID):
        return _tag("uuid", {"hex": value.hex})
    return _structured(value)


def _tag(kind: str, value: Any) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


def _structured(value: Any) -> Any:
    """One level of a dataclass, a struct, an enum, a set or a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset | tuple) or (isinstance(value, Iterable) and hasattr(value, "__len__")):
        return list(value)
    return msgspec.to_builtins(value, builtin_types=_KEPT, str_keys=True)


def dumps(value: Any) -> str:
    """Write what stands inside an envelope. Raises EncodeError."""
    return _dumps(value, _plain)


def dumps_tagged(value: Any) -> str:
    """Write what stands alone. Raises EncodeError."""
    return _dumps(value, _tagged)


def _dumps(value: Any, default: Callable[[Any], Any]) -> str:
    try:
        return json.dumps(value, default=default)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"no JSON form: {error}") from error


def quoted(text: str) -> str:
    """A text as it stands inside of a JSON string, without the quotes. Quoting parts and joining them is quoting the
    whole.
    """
    return json.dumps(text)[1:-1]


def enveloped(quoted_message: str) -> bytes:
    """Put a quoted message into its envelope."""
    return f'{_ENVELOPE}{quoted_message}"}}'.encode()


_TAGGED: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda value: value.encode(),
    "base64": lambda value: base64.b64decode(value.encode()),
    "datetime": datetime.datetime.fromisoformat,
    "date": lambda value: datetime.datetime.fromisoformat(value).date(),
    "time": datetime.time.fromisoformat,
    "decimal": decimal.Decimal,
    "uuid": lambda value: uuid.UUID(**value),
}


def _untagged(found: dict[str, Any]) -> Any:
    if len(found) == 2 and found.keys() == {"__type__", "__value__"}:
        read = _TAGGED.get(found["__type__"])
        if read is None:
            raise ValueError(f"unknown type {found['__type__']!r}")
        return read(found["__value__"])
    return found


def loads(text: str | bytes) -> Any:
    """Read JSON. Raises DecodeError."""
    return _read(text, None)


def _read(text: str | bytes, hook: Callable[[dict[str, Any]], Any] | None) -> Any:
    try:
        return json.loads(text, object_hook=hook)
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}") from error


def opened(body: bytes, compression: object = None) -> dict[str, Any]:
    """Read a message with or without an envelope, compressed or not. Raises DecodeError."""
    message = _read(body if compression is None else _decompressed(body, compression), _untagged)
    if isinstance(message, dict) and VERSION_KEY in message and MESSAGE_KEY in message:
        version, inner = message[VERSION_KEY], message[MESSAGE_KEY]
        if version != "2.0":
            raise DecodeError(f"the envelope is of version {version!r}; this side reads version '2.0'")
        if not isinstance(inner, str):
            raise DecodeError("the envelope holds no text")
        message = loads(inner)
    if not isinstance(message, dict):
        raise DecodeError("the message is no JSON object")
    return message


def _decompressed(body: bytes, compression: object) -> bytes:
    try:
        if compression == "application/x-gzip":
            reader: Any = zlib.decompressobj()
        elif compression == "application/x-bz2":
            reader = bz2.BZ2Decompressor()
        else:
            raise DecodeError(f"the body is compressed by {compression!r}; this side reads gzip and bz2")
        text: bytes = reader.decompress(body, _LARGEST)
    except (zlib.error, OSError, EOFError) as error:
        raise DecodeError(f"not {compression}: {error}") from error
    if not reader.eof:
        raise DecodeError(f"the compressed body is cut off, or larger than {_LARGEST} bytes")
    return text
