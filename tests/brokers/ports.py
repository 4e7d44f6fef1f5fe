"""Ports that a server can keep through restarts.

A port that the kernel picks (bind to 0) is one that it may give to the next outgoing connection while our server is
down. So these lie below the kernel's range, are tried before use, and are not given twice by one process.
"""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_LOWEST, _HIGHEST = 10_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port on which nobody listens on 127.0.0.1; another one at each call."""
    choice = random.SystemRandom()
    while True:
        port = choice.randrange(_LOWEST, _HIGHEST)
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers do: a port with old connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                # Somebody else's; try the next one.
                continue
        _given.add(port)
        return port
