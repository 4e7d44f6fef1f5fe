"""A TCP connection, with or without TLS, that never blocks, and the one descriptor by which its owner waits.

It knows no protocol: bytes come and go. Writes are gathered and leave with `flush`; what the system does not take
stays here, and is the mark by which more is held back above. The descriptor is an epoll instance (so it stays the same
over reconnects) that watches the socket and a wake-up.

With TLS one read may leave decrypted bytes behind that no descriptor tells of, so reading goes on until nothing is
left; without, one read per wake-up is enough, because the descriptor stays readable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
from collections import deque
from typing import Any

from messaging.drivers.wakeup import WakeUp

__all__ = ["Stream"]

_READ = 64 * 1024
_NOT_YET = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY})

Place = tuple[int, int, int, str, Any]
"""One line of getaddrinfo: family, type, protocol, canonical name, address."""


class Stream:
    """One descriptor for all lives of a connection; one socket at a time. Only `wake` may be called from elsewhere."""

    __slots__ = (
        "_connected",
        "_context",
        "_ends",
        "_epoll",
        "_interest",
        "_least",
        "_room",
        "_secured",
        "_server_name",
        "_socket",
        "_tls",
        "_wakeup",
        "coalesce",
        "given",
        "reads",
        "taken",
        "unwritten",
        "writes",
    )

    def __init__(self, coalesce: bool = True) -> None:
        self._wakeup = WakeUp()
        self._epoll = select.epoll()
        self._epoll.register(self._wakeup.descriptor, select.EPOLLIN)
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLSocket | None = None
        self._connected = False
        self._secured = False
        self._interest = 0
        self._least = 1
        """For how many bytes the socket wakes up."""
        self._context: ssl.SSLContext | None = None
        self._server_name = ""
        self.unwritten = bytearray()
        """What waits for the system to take it."""
        # One for all reads: bytes of this size come from mmap, are shrunk, and go back by munmap, 15 to 60 µs per read.
        self._room = memoryview(bytearray(_READ))
        self.coalesce = coalesce
        self._ends: deque[int] = deque()
        """Where each piece ends that waits, counted like `given`; without coalescing alone."""
        self.given = 0
        """Bytes that were handed to `write` in this life of the socket."""
        self.taken = 0
        """Bytes of those that the system has taken."""
        self.reads = 0
        self.writes = 0

    # Waiting

    def fileno(self) -> int:
        """The descriptor; the same until `dispose`."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """End a wait, or keep the next one from waiting. Thread-safe, and safe in a signal handler."""
        self._wakeup.ring()

    def wait(self, seconds: float, least: int = 1) -> bool:
        """Wait at most `seconds` for the socket or a wake-up; returns whether the socket has something.

        `least`: for how many bytes to wake up; it is worth looking for fewer when the time is over.
        """
        if least != self._least and self._socket is not None:
            self._least = least
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        found = self._epoll.poll(seconds)
        ready = least > 1 and not found
        for descriptor, _ in found:
            if descriptor == self._wakeup.descriptor:
                self._wakeup.silence()
            else:
                ready = True
        return ready

    # Connecting

    @property
    def socket_number(self) -> int:
        """The descriptor of the socket, for tests that do something to it; -1: there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    @property
    def open(self) -> bool:
        """Whether there is a socket, connected or not."""
        return self._socket is not None

    def connect(self, place: Place, context: ssl.SSLContext | None, server_name: str) -> None:
        """Begin to connect to one address. Raises OSError."""
        family, kind, protocol, _, address = place
        self.drop()
        tcp = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            tcp.setblocking(False)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = tcp.connect_ex(address)
            if code and code not in _NOT_YET:
                raise OSError(code, os.strerror(code))
        except BaseException:
            tcp.close()
            raise
        self._socket = tcp
        self._least = 1
        self._connected = self._secured = False
        self._watch(select.EPOLLOUT)
        self._context = context
        self._server_name = server_name

    def advance(self) -> bool:
        """Go on connecting; returns whether bytes can go both ways. Raises OSError, or ssl.SSLError, which is one."""
        tcp = self._socket
        if tcp is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        if not self._connected:
            code = tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            try:
                tcp.getpeername()
            except OSError:
                return False
            self._connected = True
            if self._context is not None:
                self._epoll.unregister(tcp)
                self._interest = 0
                self._tls = self._socket = self._context.wrap_socket(
                    tcp, server_hostname=self._server_name, do_handshake_on_connect=False
                )
        if self._tls is not None and not self._secured:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._watch(select.EPOLLIN)
                return False
            except ssl.SSLWantWriteError:
                self._watch(select.EPOLLOUT)
                return False
        self._secured = True
        self._watch(select.EPOLLIN)
        return True

    def drop(self) -> None:
        """Close the socket and forget what was not written."""
        if self._socket is not None:
            if self._interest:
                self._epoll.unregister(self._socket)
                self._interest = 0
            self._socket.close()
        self._socket = self._tls = None
        self._connected = self._secured = False
        self.unwritten = bytearray()
        self._ends.clear()
        self.given = self.taken = 0

    def shut_down(self) -> None:
        """Break the connection as an accident would, for tests; one that is broken already is left alone."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def dispose(self) -> None:
        """Give back everything. The descriptor is gone after it."""
        self.drop()
        self._epoll.close()

    def _watch(self, interest: int) -> None:
        if interest == self._interest or self._socket is None:
            return
        if self._interest:
            self._epoll.modify(self._socket, interest)
        else:
            self._epoll.register(self._socket, interest)
        self._interest = interest

    # Bytes

    def write(self, data: bytes | memoryview) -> None:
        """Append to what the next flush writes."""
        self.unwritten += data
        self.given += len(data)
        if not self.coalesce:
            self._ends.append(self.given)

    def flush(self) -> None:
        """Write as much as the system takes without waiting. Raises OSError when the connection is gone."""
        out = self.unwritten
        if not out or not self._secured or self._socket is None:
            return
        sent = 0
        try:
            if self.coalesce:
                self.writes += 1
                sent = self._socket.send(out)
            else:
                sent = self._send_by_piece(self._socket, out)
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLWantReadError:
            # A renegotiation; reading goes on anyway.
            self._watch(select.EPOLLIN)
            return
        self.taken += sent
        if sent == len(out):
            # A new one: a bytearray that once was large keeps its memory.
            self.unwritten = bytearray() if sent > _READ else out
            out.clear()
            if self._interest != select.EPOLLIN:
                self._watch(select.EPOLLIN)
        else:
            del out[:sent]
            self._watch(select.EPOLLIN | select.EPOLLOUT)

    def _send_by_piece(self, tcp: socket.socket, out: bytearray) -> int:
        """Send one piece, as it was handed to `write`, at a time; returns how many bytes were taken."""
        sent = 0
        while self._ends:
            piece = self._ends[0] - self.taken - sent
            self.writes += 1
            try:
                taken = tcp.send(out[sent : sent + piece])
            except (BlockingIOError, ssl.SSLWantWriteError):
                break
            sent += taken
            if taken < piece:
                break
            self._ends.popleft()
        return sent

    def read(self) -> bytes:
        """Take what has come, b"" for nothing. Raises EOFError at the end, OSError when the connection is gone."""
        if self._socket is None:
            return b""
        self.reads += 1
        room = self._room
        try:
            count = self._socket.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        if not count:
            raise EOFError("the other side has closed the connection")
        data = bytes(room[:count])
        if self._tls is None or not self._tls.pending():
            return data
        parts = [data]
        while self._tls.pending():
            parts.append(bytes(room[: self._tls.recv_into(room)]))
        return b"".join(parts)
