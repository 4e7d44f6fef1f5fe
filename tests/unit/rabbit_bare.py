"""A connection of the RabbitMQ drivers with nothing above it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from messaging.drivers.base import Role
from messaging.testing.conformance.bare import Bare

__all__ = ["bare"]


@contextmanager
def bare(broker: Any, role: Role, scheme: str = "rabbit", **options: Any) -> Iterator[Bare]:
    """A connection of a driver, connected."""
    made = Bare(broker.url_for(scheme), role, options)
    try:
        made.connect()
        yield made
    finally:
        made.close()
