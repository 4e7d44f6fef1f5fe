"""The own codec of rabbit:// and kombu://: golden bytes, the same bytes as pika's, and what no frame can do to it."""

from __future__ import annotations

import datetime
import decimal
import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame
from pika import spec as pika_spec

from messaging.drivers.rabbit.frames import FrameReader, FrameWriter
from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.tables import decode_table, encode_table

# pika's generated classes have no annotations.
spec: Any = pika_spec


class Sink:
    """Notes down what a reader tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.other: list[bytes] = []

    def on_message(self, *told: Any) -> None:
        self.told.append(("message", *told))

    def on_unreadable(self, *told: Any) -> None:
        self.told.append(("unreadable", *told))

    def on_returned(self, *told: Any) -> None:
        self.told.append(("returned", *told))

    def on_confirmed(self, *told: Any) -> None:
        self.told.append(("confirmed", *told))


def reader() -> tuple[Sink, FrameReader]:
    sink = Sink()
    return sink, FrameReader(sink, sink.other.append)


def written(properties: Properties, body: bytes, frame_max: int = 131_072) -> bytes:
    out = bytearray()
    FrameWriter(out.extend, frame_max).publish(2, "messaging/a", "x", True, properties, body)
    return bytes(out)


def by_pika(properties: Properties, body: bytes) -> bytes:
    """The same message as pika writes it."""
    theirs = spec.BasicProperties(**{name: getattr(properties, name) for name in properties.__struct_fields__})
    parts = [
        frame.Method(2, spec.Basic.Publish(exchange="messaging/a", routing_key="x", mandatory=True)).marshal(),
        frame.Header(2, len(body), theirs).marshal(),
    ]
    if body:
        parts.append(frame.Body(2, body).marshal())
    return b"".join(parts)


FULL = Properties(
    content_type="text/plain",
    headers={"t": 7},
    delivery_mode=2,
    priority=3,
    correlation_id="c1",
    expiration="5000",
    message_id="m1",
    app_id="app1",
)


def delivery(properties: Properties, body: bytes, *, channel: int = 5, tag: int = 9, redelivered: bool = True) -> bytes:
    """The frames of a delivery, as pika writes them for a broker."""
    theirs = spec.BasicProperties(**{name: getattr(properties, name) for name in properties.__struct_fields__})
    method = spec.Basic.Deliver("1.2.0", tag, redelivered, "messaging/a", "pool/x")
    parts = [frame.Method(channel, method).marshal(), frame.Header(channel, len(body), theirs).marshal()]
    return b"".join([*parts, *([frame.Body(channel, body).marshal()] if body else [])])


def test_a_message_has_the_bytes_that_pika_writes() -> None:
    """Every property, and none of them: byte for byte what pika would have sent."""
    every = Properties(
        content_type="application/x",
        content_encoding="utf-8",
        headers={"text": "ü", "number": -5, "truth": True, "none": None, "list": ["a", 1], "table": {"in": "side"}},
        delivery_mode=2,
        priority=9,
        correlation_id="c-1",
        reply_to="messaging/reply/1",
        expiration="1500",
        message_id="m-1",
        timestamp=1_700_000_000,
        type="kind",
        user_id="guest",
        app_id="app",
    )
    for properties in (every, Properties(), FULL, Properties(headers={})):
        for body in (b"", b"hello"):
            assert written(properties, body) == by_pika(properties, body)


def test_settlements_have_the_bytes_that_pika_writes() -> None:
    """Acknowledging one or many, and rejecting with and without requeueing."""
    out = bytearray()
    writer = FrameWriter(out.extend, 4096)
    writer.ack(3, 2**40, True)
    writer.ack(3, 8, False)
    writer.reject(4, 9, True)
    writer.reject(4, 10, False)
    methods = [
        (3, spec.Basic.Ack(2**40, True)),
        (3, spec.Basic.Ack(8, False)),
        (4, spec.Basic.Reject(9, True)),
        (4, spec.Basic.Reject(10, False)),
    ]
    assert bytes(out) == b"".join(frame.Method(channel, method).marshal() for channel, method in methods)


def test_a_large_body_is_cut_into_frames() -> None:
    """No frame is larger than both sides have agreed on, and the parts are the whole."""
    body = bytes(range(256)) * 100
    data = written(Properties(), body, frame_max=4096)
    sizes = []
    at = 0
    got = b""
    while at < len(data):
        kind, _, size = struct.unpack_from(">BHI", data, at)
        sizes.append(size + 8)
        if kind == 3:
            got += data[at + 7 : at + 7 + size]
        at += size + 8
    assert max(sizes) == 4096
    assert got == body


@pytest.mark.parametrize("step", [1, 3, 7, 8, 64, 10_000])
def test_deliveries_are_read_however_they_are_cut(step: int) -> None:
    """Bytes come in pieces of any size; deliveries, confirmations and returns come out whole and in order."""
    returned = frame.Method(7, spec.Basic.Return(312, "NO_ROUTE", "", "gone")).marshal()
    data = b"".join(
        [
            delivery(FULL, b"first"),
            frame.Method(6, spec.Basic.Ack(12, True)).marshal(),
            delivery(Properties(), b"", tag=10, redelivered=False),
            frame.Heartbeat().marshal(),
            returned
            + frame.Header(7, 2, spec.BasicProperties(message_id="m")).marshal()
            + frame.Body(7, b"hi").marshal(),
            frame.Method(6, spec.Basic.Nack(13, False)).marshal(),
            frame.Method(1, spec.Channel.OpenOk()).marshal(),
        ]
    )
    sink, read = reader()
    for start in range(0, len(data), step):
        read.feed(data[start : start + step])
    assert sink.told == [
        ("message", 5, "1.2.0", 9, True, FULL, b"first"),
        ("confirmed", 6, 12, True, True),
        ("message", 5, "1.2.0", 10, False, Properties(), b""),
        ("returned", 7, 312, "NO_ROUTE", Properties(message_id="m")),
        ("confirmed", 6, 13, False, False),
    ]
    assert sink.other == [frame.Method(1, spec.Channel.OpenOk()).marshal()]


def test_bodies_of_two_channels_may_alternate() -> None:
    """Frames of one message need not follow each other; each channel has its own."""
    one = delivery(Properties(), b"11", channel=1, tag=1)
    two = delivery(Properties(), b"22", channel=2, tag=2)
    head = len(one) - len(frame.Body(1, b"11").marshal())
    sink, read = reader()
    read.feed(one[:head] + two[:head] + one[head:] + two[head:])
    assert [(told[1], told[6]) for told in sink.told] == [(1, b"11"), (2, b"22")]


def test_properties_that_are_none_harm_their_message_alone() -> None:
    """A header whose properties cannot be read is told as such; the next message is read."""
    whole = delivery(Properties(message_id="abc"), b"x")
    broken = whole.replace(b"\x03abc", b"\x09abc")
    sink, read = reader()
    read.feed(broken + whole)
    assert sink.told[0] == ("unreadable", 5, "1.2.0", 9)
    assert sink.told[1][0] == "message"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "kind of frame"),
        (b"AMQP\x00\x01\x00\x00", "1.0.0"),
        (b"\x01\x00\x01\x00\x00\x00\x04\x00\x14\x00\x0b\x00", "does not end"),
    ],
)
def test_what_are_no_frames_is_told(data: bytes, reason: str) -> None:
    """Another protocol, or a broken stream, is an error with its reason and not a wait for more."""
    _, read = reader()
    with pytest.raises(ValueError, match=reason):
        read.feed(data)


def test_ten_thousand_mutated_deliveries_do_no_harm() -> None:
    """Whatever a byte is changed into, a reader tells or raises ValueError and nothing else, and takes no memory."""
    choice = random.Random(7)
    whole = delivery(FULL, b"body") + frame.Method(6, spec.Basic.Ack(12, True)).marshal()
    for _ in range(10_000):
        data = bytearray(whole)
        for _ in range(choice.randrange(1, 4)):
            data[choice.randrange(len(data))] = choice.randrange(256)
        _, read = reader()
        read.frame_max = 131_072
        try:
            read.feed(bytes(data))
        except (ValueError, IndexError, struct.error):
            continue


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=20), _VALUES, max_size=4))
def test_tables_come_back_as_they_were(values: dict[str, Any]) -> None:
    """Every header that may be written is read again as the same value."""
    data = encode_table(values)
    assert decode_table(data, 0) == (values, len(data))


def test_times_and_decimals_come_back() -> None:
    """What other clients put into headers: times to the second, decimals to their last digit."""
    values = {"at": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "much": decimal.Decimal("-12.345")}
    data = encode_table(values)
    assert decode_table(data, 0)[0] == values


def test_what_cannot_be_a_header_is_named() -> None:
    """The error says which header it was, and what it was."""
    with pytest.raises(ValueError, match="header 'odd': object cannot be a header"):
        encode_table({"fine": 1, "odd": object()})
    with pytest.raises(ValueError, match="header 'large'"):
        encode_table({"large": 2**70})
