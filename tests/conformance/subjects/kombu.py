"""kombu under test: RabbitMQ by py-amqp, and redis."""

from __future__ import annotations

import socket
from typing import Any

from messaging.testing.conformance import Subject

__all__ = ["kombu_redis"]


def _nobody(scheme: str) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"{scheme}://127.0.0.1:{port}/"


def _cut_redis(connection: Any) -> None:
    """Shut down every TCP connection of a connection to redis: of its pools, and of what waits."""
    session = connection._session
    if session is None:
        return
    for pool in (session._channel.pool, session._channel.async_pool):
        for each in [*pool._available_connections, *pool._in_use_connections]:
            tcp = each._sock
            if tcp is not None:
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
        disconnect=_cut_redis,
        unreachable=lambda: _nobody("kombu+redis"),
        limited={"max_body": 131_072},
    )
