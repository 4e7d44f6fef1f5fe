"""The TCP sockets of this process by their ports, whoever keeps them: what a client library does not show."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager

__all__ = ["tcp_sockets"]


@contextmanager
def tcp_sockets(*, local: Collection[int] = (), remote: Collection[int] = ()) -> Iterator[list[socket.socket]]:
    """Every connected TCP socket with one of these ports at its own or at its other end.

    They are duplicates, closed when the block ends, so that nobody's descriptor is closed by this.
    """
    found: list[socket.socket] = []
    seen: set[int] = set()
    try:
        for entry in os.listdir("/proc/self/fd"):
            try:
                number = os.dup(int(entry))
            except OSError:
                # It was closed meanwhile.
                continue
            about = os.fstat(number)
            # The descriptor of this listing is closed by now, and its number given to the first duplicate.
            if not stat.S_ISSOCK(about.st_mode) or about.st_ino in seen:
                os.close(number)
                continue
            seen.add(about.st_ino)
            candidate = socket.socket(fileno=number)
            if _has_port(candidate, local, remote):
                found.append(candidate)
            else:
                candidate.close()
        yield found
    finally:
        for each in found:
            each.close()


def _has_port(candidate: socket.socket, local: Collection[int], remote: Collection[int]) -> bool:
    if candidate.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        peer = candidate.getpeername()[1]
        return peer in remote or candidate.getsockname()[1] in local
    except OSError:
        # It listens, or has been shut down.
        return False
