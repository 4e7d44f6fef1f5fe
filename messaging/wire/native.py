"""The library's own wire format: one msgpack array per message.

    [version, kind, features, ...]      version 1; kind below; features: bits that a receiver must understand, 0 so far

Fields are only ever appended: an older reader ignores the tail, a newer one has defaults for what is missing, so a
version talks to its neighbours. A feature bit is for what may not be ignored. The first three elements have a fixed
place in the bytes, so that the owner of a connection can tell a reply from a cancel without decoding it. Ids, deadlines
and reply addresses are not in here: they travel in the transport's own properties, where brokers can use them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from messaging.errors import DecodeError, EncodeError
from messaging.target import DEFAULT_EXCHANGE

__all__ = [
    "CONTENT_TYPE_NATIVE",
    "KEY_HEADER",
    "LEVEL_HEADER",
    "POOL_HEADER",
    "VERSION",
    "Accepted",
    "Alive",
    "Cancel",
    "Failure",
    "Kind",
    "Level",
    "NativeWire",
    "Notification",
    "Ping",
    "Request",
    "RequestBody",
    "Result",
    "decode",
    "decode_reply",
    "decode_request",
    "encode",
    "kind_of",
]

VERSION = 1
LEVEL_HEADER = "level"
"""Header with the level of a notification, beside the body, so that who handles other levels need not decode it."""
KEY_HEADER = "key"
"""Header with the key of a notification, so that its receiver can keep the order of one key while it handles many."""
POOL_HEADER = "pool"
"""Header of a notification that is meant for one pool alone: a dead letter of that pool, sent again."""
CONTENT_TYPE_NATIVE = "application/vnd.messaging+msgpack"
_KNOWN_FEATURES = 0

Level = Literal["audit", "debug", "info", "warn", "error", "critical", "sample"]
"""The level of a notification. As a type it is checked where the message is read, in one step with that."""


class Kind(enum.IntEnum):
    """What a message is; the second element of its array."""

    CALL = 1
    CAST = 2
    RESULT = 3
    FAILURE = 4
    ACCEPTED = 5
    ALIVE = 6
    CANCEL = 7
    NOTIFICATION = 8


def _kind(*kinds: Kind) -> Meta:
    """The numbers of these kinds, which follow each other."""
    return Meta(ge=int(kinds[0]), le=int(kinds[-1]))


class _Beginning(msgspec.Struct, array_like=True, gc=False):
    version: int
    kind: int
    features: int


class _Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What they have to be is part of their types, so that it is checked without a step of the interpreter."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    kind: int
    features: Annotated[int, Meta(ge=0, le=_KNOWN_FEATURES)]


class RequestBody(_Body, frozen=True, gc=False):
    """A call or a cast, as it is written; `args` is a dict."""

    method: str
    namespace: str | None
    interface: str | None
    """The interface version that the caller was written against."""
    context: dict[str, Any]
    args: Any
    monitor: float = 0.0
    """Seconds between the signs of life that the caller wants while it runs; 0: none."""


class Request(_Body, frozen=True, gc=False):
    """The same as it is read: the arguments stay encoded until the method, and so their types, are known."""

    kind: Annotated[int, _kind(Kind.CALL, Kind.CAST)]
    method: str
    namespace: str | None
    interface: str | None
    context: dict[str, Any]
    args: msgspec.Raw
    """Formats that are text put a dict of plain values here."""
    monitor: float = 0.0


class Result(_Body, frozen=True, gc=False):
    """The value that a method returned."""

    kind: Annotated[int, _kind(Kind.RESULT)]
    value: Any
    server: str = ""


class Failure(_Body, frozen=True, gc=False):
    """An error in place of a result: a code that says which kind, and the exception's class, text, traceback and, where
    they can be encoded, arguments. `declared` is the class under which callers know it, when it is a subclass of that.
    """

    code: str
    type: str
    text: str
    trace: str = ""
    args: Any = None
    server: str = ""
    declared: str = ""


class Accepted(_Body, frozen=True, gc=False):
    """A server tells that the call named by the correlation id is in hand, and where a cancel reaches it."""

    address: str
    server: str = ""


class Alive(_Body, frozen=True, gc=False):
    """A server tells that these calls are still running."""

    ids: list[str]
    server: str = ""


class Cancel(_Body, frozen=True, gc=False):
    """A caller tells that nobody waits for these calls any more."""

    ids: list[str]


class Notification(_Body, frozen=True, gc=False):
    """A notification; `timestamp` is seconds since the epoch."""

    kind: Annotated[int, _kind(Kind.NOTIFICATION)]
    event_type: str
    publisher_id: str
    level: Level
    timestamp: float
    context: dict[str, Any]
    payload: Any


_encoder = msgspec.msgpack.Encoder()
encode_unchecked = _encoder.encode


def encode(body: _Body) -> bytes:
    """Write a body. Raises EncodeError for a value that msgpack cannot carry."""
    try:
        return _encoder.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(str(error)) from error


_decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {
    Kind.CALL: msgspec.msgpack.Decoder(Request),
    Kind.CAST: msgspec.msgpack.Decoder(Request),
    Kind.RESULT: msgspec.msgpack.Decoder(Result),
    Kind.FAILURE: msgspec.msgpack.Decoder(Failure),
    Kind.ACCEPTED: msgspec.msgpack.Decoder(Accepted),
    Kind.ALIVE: msgspec.msgpack.Decoder(Alive),
    Kind.CANCEL: msgspec.msgpack.Decoder(Cancel),
    Kind.NOTIFICATION: msgspec.msgpack.Decoder(Notification),
}


_decode_beginning = msgspec.msgpack.Decoder(_Beginning).decode
_BEGINNINGS = {bytes((0x90 | length, VERSION, kind)): int(kind) for length in range(3, 16) for kind in Kind}


def kind_of(body: bytes) -> int:
    """Return the kind of a message from its first bytes, 0 when it is none of ours.

    A msgpack array of up to 15 elements starts with one byte 0x9N, and a small number is one byte: the version and the
    kind.
    """
    return _BEGINNINGS.get(body[:3], 0) if len(body) > 3 else 0


def decode(body: bytes) -> Any:
    """Read a message of any kind: Request, Result, Failure, Accepted, Alive, Cancel or Notification.

    Raises DecodeError for what is malformed, of an unknown version or kind, or needs a feature that this side lacks.
    """
    if len(body) >= 4 and body[0] >> 4 == 9 and body[1] != VERSION:
        raise DecodeError(f"wire version {body[1]} is not supported; this side speaks version {VERSION}")
    decoder = _decoders.get(kind_of(body))
    if decoder is None:
        raise DecodeError("not a message of this library")
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        features = _features(body)
        if features & ~_KNOWN_FEATURES:
            raise DecodeError(
                f"the message needs feature bits {features:#x}, which this version does not have; upgrade this side"
            ) from None
        raise DecodeError(f"malformed message: {error}") from error


def _features(body: bytes) -> int:
    """The feature bits of a message that could not be read; 0: they could not either."""
    try:
        return _decode_beginning(body).features
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return 0


def _reader(usual: type[_Body], wanted: tuple[type[_Body], ...], refusal: str) -> Any:
    """Return a function that reads messages of some types: by a short way what nearly all are, `usual`.

    It raises DecodeError with `refusal` for messages of other types.
    """
    decode_usual = msgspec.msgpack.Decoder(usual).decode

    def read(body: bytes) -> Any:
        try:
            return decode_usual(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass  # what is wrong with it is told by the long way
        other = decode(body)
        if not isinstance(other, wanted):
            raise DecodeError(refusal)
        return other

    return read


decode_request: Callable[[bytes], Request] = _reader(Request, (Request,), "neither a call nor a cast")
"""Read a call or a cast. Raises DecodeError."""
decode_reply: Callable[[bytes], Result | Failure] = _reader(Result, (Result, Failure), "neither a result nor a failure")
"""Read an answer. Raises DecodeError."""
_decode_notification: Callable[[bytes], Notification] = _reader(Notification, (Notification,), "not a notification")


def _encode_answer(answer: Result | Failure, request: bytes, error: BaseException | None = None) -> bytes:
    # `encode`, written out: this runs once per call.
    try:
        return _encoder.encode(answer)
    except (TypeError, ValueError, OverflowError, RecursionError) as failure:
        raise EncodeError(str(failure)) from failure


class Ping(NamedTuple):
    """The method by which every server of a format answers, in version 1.0."""

    namespace: str | None
    method: str
    answer: str
    """What it returns; empty: the server's name."""


class NativeWire:
    """This format, as the patterns ask for it; see messaging.wire.base.Wire.

    What runs once per message is bound here as it is, so that a choice of formats costs this one nothing.
    """

    name = "native"
    exchange = DEFAULT_EXCHANGE
    silence = 3.0
    least_silence = 0.0
    tells_acceptance = True
    context_headers = None
    has_mailboxes = True
    ping = Ping("messaging", "ping", "")
    remembers = 0
    seal = None
    encode_request = staticmethod(encode_unchecked)
    encode_notification = staticmethod(encode_unchecked)
    encode_answer = staticmethod(_encode_answer)
    kind_of = staticmethod(kind_of)
    decode_request = staticmethod(decode_request)
    decode_reply = staticmethod(decode_reply)
    decode_control = staticmethod(decode)
    decode_notification = staticmethod(_decode_notification)

    def interval(self, silence: float) -> float:
        """Three signs are missed before a server counts as lost."""
        return silence / 3

    def encode_cancel(self, ids: Sequence[str]) -> bytes | None:
        """See Wire."""
        return encode(Cancel(VERSION, Kind.CANCEL, 0, list(ids)))

    def encode_accepted(self, address: str, server: str) -> bytes | None:
        """See Wire."""
        return encode(Accepted(VERSION, Kind.ACCEPTED, 0, address, server))

    def encode_alive(self, ids: Sequence[str], server: str) -> Iterable[bytes]:
        """One message for all calls of one caller."""
        return (encode(Alive(VERSION, Kind.ALIVE, 0, list(ids), server)),)

    def new_message_id(self) -> str | None:
        """Any will do."""
        return None

    def topic(self, topic: str, level: str) -> str:
        """All levels go one way, so that all notifications of a key keep their order."""
        return topic

    def topics(self, topic: str, levels: Collection[str]) -> Sequence[str]:
        """The one."""
        return (topic,)

    def opener(self, contents: str) -> None:
        """Ids, levels and addresses stand outside of the body."""
        return

    def unique_id(self, body: bytes) -> str:
        """Senders of this format do not repeat a message behind the back of its receiver."""
        return ""
