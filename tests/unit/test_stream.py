"""The socket of the drivers that drive one: what one write to the system holds, and what is left when it takes less."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from messaging.drivers.stream import Stream


@contextmanager
def connected(coalesce: bool = True) -> Iterator[tuple[Stream, socket.socket]]:
    """A stream, and the other end of its connection."""
    stream = Stream(coalesce)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = server.getsockname()
        stream.connect((socket.AF_INET, socket.SOCK_STREAM, 0, "", address), None, "")
        other, _ = server.accept()
    with closing(other):
        other.settimeout(10)
        while not stream.advance():
            stream.wait(1)
        try:
            yield stream, other
        finally:
            stream.dispose()


def everything(other: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += other.recv(1 << 20)
    return data


@pytest.mark.parametrize(("coalesce", "writes"), [(True, 1), (False, 3)])
def test_pieces_leave_together_or_one_by_one(coalesce: bool, writes: int) -> None:
    """Nothing leaves before the flush; then it is one write to the system, or one for each piece."""
    with connected(coalesce) as (stream, other):
        for piece in (b"one", b"two", b"three"):
            stream.write(piece)
        assert (stream.writes, bytes(stream.unwritten)) == (0, b"onetwothree")
        stream.flush()
        assert (stream.writes, stream.taken, len(stream.unwritten)) == (writes, 11, 0)
        assert everything(other, 11) == b"onetwothree"


@pytest.mark.parametrize("coalesce", [True, False])
def test_what_the_system_does_not_take_stays_in_order(coalesce: bool) -> None:
    """Pieces of which the system takes a part come out whole, in order, as the other side reads."""
    pieces = [bytes((number,)) * 300_000 for number in range(40)]
    with connected(coalesce) as (stream, other):
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        assert 0 < stream.taken < stream.given
        assert len(stream.unwritten) == stream.given - stream.taken
        data = b""
        while stream.unwritten:
            data += other.recv(1 << 20)
            stream.flush()
        data += everything(other, stream.given - len(data)) if len(data) < stream.given else b""
        assert stream.taken == stream.given
        assert data == b"".join(pieces)


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_broken_connection_shows_at_the_flush_alone(coalesce: bool) -> None:
    """Who hands over bytes is never told of the socket: whoever flushes is."""
    with connected(coalesce) as (stream, _other):
        stream.shut_down()
        stream.write(b"a")
        stream.write(b"b")
        with pytest.raises(OSError):
            stream.flush()


def test_much_that_has_come_is_read_piece_by_piece() -> None:
    """One read takes what fits into its room, and the descriptor tells of the rest."""
    sent = bytes(range(256)) * 2000
    with connected() as (stream, other):
        other.sendall(sent)
        data = b""
        while len(data) < len(sent):
            assert stream.wait(10)
            data += stream.read()
        assert data == sent
        other.close()
        assert stream.wait(10)
        with pytest.raises(EOFError):
            stream.read()


def test_a_few_bytes_need_not_end_a_wait() -> None:
    """Fewer bytes than are wanted are told of when the time is over, or at once when fewer are wanted; enough of them,
    and the end of the connection, end the wait.
    """
    with connected() as (stream, other):
        other.sendall(b"few")
        begun = time.monotonic()
        assert stream.wait(0.05, 40)
        assert time.monotonic() - begun >= 0.05
        assert stream.wait(10)
        assert stream.read() == b"few"
        begun = time.monotonic()
        other.sendall(b"x" * 40)
        assert stream.wait(10, 40)
        assert stream.read() == b"x" * 40
        stream.wake()
        assert not stream.wait(10, 40)
        other.close()
        assert stream.wait(10, 40)
        assert time.monotonic() - begun < 5
        with pytest.raises(EOFError):
            stream.read()
