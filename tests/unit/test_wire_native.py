"""The bytes of the library's own wire format: they never change within a version, neighbouring versions understand each
other, and nothing that a stranger writes does more than raise DecodeError.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import DecodeError, EncodeError
from messaging.wire.native import (
    Accepted,
    Alive,
    Cancel,
    Failure,
    Kind,
    Level,
    Notification,
    Request,
    RequestBody,
    Result,
    decode,
    decode_reply,
    decode_request,
    encode,
    kind_of,
)
from tests.faults.mutation import mutations

CALL = RequestBody(
    1, Kind.CALL, 0, "reserve", "inventory", "1.3", {"user": "ann"}, {"sku": "A1", "count": 2, "raw": b"\x00\xff"}, 1.0
)
CAST = RequestBody(1, Kind.CAST, 0, "reindex", None, None, {}, {})
FAILURE = Failure(
    1, Kind.FAILURE, 0, "remote", "shop.OutOfStock", "no A1", "Traceback", ["A1", 0], "host-1", "shop.Problem"
)
NOTIFICATION = Notification(
    1, Kind.NOTIFICATION, 0, "instance.create.end", "compute.host-1", "info", 1700000000.25, {"user": "ann"}, {"id": 12}
)

GOLDEN: dict[str, tuple[Any, str]] = {
    "call": (
        CALL,
        "99010100a772657365727665a9696e76656e746f7279a3312e3381a475736572a3616e6e83a3736b75a24131"
        "a5636f756e7402a3726177c40200ffcb3ff0000000000000",
    ),
    "cast": (CAST, "99010200a77265696e646578c0c08080cb0000000000000000"),
    "result": (
        Result(1, Kind.RESULT, 0, {"left": 3, "of": [1, 2.5, None, True]}, "host-1"),
        "9501030082a46c65667403a26f669401cb4004000000000000c0c3a6686f73742d31",
    ),
    "failure": (
        FAILURE,
        "9a010400a672656d6f7465af73686f702e4f75744f6653746f636ba56e6f204131a954726163656261636b92"
        "a2413100a6686f73742d31ac73686f702e50726f626c656d",
    ),
    "accepted": (Accepted(1, Kind.ACCEPTED, 0, "address-1", "host-1"), "95010500a9616464726573732d31a6686f73742d31"),
    "alive": (Alive(1, Kind.ALIVE, 0, ["a1", "a2"], "host-1"), "9501060092a26131a26132a6686f73742d31"),
    "cancel": (Cancel(1, Kind.CANCEL, 0, ["a1", "a2"]), "9401070092a26131a26132"),
    "notification": (
        NOTIFICATION,
        "99010800b3696e7374616e63652e6372656174652e656e64ae636f6d707574652e686f73742d31a4696e666f"
        "cb41d954fc4010000081a475736572a3616e6e81a269640c",
    ),
}
"""One body of each kind, and its bytes in hexadecimal."""

DEFAULTS: dict[str, tuple[int, dict[str, Any]]] = {
    "call": (8, {"monitor": 0.0}),
    "cast": (8, {"monitor": 0.0}),
    "result": (4, {"server": ""}),
    "failure": (6, {"trace": "", "args": None, "server": "", "declared": ""}),
    "accepted": (4, {"server": ""}),
    "alive": (4, {"server": ""}),
}
"""How many elements the first readers had, and what the later fields are without them."""


def golden(kind: str) -> bytes:
    """The bytes that a kind has for ever."""
    return bytes.fromhex(GOLDEN[kind][1])


def readable(body: Any) -> Any:
    """What a written body is when it is read: the arguments of a request stay as they came."""
    if isinstance(body, RequestBody):
        values = {name: getattr(body, name) for name in body.__struct_fields__}
        return {**values, "args": msgspec.msgpack.encode(body.args)}
    return body


def comparable(body: Any) -> Any:
    """The same for what was read."""
    if isinstance(body, Request):
        values = {name: getattr(body, name) for name in body.__struct_fields__}
        return {**values, "args": bytes(body.args)}
    return body


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_bytes_of_a_kind_do_not_change(kind: str) -> None:
    """What is written today is what was written by the first version, and reads as it was written."""
    body = GOLDEN[kind][0]
    assert encode(body).hex() == GOLDEN[kind][1]
    assert comparable(decode(golden(kind))) == readable(body)


def test_every_kind_has_golden_bytes() -> None:
    """No kind was added without them, and the kind can be told from the first bytes."""
    assert {kind_of(golden(name)) for name in GOLDEN} == set(Kind)
    assert {kind_of(golden(name)): Kind[name.upper()] for name in GOLDEN} == {kind: kind for kind in Kind}


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_newer_neighbour_may_append_fields(kind: str) -> None:
    """Elements behind the known ones are ignored, whatever they are."""
    for more in ([1], ["text", None], [{"a": [1]}, b"x", 2.5]):
        elements = [*msgspec.msgpack.decode(golden(kind)), *more]
        assert comparable(decode(msgspec.msgpack.encode(elements))) == comparable(decode(golden(kind)))


@pytest.mark.parametrize("kind", DEFAULTS)
def test_an_older_neighbour_may_leave_fields_out(kind: str) -> None:
    """Every shorter form down to the first one is read, with the defaults for what is missing."""
    elements = msgspec.msgpack.decode(golden(kind))
    least, defaults = DEFAULTS[kind]
    for length in range(least, len(elements)):
        found = decode(msgspec.msgpack.encode(elements[:length]))
        for position, name in enumerate(found.__struct_fields__[:length]):
            if name != "args" or kind == "failure":
                assert getattr(found, name) == elements[position]
        for name in found.__struct_fields__[length:]:
            assert getattr(found, name) == defaults[name]
    with pytest.raises(DecodeError, match="malformed"):
        decode(msgspec.msgpack.encode(elements[: least - 1]))


@pytest.mark.parametrize("kind", GOLDEN)
def test_an_unknown_feature_is_refused(kind: str) -> None:
    """A feature bit says that ignoring the message's meaning would be wrong; the error names the bits and the cure."""
    elements = msgspec.msgpack.decode(golden(kind))
    elements[2] = 6
    with pytest.raises(DecodeError, match=r"feature bits 0x6.*upgrade this side"):
        decode(msgspec.msgpack.encode(elements))


@pytest.mark.parametrize("read", [decode, decode_request, decode_reply])
@pytest.mark.parametrize("version", [0, 2, 127])
def test_another_version_is_refused(read: Any, version: int) -> None:
    """Whatever reads it names both versions."""
    for kind in ("call", "result"):
        body = golden(kind)
        with pytest.raises(DecodeError, match=rf"wire version {version} is not supported.*speaks version 1"):
            read(body[:1] + bytes([version]) + body[2:])


@pytest.mark.parametrize(
    "body", [b"", b"\x98", b"\x98\x01", b"\x98\x01\x01", b"GET / HTTP/1.1", b"\xff" * 100, b"\x00"]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    """Too short, or of something else: every reader raises DecodeError, and there is no kind."""
    assert kind_of(body) == 0
    for read in (decode, decode_request, decode_reply):
        with pytest.raises(DecodeError):
            read(body)


def test_each_reader_takes_its_own_kinds() -> None:
    """A request is no answer and the reverse, whatever else is right with it."""
    for kind in GOLDEN:
        if kind not in ("call", "cast"):
            with pytest.raises(DecodeError, match="neither a call nor a cast"):
                decode_request(golden(kind))
        if kind not in ("result", "failure"):
            with pytest.raises(DecodeError, match="neither a result nor a failure"):
                decode_reply(golden(kind))
    assert decode_reply(golden("result")) == GOLDEN["result"][0]
    assert decode_reply(golden("failure")) == FAILURE
    assert decode_request(golden("cast")).method == "reindex"


@pytest.mark.parametrize("value", [object(), {1, print}, lambda: None, 1 << 70, {"deep": iter([])}])
def test_what_cannot_be_written_is_an_encode_error(value: Any) -> None:
    """Values that msgpack does not have are refused with their type, at any depth."""
    with pytest.raises(EncodeError):
        encode(Result(1, Kind.RESULT, 0, [value]))


def test_a_value_without_end_is_an_encode_error() -> None:
    """A list in itself ends as an error and not as the end of the process."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(EncodeError):
        encode(Result(1, Kind.RESULT, 0, endless))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)
"""Everything that has a msgpack form of its own."""
contexts = st.dictionaries(st.text(max_size=20), plain, max_size=4)


@given(st.text(), st.none() | st.text(), st.none() | st.text(), contexts, contexts, st.floats(0, 1e6))
def test_any_request_reads_as_it_was_written(
    method: str, namespace: str | None, interface: str | None, context: Any, args: Any, monitor: float
) -> None:
    """Method, namespace, version, context and arguments come out as they went in."""
    for kind in (Kind.CALL, Kind.CAST):
        body = RequestBody(1, kind, 0, method, namespace, interface, context, args, monitor)
        found = decode_request(encode(body))
        assert (found.kind, found.method, found.namespace, found.interface, found.context, found.monitor) == (
            kind,
            method,
            namespace,
            interface,
            context,
            monitor,
        )
        assert msgspec.msgpack.decode(found.args) == args


@given(plain, st.text(max_size=50))
def test_any_result_reads_as_it_was_written(value: Any, server: str) -> None:
    """A plain value comes out as it went in."""
    body = Result(1, Kind.RESULT, 0, value, server)
    assert decode_reply(encode(body)) == decode(encode(body)) == body


@given(*(st.text(max_size=50) for _ in range(4)), st.none() | st.lists(plain, max_size=3), st.text(max_size=50))
def test_any_failure_reads_as_it_was_written(
    code: str, type: str, text: str, trace: str, args: Any, declared: str
) -> None:
    """So does everything about an exception."""
    body = Failure(1, Kind.FAILURE, 0, code, type, text, trace, args, "server", declared)
    assert decode_reply(encode(body)) == body


@given(st.text(), st.text(), st.sampled_from(get_args(Level)), st.floats(0, 1e12), contexts, plain)
def test_any_notification_reads_as_it_was_written(
    event_type: str, publisher_id: str, level: Level, timestamp: float, context: Any, payload: Any
) -> None:
    """And everything about a notification."""
    body = Notification(1, Kind.NOTIFICATION, 0, event_type, publisher_id, level, timestamp, context, payload)
    assert decode(encode(body)) == body


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(body: bytes) -> None:
    """Nothing else ever comes out of a reader."""
    _read_all(body)
    _read_all(b"\x98\x01" + body)


def test_ten_thousand_mutated_bodies_are_messages_or_decode_errors() -> None:
    """Bytes that are nearly right do not surprise any reader, and are told apart: most are refused."""
    refused = sum(_read_all(body) for body in mutations([golden(kind) for kind in GOLDEN], 10_000, seed=9))
    assert 3_000 < refused < 10_000


def test_arrays_deeper_than_the_stack_are_a_decode_error() -> None:
    """A hundred thousand arrays in arrays, in any place of a message, end neither the process nor the reader."""
    for kind in GOLDEN:
        head = golden(kind)
        for at in range(4, len(head), 7):
            assert _read_all(head[:at] + b"\x91" * 100_000)


def _read_all(body: bytes) -> bool:
    """Whether `decode` refuses a body; anything but DecodeError out of any reader fails the test."""
    refused = 0
    for read in (decode, decode_request, decode_reply):
        try:
            read(body)
        except DecodeError:
            refused += read is decode
    kind_of(body)
    return bool(refused)
