"""What the hub keeps: messages, queues, subscriptions, and its end of each connection. Data alone; hub.py moves it.

All of it is guarded by the hub's lock.
"""

from __future__ import annotations

import math
import os
from collections import deque
from typing import Any

import msgspec

from messaging.drivers.memory.wakeup import Wakeup
from messaging.message import Delivery, Outgoing, SentResult, Source, SourceKind

__all__ = ["Link", "Message", "Queue", "Subscription"]


class Message(msgspec.Struct, eq=False):
    """A message inside the hub, in one queue: a fanout makes one per server."""

    body: bytes
    headers: dict[str, Any]
    reply_to: str = ""
    sent_by: str = ""
    expires: float = math.inf
    """On the hub's clock; it is not handed out any more after that."""
    budgeted: bool = False
    """Tell the receiver what is left until `expires`."""
    position: int = 0
    """Where it stands in its queue; what comes back goes there again."""
    attempt: int = 1
    redelivered: bool = False


class Queue:
    """Messages that wait, and who takes them in turn."""

    __slots__ = ("backlog", "consumers", "earliest", "key", "kind", "out", "positions")

    def __init__(self, kind: SourceKind, key: Any) -> None:
        self.kind = kind
        self.key = key
        self.backlog: deque[Message] = deque()
        self.consumers: deque[Subscription] = deque()
        self.positions = 0
        self.earliest = math.inf
        """No message in the backlog expires before that."""
        self.out = 0
        """How many messages are handed out and not settled; they may come back."""


class Subscription:
    """One consumer of a queue, with a window. It outlives its cancellation until what it was given is settled."""

    __slots__ = ("cancelled", "generation", "link", "queue", "ready", "source", "unsettled", "window")

    def __init__(self, link: Link, source: Source, queue: Queue, window: int, generation: int) -> None:
        self.link = link
        self.source = source
        self.queue = queue
        self.window = window
        self.generation = generation
        self.ready: deque[Message] = deque()
        """Given to the connection, which has not picked it up."""
        self.unsettled: dict[Message, Delivery] = {}
        self.cancelled = False


class Link:
    """The hub's end of a connection."""

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

    def __init__(self, name: str, max_queue: int) -> None:
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
        self.replies = Queue(SourceKind.REPLY, self.address)
        self.unprocessed: list[Outgoing] = []
        """Written while the hub was silent."""
        self.unconfirmed: list[SentResult] = []
        """Taken, but the confirmation is withheld (see faults.py)."""

    def call(self) -> None:
        """Make the owner look at this link."""
        self.wakeup.ring()
        self.urgent = True
