"""The reference driver under test: everything that can happen to it is asked of its hub."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from messaging.drivers.memory import hub
from messaging.errors import ConnectFailed
from messaging.testing.conformance import Subject

__all__ = ["memory"]

_refusing: list[Any] = []
"""Hubs are kept by whoever holds them; these have to be there before anybody connects."""


def _memory_url() -> str:
    return f"memory://conformance-{secrets.token_hex(6)}"


def _cut_memory(connection: Any) -> None:
    connection.hub.faults.disconnect(connection.address)


@contextmanager
def _blocked_memory(connection: Any) -> Iterator[None]:
    connection.hub.faults.block(connection.address)
    yield
    connection.hub.faults.unblock(connection.address)


@contextmanager
def _stalled_memory(connection: Any) -> Iterator[None]:
    connection.hub.faults.silence(connection.address)
    yield
    connection.hub.faults.resume(connection.address)


def _unreachable_memory() -> str:
    name = f"unreachable-{secrets.token_hex(6)}"
    refusing = hub(name)
    refusing.faults.refuse_connections(ConnectFailed("nobody is there"))
    _refusing.append(refusing)
    return f"memory://{name}"


def memory() -> Subject:
    """The reference driver, with every hook."""
    return Subject(
        _memory_url,
        name="memory",
        disconnect=_cut_memory,
        unreachable=_unreachable_memory,
        limited={"max_body": 131_072},
        block=_blocked_memory,
        stall=_stalled_memory,
        heartbeat={"heartbeat": 1.0},
    )
