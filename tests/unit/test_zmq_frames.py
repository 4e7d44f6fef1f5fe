"""The bytes of the ZeroMQ driver: golden ones, which every later version has to read, and any others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.drivers.zmq.frames import (
    BUSY,
    PROBE,
    REJECTED,
    Batch,
    Bye,
    Frame,
    Hello,
    Table,
    Welcome,
    decode,
    encode,
    sources_from_rows,
    sources_to_rows,
)
from messaging.errors import DecodeError
from messaging.message import Source, SourceKind

GOLDEN: list[tuple[Frame, str]] = [
    (
        Batch([(7, 2, 1, 1.5, {"message-id": "a"}, b"body")], [3, 4], [(5, BUSY, ""), (6, REJECTED, "no")], 0, 12.5),
        "96009196070201cb3ff800000000000081aa6d6573736167652d6964a161c404626f647992030492930500a0930603a26e6f00"
        "cb4029000000000000",
    ),
    (Batch([(0, 0, 0, None, {}, 1)], [], [], 1), "96009196000000c08001909001cb0000000000000000"),
    (
        Hello("messaging", 1, 1, "0a", "0b", 1024, 12.5),
        "9801a96d6573736167696e670101a23061a23062cd0400cb4029000000000000",
    ),
    (
        Welcome(1, "0b", 1024, 3, [(1, "any", "e", "t", "", "")], 1, 1),
        "980201a23062cd040003919601a3616e79a165a174a0a00101",
    ),
    (Table(4, [(2, "pools", "e", "t", "", "p")]), "930304919602a5706f6f6c73a165a174a0a170"),
    (Bye(9, "idle"), "930409a469646c65"),
]


@pytest.mark.parametrize(("frame", "golden"), GOLDEN)
def test_golden_bytes(frame: Frame, golden: str) -> None:
    """The bytes of version 1 are these, and are read back as the same values."""
    assert encode(frame).hex() == golden
    assert decode(bytes.fromhex(golden)) == frame


def test_a_batch_may_be_short() -> None:
    """Empty ends of a batch may be left out, and a tuple says the same as the struct."""
    assert encode((0, [])) == PROBE == bytes.fromhex("920090")
    assert decode(PROBE) == Batch([])
    assert decode(encode((0, [], [1]))) == Batch([], [1])
    assert decode(encode((1, "messaging", 1, 1, "0a", "0b", 9))) == Hello("messaging", 1, 1, "0a", "0b", 9, 0.0)


def test_fields_of_a_later_version_are_ignored() -> None:
    """What a newer peer appends to a frame does not matter to this version."""
    assert decode(encode((4, 9, "idle", "new", {"more": 1}))) == Bye(9, "idle")


def test_rows_of_an_unknown_kind_are_left_out() -> None:
    """A source of a kind that only a newer version knows cannot be sent to, and breaks nothing."""
    rows = [(1, "any", "e", "t", "", ""), (2, "stream", "e", "t", "", "")]
    assert sources_from_rows(rows) == {1: Source(SourceKind.ANY, "e", "t")}


sources = st.builds(Source, st.sampled_from(SourceKind), st.text(), st.text(), st.text(), st.text())


@given(st.dictionaries(st.integers(1, 2**31), sources))
def test_sources_travel_unchanged(served: dict[int, Source]) -> None:
    """What is served is read as it was written."""
    assert sources_from_rows(sources_to_rows(served.items())) == served


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
messages = st.tuples(
    st.integers(0, 2**63),
    st.integers(0, 2**31),
    st.integers(0, 255),
    st.none() | st.floats(0, 1e9),
    st.dictionaries(st.text(), values),
    st.binary() | st.integers(1, 8),
)


@given(
    st.lists(messages, max_size=4),
    st.lists(st.integers(1, 2**63), max_size=4),
    st.lists(st.tuples(st.integers(1, 2**63), st.integers(0, 3), st.text()), max_size=4),
)
def test_batches_travel_unchanged(sent: list[Any], accepted: list[int], refused: list[tuple[int, int, str]]) -> None:
    """Any batch is read as it was written."""
    assert decode(encode((0, sent, accepted, refused, 0))) == Batch(sent, accepted, refused)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    """Bytes of a stranger end as a frame or as DecodeError, never as anything else."""
    try:
        decode(data)
    except DecodeError:
        pass


@given(st.sampled_from([bytes.fromhex(golden) for _frame, golden in GOLDEN]), st.data())
def test_mutated_frames_are_decoded_or_refused(golden: bytes, data: st.DataObject) -> None:
    """Frames with bytes changed, cut or added do no harm either."""
    mutated = bytearray(golden)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated)))
        mutated[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        decode(bytes(mutated))
    except DecodeError:
        pass


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdd\xff\xff\xff\xff"])
def test_deep_and_huge_nesting_is_refused(opening: bytes) -> None:
    """Nesting deeper than the interpreter's stack, and lengths beyond the data, are refused like other nonsense."""
    with pytest.raises(DecodeError):
        decode(b"\x92\x00\x91\x96\x01\x01\x01\xc0\x81\xa1x" + opening * 100_000)
