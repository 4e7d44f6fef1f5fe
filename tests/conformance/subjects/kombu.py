"""kombu under test: RabbitMQ by py-amqp, and redis."""

from __future__ import annotations

import socket
from typing import Any

from messaging.testing.conformance import Subject, silenced
from tests.brokers.ports import free_port
from tests.conformance.subjects.rabbit import rabbit

__all__ = ["kombu", "kombu_redis"]


def kombu(broker: Any) -> Subject:
    """RabbitMQ; what can be done to a connection is the same as for rabbit://."""
    return rabbit(broker, "kombu")


def _sockets(connection: Any) -> list[socket.socket]:
    """Every TCP connection of a connection to redis: of its pools, and of what waits."""
    session = connection._session
    pools = () if session is None else (session._channel.pool, session._channel.async_pool)
    found = [each._sock for pool in pools for each in [*pool._available_connections, *pool._in_use_connections]]
    return [tcp for tcp in found if tcp is not None]


def _cut(connection: Any) -> None:
    for tcp in _sockets(connection):
        try:
            tcp.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It is not connected any more.
            continue


def kombu_redis(url: str) -> Subject:
    """Redis at a URL, redis://host:port/database."""
    return Subject(
        f"kombu+{url}",
        name="kombu+redis",
        # What was in hand at a cut comes again within these seconds, and they are waited for.
        options={"visibility_timeout": 1.5, "heartbeat": 2.0},
        disconnect=_cut,
        stall=lambda connection: silenced(_sockets(connection)),
        heartbeat={"heartbeat": 1.0, "socket_timeout": 1.0},
        unreachable=lambda: f"kombu+redis://127.0.0.1:{free_port()}/",
        limited={"max_body": 131_072},
    )
