"""ZeroMQ under test: every scenario has a directory of its own for discovery, so it is alone."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from pathlib import Path
from typing import Any

from messaging.testing.conformance import Subject

__all__ = ["zmq"]


def _unreachable_zmq() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"zmq+static://127.0.0.1:{port}/"


def _cut_zmq(connection: Any) -> None:
    """Shut down the TCP connections behind a driver's connection: those to its peers, and those to its own port."""
    ports = {_port(peer.record.endpoint) for peer in connection._peers.open}
    own = _port(connection._callers.endpoint)
    for entry in os.listdir("/proc/self/fd"):
        try:
            # A duplicate, so that what is closed here is not ZeroMQ's own descriptor.
            number = os.dup(int(entry))
        except OSError:
            # It was the one of this listing, or was closed meanwhile.
            continue
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            os.close(number)
            continue
        with socket.socket(fileno=number) as tcp:
            try:
                local, remote = tcp.getsockname()[1], tcp.getpeername()[1]
            except (OSError, IndexError):
                continue
            if tcp.family == socket.AF_INET and (remote in ports or local == own):
                tcp.shutdown(socket.SHUT_RDWR)


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2]) if endpoint else -1


def zmq(root: Path) -> Subject:
    """ZeroMQ on this machine, each scenario with a directory of its own."""
    return Subject(
        lambda: f"zmq+local://{root / secrets.token_hex(6)}",
        name="zmq",
        disconnect=_cut_zmq,
        unreachable=_unreachable_zmq,
        limited={"max_message": 131_072},
    )
