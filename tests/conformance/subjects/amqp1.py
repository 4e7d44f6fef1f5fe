"""AMQP 1.0 under test: one subject for each kind of peer, on a real server."""

from __future__ import annotations

import socket
from typing import Any

from messaging.testing.conformance import Subject

__all__ = ["amqp1"]


def _unreachable() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return f"amqp1://127.0.0.1:{port}"


def amqp1(name: str, url: str) -> Subject:
    """A peer at a URL, with every hook."""
    profile = name.removeprefix("amqp1-")
    return Subject(
        url,
        name=name,
        options={"profile": profile, "durable": profile != "broker-j"},
        disconnect=lambda connection: _cut(connection),
        unreachable=_unreachable,
        limited={"max_body": 131_072},
    )


def _cut(connection: Any) -> None:
    try:
        connection.cut()
    except OSError:
        # It is broken already.
        return
