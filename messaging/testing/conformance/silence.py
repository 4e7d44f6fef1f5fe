"""Silence on a TCP connection: nothing more arrives at its socket, no end of the connection either, as behind a cable
that was pulled.

A socket filter of the kernel drops every packet before TCP sees it. It needs no privilege, no proxy and no second
process, works on a socket that a library keeps to itself (by its descriptor), and leaves every other connection alone,
so that a driver may reconnect to the same peer meanwhile. When it is over TCP sends again what was dropped, and the
connection goes on. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["HasDescriptor", "silenced"]

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""One instruction of the classic packet filter: return 0, which keeps no byte."""


class HasDescriptor(Protocol):
    """A socket, or what stands for one."""

    def fileno(self) -> int:
        """Return its descriptor."""


@contextmanager
def silenced(sockets: Iterable[HasDescriptor | int]) -> Iterator[None]:
    """Let connected TCP sockets of this process (or their descriptors) hear nothing more while the block lasts.

    What they write still leaves; silence both ends for both directions. One that its owner closes meanwhile stays
    open in the kernel until the block ends, so that its peer hears no end either.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    everything = struct.pack("HP", 1, ctypes.addressof(program))
    held: list[socket.socket] = []
    try:
        for each in sockets:
            # A duplicate: the number of a descriptor that its owner closes would soon be another file's.
            duplicate = socket.socket(fileno=os.dup(each if isinstance(each, int) else each.fileno()))
            held.append(duplicate)
            duplicate.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, everything)
        yield
    finally:
        for duplicate in held:
            duplicate.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            duplicate.close()
