"""What two processes say to each other over ZeroMQ: pure bytes, no sockets.

Every ZeroMQ message is one frame of msgpack, an array whose first element says what it is, and then the frames of its
large bodies. All messages, settlements and refusals for one process travel in one Batch, because what costs is the
number of ZeroMQ messages, not the number of records in them.

A message is addressed to a *subscription*, a small number that its owner gives out in Welcome, in Table and in its
matchmaker record, and never gives twice. So no names travel with a message, and one for a server that has gone cannot
reach the next one.

Fields are only ever appended to a frame, with a default, so that versions N and N-1 understand each other. Everything
here may come from a stranger: `decode` raises DecodeError and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from messaging.errors import DecodeError
from messaging.message import Source, SourceKind

__all__ = [
    "BUSY",
    "GONE",
    "HIGHEST_VERSION",
    "INLINE",
    "LOWEST_VERSION",
    "PROBE",
    "REJECTED",
    "REPLIES",
    "RETURNED",
    "WANTS_REPLY",
    "Batch",
    "Bye",
    "Frame",
    "Hello",
    "Message",
    "Row",
    "Table",
    "Welcome",
    "decode",
    "encode",
    "sources_from_rows",
    "sources_to_rows",
]

LOWEST_VERSION = 1
HIGHEST_VERSION = 1

INLINE = 65536
"""Bodies above this many bytes travel as frames of their own: from here on pyzmq sends without copying faster than
with."""

REPLIES = 0
"""The subscription number of every connection's own reply address."""

WANTS_REPLY = 1
"""The flag of a message whose receiver may answer."""

BUSY = 0
"""Refused: the window or the inbox is full."""
RETURNED = 1
"""Refused: its receiver handed it back without starting it."""
GONE = 2
"""Refused: there is no such subscription any more."""
REJECTED = 3
"""Refused for good, with a reason."""

Row = tuple[int, str, str, str, str, str]
"""A subscription: its number, the kind of its source, exchange, topic, server, pool."""


Message = tuple[int, int, int, float | None, dict[str, Any], bytes | int]
"""A message: sequence number or 0 when no settlement is wanted, subscription, flags, the seconds that are left or None,
headers, and its body or the position of the frame that holds it, counted from 1.
"""


class Batch(msgspec.Struct, array_like=True, tag=0):
    """Messages, and the settlement of messages that came the other way: `accepted` are sequence numbers, `refused` are
    (sequence number, why, reason).
    """

    messages: list[Message]
    accepted: list[int] = []
    refused: list[tuple[int, int, str]] = []
    bodies: int = 0
    """How many frames follow."""
    sent: float = 0.0
    """When it was written, on the sender's monotonic clock; 0 where no message has a budget."""


class Hello(msgspec.Struct, array_like=True, tag=1):
    """The first frame on a connection. `instance` is who is expected at this address, empty if unknown; `limit` the
    most bytes of a body; `sent` as in Batch.
    """

    magic: Literal["messaging"]
    lowest: int
    highest: int
    identity: str
    instance: str
    limit: int
    sent: float = 0.0


class Welcome(msgspec.Struct, array_like=True, tag=2):
    """The answer to Hello. `version` 0: none in common. `instance` is who really is at this address; `rows` what it
    serves.
    """

    version: int
    instance: str
    limit: int
    revision: int
    rows: list[Row]
    lowest: int = LOWEST_VERSION
    highest: int = HIGHEST_VERSION


class Table(msgspec.Struct, array_like=True, tag=3):
    """What the sender serves has changed; the whole of it."""

    revision: int
    rows: list[Row]


class Bye(msgspec.Struct, array_like=True, tag=4):
    """The sender closes. It has looked at sequence numbers up to `processed` and will never look at later ones."""

    processed: int
    reason: str = ""


Frame = Batch | Hello | Welcome | Table | Bye

_encode_any = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Frame)

encode = _encode_any
"""Encode a frame. A batch may also be given as a tuple (0, messages, ...), which saves building the struct."""

PROBE = encode((0, []))
"""An empty batch: does nothing, but sending it shows whether the other end is still there."""


def decode(data: bytes | memoryview) -> Frame:
    """Decode a first frame. Raises DecodeError, whatever the bytes are."""
    try:
        return _decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise DecodeError(f"{len(data)} bytes are no frame of this protocol: {error}") from None


def sources_to_rows(sources: Iterable[tuple[int, Source]]) -> list[Row]:
    """Write (number, source) pairs as they travel."""
    return [(number, s.kind.value, s.exchange, s.topic, s.server, s.pool) for number, s in sources]


_KINDS = {kind.value: kind for kind in SourceKind}


def sources_from_rows(rows: Iterable[Row]) -> dict[int, Source]:
    """Read rows; those of a kind that this version does not know are left out, because it cannot send to them
    anyway.
    """
    return {
        number: Source(_KINDS[kind], exchange, topic, server, pool)
        for number, kind, exchange, topic, server, pool in rows
        if kind in _KINDS
    }
