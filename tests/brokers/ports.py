"""Ports that a server can keep through restarts, and ports at which nobody is.

A port that the kernel picks (bind to 0) is one that it may give to the next outgoing connection while our server is
down. So these lie below the kernel's range, are tried before use, and are not given twice: not by one process, and not
by two that run tests side by side, because each claims them by a name that the kernel frees when it ends.
"""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_LOWEST, _HIGHEST = 10_000, 32_000
_claims: list[socket.socket] = []
"""Bound in the abstract namespace of Unix sockets, one for each port; held for as long as this process lives."""


def free_port() -> int:
    """Return a TCP port on which nobody listens on 127.0.0.1; another one at each call, in whichever process."""
    choice = random.SystemRandom()
    while True:
        port = choice.randrange(_LOWEST, _HIGHEST)
        if _claimed(port) and _free(port):
            return port


def _claimed(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0messaging-test-port-{port}")
    except OSError:
        # Given before, by this process or another one.
        claim.close()
        return False
    _claims.append(claim)
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port with old connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            # Somebody else's.
            return False
    return True
