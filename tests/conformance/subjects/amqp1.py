"""AMQP 1.0 under test: one subject for each kind of peer; every scenario has topics of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from messaging.testing.conformance import Subject, silenced
from tests.brokers.ports import free_port

__all__ = ["amqp1"]


def _cut(connection: Any) -> None:
    """Break the socket of a driver's connection under it."""
    connection.stream.shut_down()


def _stalled(connection: Any) -> AbstractContextManager[None]:
    """Let the socket of a driver's connection hear nothing more."""
    return silenced([connection.stream.socket_number])


def amqp1(profile: str, url: str, **options: Any) -> Subject:
    """The driver over a running peer of a kind, with every hook."""
    return Subject(
        url,
        name=f"amqp1-{profile}",
        options={"profile": profile, **options},
        disconnect=_cut,
        unreachable=lambda: f"amqp1://127.0.0.1:{free_port()}/",
        limited={"max_body": 131_072},
        stall=_stalled,
        heartbeat={"heartbeat": 1},
    )
