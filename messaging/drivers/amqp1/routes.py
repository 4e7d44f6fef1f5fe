"""What messages of one route have in common: the sending link that takes them, and how they begin. State only; what is
done with it stands in sending.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from messaging.backoff import Backoff
from messaging.drivers.amqp1.encoding import Prefix
from messaging.drivers.amqp1.engine import Pointer
from messaging.drivers.outbox import Outbox
from messaging.message import RouteKind

__all__ = ["Plan", "SendLink"]


class SendLink:
    """A sending link, and what waits for it."""

    __slots__ = (
        "address",
        "backoff",
        "capabilities",
        "credit",
        "detour_at",
        "detoured",
        "granted",
        "link",
        "outbox",
        "retry_at",
        "settled",
    )

    def __init__(self, address: str | None, capabilities: tuple[str, ...], settled: bool, backoff: Backoff) -> None:
        self.address = address
        """None: each message says where it goes."""
        self.capabilities = capabilities
        self.settled = settled
        """Nobody says what became of its messages. A link of its own, because Broker-J drops the connection of one
        that mixes both.
        """
        self.link: Pointer = None
        self.credit = 0
        self.outbox = Outbox()
        self.backoff = backoff
        self.retry_at = math.inf
        self.granted = False
        """It has had credit since it was attached."""
        self.detour_at = math.inf
        self.detoured = False
        """Some routes have left it for links of their own."""


class Plan(NamedTuple):
    """What all messages of one route have in common."""

    link: SendLink
    prefix: Prefix
    address: str
    kind: RouteKind
    durable: bool
