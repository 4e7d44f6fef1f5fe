"""AMQP 1.0's bytes: golden messages, what proton reads of them, and what no bytes may do."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import proton
import pytest

from messaging.drivers.amqp1.encoding import (
    Undecodable,
    _decode,
    _decode_usual,
    decode_message,
    encode_message,
    make_prefix,
)
from messaging.drivers.amqp1.types import encode_string, encode_value, read_value
from messaging.errors import EncodeError

_NULL = b"\x40"
_PREFIX = make_prefix("a/b", {"x-opt-jms-dest": b"\x51\x00"})
_GOLDEN = (
    b"\x00Sp\xc0\x08\x03B@p\x00\x00\x05\xdc"
    b"\x00Sr\xd1\x00\x00\x00\x16\x00\x00\x00\x02\xa3\x0ex-opt-jms-destQ\x00"
    b"\x00Ss\xd0\x00\x00\x00\x19\x00\x00\x00\x07\xa1\x03m-1@\xa1\x03a/b@\xa1\x05reply@@"
    b"\x00St\xd1\x00\x00\x00\x09\x00\x00\x00\x02\xa1\x01xU\x07"
    b"\x00Su\xa0\x04body"
)


def test_a_message_has_these_bytes() -> None:
    """What is on the wire does not change by accident: header, annotations, properties, headers, data."""
    encoded = encode_message(_PREFIX, b"body", {"message-id": "m-1", "x": 7}, encode_string("reply"), False, 1.5)
    assert encoded == _GOLDEN


def test_golden_bytes_are_read() -> None:
    """The same bytes give the message back; the ttl is the budget in seconds."""
    decoded = decode_message(_GOLDEN)
    assert (decoded.body, decoded.headers, decoded.reply_to) == (b"body", {"message-id": "m-1", "x": 7}, "reply")
    assert (decoded.ttl, decoded.deliveries, decoded.redelivered) == (1.5, 0, False)


def test_proton_reads_what_is_written() -> None:
    """The reference library finds every property where it belongs."""
    headers = {
        "message-id": "m-1",
        "correlation-id": "c-1",
        "content-type": "text/plain",
        "priority": 7,
        "text": "☃",
        "number": -(2**40),
        "small": -5,
        "real": 0.5,
        "yes": True,
        "no": False,
        "none": None,
        "bytes": b"\x00\xff",
        "long": "y" * 300,
    }
    message: Any = proton.Message()
    message.decode(encode_message(_PREFIX, b"z" * 1000, headers, encode_string("r"), True, None))
    assert (message.id, message.correlation_id, message.content_type, message.priority) == (
        "m-1",
        "c-1",
        "text/plain",
        7,
    )
    assert (message.address, message.reply_to, message.durable, message.ttl) == ("a/b", "r", True, 0)
    properties = {name: bytes(value) if name == "bytes" else value for name, value in message.properties.items()}
    assert properties == {name: value for name, value in headers.items() if name not in _RESERVED}
    assert bytes(message.body) == b"z" * 1000


_RESERVED = {"message-id", "correlation-id", "content-type", "priority"}


def test_what_is_written_is_read() -> None:
    """Headers and body come back as they were, without proton between."""
    headers: dict[str, Any] = {"message-id": "m", "priority": 3, "a": "b" * 400, "n": 2**62, "f": -1.5, "z": None}
    decoded = decode_message(encode_message(_PREFIX, b"", headers, _NULL, True, None))
    assert (decoded.headers, decoded.body, decoded.reply_to, decoded.ttl) == (headers, b"", "", None)


@pytest.mark.parametrize(
    ("message", "body", "headers"),
    [
        (proton.Message(body="text"), b"text", {}),
        (proton.Message(body=b"raw"), b"raw", {}),
        (proton.Message(body=b"one", inferred=True, id=7), b"one", {"message-id": 7}),
        (
            proton.Message(body=b"", correlation_id=UUID(int=5), properties={"l": [1, {"deep": [None]}]}),
            b"",
            {"correlation-id": UUID(int=5), "l": [1, {"deep": [None]}]},
        ),
    ],
)
def test_messages_of_strangers_are_read(message: proton.Message, body: bytes, headers: dict[str, Any]) -> None:
    """Values instead of data sections, ids that are no strings, nested properties."""
    decoded = decode_message(bytes(message.encode()))
    assert (decoded.body, decoded.headers) == (body, headers)


def test_the_number_of_deliveries_is_read() -> None:
    """A count, or a message that has been acquired before, says that it comes again."""
    counted = proton.Message(body=b"x", delivery_count=2)
    assert decode_message(bytes(counted.encode()))[4:] == (2, True)
    acquired = b"\x00Sp\xc0\x05\x04@@@B\x00Su\xa0\x01x"
    assert decode_message(acquired)[4:] == (0, True)


def test_sections_named_by_symbols_are_read() -> None:
    """A descriptor may be a symbol as well as a number."""
    assert decode_message(b"\x00\xa3\x10amqp:data:binary\xa0\x02ok").body == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b"\x00Su\xa0\x05four",
        b"\x00Sv\xc0\x01\x00",
        b"\x00Sw\xc1\x01\x00",
        b"\x00Ss\xc0\xff\x01@",
        b"\x00Ss\xc0\x02\x02@",
        b"\x00Ss\xc0\x03\x01\x45\x45",
        b"\x00Ss\xc0\x04\x01\xa1\x02\xff\xff",
        b"\x00St\xc1\x02\x01@",
        b"\x00St\x45",
        b"\x00" * 20_000,
        b"\x00St" + b"\xc1\xff\x02" * 2_000,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """Whatever the bytes are, the error is one that a connection expects."""
    with pytest.raises(Undecodable):
        decode_message(data)


@pytest.mark.parametrize("annotations", [None, {"x-opt-jms-dest": b"\x51\x00"}])
@pytest.mark.parametrize("ids", [{}, {"message-id": "m-1"}, {"correlation-id": "☃"}])
@pytest.mark.parametrize("reply_to", [_NULL, encode_string("reply")])
@pytest.mark.parametrize("size", [0, 255, 256, 70_000])
def test_usual_messages_are_read_by_their_places(
    annotations: dict[str, bytes] | None, ids: dict[str, Any], reply_to: bytes, size: int
) -> None:
    """The short way takes what is usual and gives what the long one gives, and leaves everything else to that."""
    prefix = make_prefix("a/b", annotations)
    data = encode_message(prefix, b"z" * size, ids, reply_to, False, 1.5)
    assert _decode_usual(data) == _decode(data) == decode_message(data)
    for other in (
        encode_message(prefix, b"z" * size, {**ids, "x": 1}, reply_to, False, 1.5),
        encode_message(prefix, b"z" * size, {**ids, "priority": 3}, reply_to, False, 1.5),
        encode_message(prefix, b"z" * size, {**ids, "content-type": "text/plain"}, reply_to, False, 1.5),
        encode_message(prefix, b"z" * size, {**ids, "message-id": "m" * 300}, reply_to, False, 1.5),
        encode_message(prefix, b"z" * size, ids, encode_string("r" * 300), False, 1.5),
        encode_message(prefix, b"z" * size, ids, reply_to, True, None),
        data + b"\x00Su\xa0\x03two",
    ):
        assert _decode_usual(other) is None
        assert decode_message(other) == _decode(other)


_USUAL = encode_message(_PREFIX, b"body", {"message-id": "m-1"}, encode_string("reply"), False, 1.5)


@pytest.mark.parametrize("message", [_GOLDEN, _USUAL])
def test_mutated_messages_do_no_harm(message: bytes) -> None:
    """Ten thousand messages with broken bytes are read or refused, and nothing else is raised; what both ways can read
    is the same.
    """
    chance = random.Random(5)
    for _ in range(10_000):
        data = bytearray(message)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        broken = bytes(data[: chance.randint(1, len(data))] if chance.random() < 0.5 else data)
        try:
            found = decode_message(broken)
        except Undecodable:
            continue
        try:
            assert found == _decode(broken)
        except (ValueError, IndexError):
            # Text that the short way does not look at.
            assert _decode_usual(broken) == found


@pytest.mark.parametrize("value", [2**63, {"a": 1}, [1], object(), b"x"])
def test_headers_that_cannot_be_written_are_named(value: Any) -> None:
    """The error says which header it is, and why."""
    name = "content-type" if value == b"x" else "x-what"
    with pytest.raises(EncodeError, match=name):
        encode_message(_PREFIX, b"", {name: value}, _NULL, False, None)


def test_a_ttl_is_at_least_a_millisecond() -> None:
    """What is left is rounded up: 0 would mean that it never expires."""
    assert decode_message(encode_message(_PREFIX, b"", {}, _NULL, False, 1e-9)).ttl == 0.001


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -1, 127, 128, -129, 2**63 - 1, 0.25, "", "ü" * 200, b"", b"x" * 256]
)
def test_plain_values_come_back(value: Any) -> None:
    """Every size of every plain type."""
    encoded = encode_value(value)
    assert read_value(encoded, 0) == (value, len(encoded))
