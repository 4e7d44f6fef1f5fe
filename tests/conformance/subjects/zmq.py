"""ZeroMQ under test: every scenario has a directory of its own for discovery, so it is alone."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from messaging.testing.conformance import Subject, silenced
from tests.brokers.ports import free_port
from tests.conformance.subjects.sockets import tcp_sockets

__all__ = ["zmq"]


def _ports(connection: Any) -> dict[str, set[int]]:
    """Those of a driver's connection: of its peers, and its own."""
    return {
        "remote": {_port(peer.record.endpoint) for peer in connection._peers.open},
        "local": {_port(connection._callers.endpoint)},
    }


def _cut_zmq(connection: Any) -> None:
    """Shut down the TCP connections behind a driver's connection: those to its peers, and those to its own port."""
    with tcp_sockets(**_ports(connection)) as sockets:
        for each in sockets:
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def _stalled_zmq(connection: Any) -> Iterator[None]:
    """Silence the same connections, at both ends where both are here."""
    ports = _ports(connection)
    both = ports["remote"] | ports["local"]
    with tcp_sockets(local=both, remote=both) as sockets, silenced(sockets):
        yield


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2]) if endpoint else -1


def zmq(root: Path) -> Subject:
    """ZeroMQ on this machine, each scenario with a directory of its own."""
    return Subject(
        lambda: f"zmq+local://{root / secrets.token_hex(6)}",
        name="zmq",
        disconnect=_cut_zmq,
        unreachable=lambda: f"zmq+static://127.0.0.1:{free_port()}/",
        limited={"max_message": 131_072},
        stall=_stalled_zmq,
        heartbeat={"heartbeat": 1.0},
    )
