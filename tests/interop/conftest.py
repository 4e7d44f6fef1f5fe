"""The predecessor's process, and transports of ours that speak its wire; one broker for all."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import messaging
from tests.faults.processes import Worker

__all__ = ["Peer"]


class Peer(Worker):
    """One process of the real package."""

    package = "tests.interop"

    def __init__(self, url: str) -> None:
        super().__init__("peer", url=url)
        try:
            self.expect("ready")
        except BaseException:
            self.close()
            raise

    def heard(self, number: int) -> list[dict[str, Any]]:
        """The next so many notifications that its listeners were given."""
        return [self.expect("heard") for _ in range(number)]


@pytest.fixture(scope="session")
def peer(rabbit_broker: Any) -> Iterator[Peer]:
    """The predecessor on RabbitMQ, for the whole session: its tests use topics of their own."""
    process = Peer(rabbit_broker.url)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"topic-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["rabbit", "kombu"])
def opened(request: pytest.FixtureRequest, rabbit_broker: Any) -> Iterator[Callable[..., messaging.Transport]]:
    """Opens transports on the predecessor's wire, through each client library; they are closed at the end."""
    transports: list[messaging.Transport] = []

    def opening(**options: Any) -> messaging.Transport:
        url = rabbit_broker.url.replace("rabbit://", f"{request.param}://", 1)
        transports.append(messaging.open_transport(url, wire="oslo", **options))
        return transports[-1]

    yield opening
    for transport in transports:
        transport.close()


@pytest.fixture
def transport(opened: Callable[..., messaging.Transport]) -> messaging.Transport:
    """One of them."""
    return opened()
