"""The hub's end of a connection: what passes between the hub and the connection's owner.

Data alone, guarded by the hub's lock. The hub writes here and rings; the connection picks it up when it pumps.
"""

from __future__ import annotations

import os

from messaging.deadline import Clock
from messaging.drivers.memory.queue import Queue, Subscription
from messaging.drivers.memory.wakeup import Wakeup
from messaging.message import Outgoing, SentResult, Source

__all__ = ["Link"]


class Link:
    """One connection, as the hub sees it. It is the same one over reconnects, so that its address stays."""

    __slots__ = (
        "address",
        "answers",
        "attached",
        "cut_by",
        "held",
        "hot",
        "lingering",
        "max_queue",
        "open",
        "replies",
        "stalled",
        "subscriptions",
        "unconfirmed",
        "unprocessed",
        "urgent",
        "wakeup",
    )

    def __init__(self, name: str, max_queue: int, clock: Clock) -> None:
        # Random, because a child process or a later connection must not get what was meant for this one.
        self.address = f"memory:{name}/{os.urandom(8).hex()}"
        self.max_queue = max_queue
        self.wakeup = Wakeup()
        self.attached = False
        self.open = False
        """What is published goes straight into the hub: attached, neither held nor stalled, and nothing waits to be
        written first.
        """
        self.held = False
        """The hub asks for nothing more to be published (see faults.py)."""
        self.stalled = False
        """The hub is silent (see faults.py)."""
        self.cut_by: Exception | None = None
        """Why the hub has dropped the connection, which has not noticed yet."""
        self.hot: list[Subscription] = []
        """Subscriptions with something to pick up."""
        self.answers: list[SentResult] = []
        """News that the connection has to tell."""
        self.urgent = False
        """Something has changed that the owner shall look at now."""
        self.subscriptions: dict[Source, Subscription] = {}
        self.lingering: set[Subscription] = set()
        """Cancelled, with deliveries that are not settled."""
        self.replies = Queue(Source.reply(), clock)
        self.unprocessed: list[Outgoing] = []
        """Written while the hub was silent."""
        self.unconfirmed: list[SentResult] = []
        """Taken, but the confirmation is withheld (see faults.py)."""

    def call(self) -> None:
        """Make the owner look at this link."""
        self.wakeup.ring()
        self.urgent = True
