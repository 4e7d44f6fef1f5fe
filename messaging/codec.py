"""Values to bytes and back: msgpack by msgspec, with errors that name what could not be written or read.

It knows nothing of messages. Encoders are not thread-safe to share while encoding in msgspec's `encode_into`, but
`encode` and `decode` are, so one of each serves all threads. Conversion to a type is strict about kinds (a string is no
number) and is done by msgspec from the annotations, so that what a handler gets is what its signature says.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from messaging.errors import DecodeError, EncodeError

__all__ = ["JsonSerializer", "Serializer", "convert", "decode_any", "encode_any", "explain_unencodable"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


class Serializer(Protocol):
    """Turns the application's own values and contexts into plain ones (None, bool, int, float, str, bytes, list, dict)
    and back.

    When a serializer is set, annotations are not used for conversion: the serializer decides what a handler gets.
    """

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """Return a plain value for an argument or a result."""

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """The reverse of `serialize_entity`."""

    def serialize_context(self, ctxt: Any) -> dict[str, Any]:
        """Return a plain dict for a context."""

    def deserialize_context(self, ctxt: dict[str, Any]) -> Any:
        """The reverse of `serialize_context`."""


class JsonSerializer:
    """A serializer that reduces values to what JSON can hold, as the predecessor's JsonPayloadSerializer does."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """Return the value as JSON types; raises EncodeError for what has no JSON form."""
        try:
            return msgspec.to_builtins(entity, str_keys=True)
        except (TypeError, ValueError) as error:
            raise EncodeError(f"no JSON form: {error}") from error

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """Return the value as it is."""
        return entity

    def serialize_context(self, ctxt: Any) -> dict[str, Any]:
        """Return the context as a plain dict."""
        return dict(ctxt)

    def deserialize_context(self, ctxt: dict[str, Any]) -> Any:
        """Return the context as it is."""
        return ctxt


def encode_any(value: Any) -> bytes:
    """Encode a value as msgpack. Raises EncodeError."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(str(error)) from error


def decode_any(data: bytes | memoryview) -> Any:
    """Decode msgpack into plain values. Raises DecodeError."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(f"not valid msgpack: {error}") from error


def convert(value: Any, annotation: Any, what: str) -> Any:
    """Convert a decoded value to a type. Raises DecodeError that names `what`.

    Keys may have come as text, as in JSON all do.
    """
    try:
        return msgspec.convert(value, annotation, str_keys=True)
    except msgspec.ValidationError as error:
        raise DecodeError(f"{what}: {error}") from error


def explain_unencodable(values: dict[str, Any]) -> str:
    """Name the first of several values that msgpack cannot carry, for an error message."""
    for name, value in values.items():
        try:
            _encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return f"argument {name!r} of type {type(value).__name__}: {error}"
    return "the arguments together are too deep or too large"
