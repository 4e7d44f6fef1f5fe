"""What an author writes whose client library speaks asyncio only: a session, which is one life of a connection.

Four coroutines, and a place to put what comes in. Everything else is in asyncio_connection.py, which turns the loop
that these run on.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from messaging.drivers.base import Capabilities
from messaging.message import Delivery, Outcome, Outgoing, Source, SourceKind
from messaging.url import Host

__all__ = ["AsyncioSession", "Inbox", "Owner"]


class Owner(Protocol):
    """What a session and its inboxes tell their connection."""

    def receiving(self, inbox: Inbox, address: str) -> None:
        """A source is ready."""

    def received(self, inbox: Inbox, delivery: Delivery) -> None:
        """A message has come."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run this until the session ends, and end the session with it."""

    def broke(self, error: BaseException) -> None:
        """The session has ended."""


class Inbox:
    """Where a session puts what it receives from one source."""

    def __init__(self, source: Source, window: int, generation: int, owner: Owner) -> None:
        self.source = source
        self.window = window
        """How many messages may be unsettled; 0: none shall come for now."""
        self._generation = generation
        self._owner = owner
        self._unsettled = 0
        self._asked = 0
        """Asked for, and not come yet."""
        self._changed = asyncio.Event()
        self.cancelled = False
        """Unsubscribed; its coroutine has not ended yet."""

    def ready(self, address: str = "") -> None:
        """Say that messages come from now on; `address` is where the source is reachable, for REPLY what is put on
        messages.
        """
        self._owner.receiving(self, address)

    async def room(self) -> int:
        """Wait until there is room in the window, and take it: returns how many more messages may be asked for.

        For peers that send what they are asked for; each `put` uses up one. Asks for few large portions and not for
        many small ones. Where the library has a prefetch count of its own, it is `window`.
        """
        while True:
            free = self.window - self._unsettled - self._asked
            if free > 0 and (not self._asked or 2 * free >= self.window):
                self._asked += free
                return free
            self._changed.clear()
            await self._changed.wait()

    def put(
        self,
        body: bytes,
        headers: dict[str, Any],
        *,
        reply_to: str = "",
        budget: float | None = None,
        redelivered: bool = False,
        attempt: int = 1,
        sent_by: str = "",
        tag: Any = None,
    ) -> None:
        """Hand on a message; see Delivery for the fields. `tag` is for `settle`. Answers (REPLY) need no settlement."""
        delivery = Delivery(
            self.source, body, headers, reply_to, budget, redelivered, attempt, sent_by, self._generation, False, tag
        )
        self._asked = max(0, self._asked - 1)
        if self.source.kind is not SourceKind.REPLY:
            self._unsettled += 1
        self._changed.set()
        self._owner.received(self, delivery)

    # For the connection

    def resize(self, window: int) -> None:
        """Change the window."""
        self.window = window
        self._changed.set()

    def settled(self) -> None:
        """One message less is unsettled."""
        self._unsettled -= 1
        self._changed.set()


class AsyncioSession(abc.ABC):
    """One life of a connection. Subclass it, and keep everything that belongs to the socket in it.

    All methods run on the connection's loop. An OSError, EOFError, ConnectionLost or ConnectFailed that leaves one
    of the coroutines, or a
    task of `spawn`, ends the session; the coroutines that still run are cancelled then.
    """

    owner: Owner
    """The connection; set before `open`."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, such as a reader of the socket, until the session ends. When it raises, or returns, the
        session ends.
        """
        self.owner.spawn(coroutine)

    def broken(self, error: Exception) -> None:
        """End the session, as seen from a callback of the library."""
        self.owner.broke(error)

    @abc.abstractmethod
    async def open(self, host: Host | None) -> Capabilities | None:
        """Connect to a host of the URL (None: it has none); return what this server can do, or None for what was
        declared.

        Raises AuthFailed where trying again is no use; any other exception is told as ConnectFailed and tried again.
        """

    @abc.abstractmethod
    async def send(self, outgoing: Outgoing, body: bytes, reply_to: str, budget: float | None) -> Any:
        """Write a message, and return when it is as safe as it will be: confirmed, where the library confirms.

        Messages are started in order; what is written before the first `await` keeps it. `body` and `reply_to`
        (empty: no answer is
        wanted) replace what stands in `outgoing`; `budget` is the seconds that are left, or None. Returns the taker
        (see SentResult) or None.
        Raises NoRoute, Rejected and the like for this message alone; before it is written, with `delivered` NO.
        """

    @abc.abstractmethod
    async def receive(self, source: Source, inbox: Inbox) -> None:
        """Subscribe, call `inbox.ready`, then put messages into the inbox until cancelled; unsubscribe in a `finally`.

        Raises a MessagingError that ends this subscription alone.
        """

    @abc.abstractmethod
    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        """Write the settlement of deliveries of one source; return when it is written."""

    def close(self) -> None:  # noqa: B027 - a library that closes by itself needs nothing here
        """Drop the socket; called once, after everything else has ended."""
