"""RabbitMQ through pika under test: one broker, on which every scenario has topics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from messaging.testing.conformance import Subject, silenced
from tests.brokers.ports import free_port

__all__ = ["rabbit"]


def _cut(connection: Any) -> None:
    """Break the socket of a driver's connection under it."""
    connection.stream.shut_down()


def _stalled(connection: Any) -> AbstractContextManager[None]:
    """Let the socket of a driver's connection hear nothing more."""
    return silenced([connection.stream.socket_number])


def rabbit(broker: Any, scheme: str = "rabbit", **options: Any) -> Subject:
    """The driver over a running broker, with every hook."""

    @contextmanager
    def blocked(_connection: Any) -> Iterator[None]:
        broker.block()
        try:
            yield
        finally:
            broker.unblock()

    return Subject(
        broker.url if scheme == "rabbit" else broker.url_for(scheme),
        name=scheme,
        options=options,
        disconnect=_cut,
        unreachable=lambda: f"{scheme}://127.0.0.1:{free_port()}/",
        limited={"max_body": 131_072},
        block=blocked,
        stall=_stalled,
        heartbeat={"heartbeat": 1},
    )
