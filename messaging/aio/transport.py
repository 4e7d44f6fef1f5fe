"""How asyncio callers wait: a future per operation, ended by the connection's owner.

Where the event loop itself owns the connection, ending an operation is setting its future. Where a thread owns it (a
driver without a descriptor), ended operations are handed to the loop in batches: one wake-up per burst.
"""

from __future__ import annotations

import asyncio
import functools
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from messaging.drivers.base import Connection, ConnectionEvents, Role, Services
from messaging.errors import StateError
from messaging.loop_reactor import LoopReactor
from messaging.reactor import Reactor
from messaging.thread_reactor import ThreadReactor
from messaging.transport import BaseTransport

__all__ = ["Mailbox", "Transport", "open_transport"]


class Mailbox:
    """Takes futures that are to be resolved from any thread to their loop. The flag protocol is that of the reactor's
    inbox.
    """

    __slots__ = ("_loop", "_posted", "_waiting", "ident")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ident = get_ident()
        """The loop's thread."""
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._posted = False

    def resolve(self, future: asyncio.Future[None]) -> None:
        """Resolve a future with None, unless it is cancelled; any thread."""
        if get_ident() != self.ident:
            self._post(future)
        elif not future.done():
            future.set_result(None)

    def _post(self, future: asyncio.Future[None]) -> None:
        self._waiting.append(future)
        if not self._posted:
            self._posted = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: nobody awaits on it any more.
                self._waiting.clear()

    def _deliver(self) -> None:
        self._posted = False
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)


class Transport(BaseTransport):
    """A transport for asyncio; open it with `open_transport`. The event loop itself owns each connection, where the
    driver has a descriptor to watch.

    It belongs to the loop in which it is first used; another loop gets a StateError.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _mailbox: Mailbox | None = None

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which becomes this transport's own. Raises StateError in another loop later on."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise StateError(
                f"{self!r} belongs to the event loop in which it was first used; open one transport per loop"
            )
        return loop

    def waiter(self) -> tuple[asyncio.Future[None], Callable[[], None]]:
        """Return a future of the running loop, and a thread-safe function that resolves it with None.

        A plain future: one of a subclass is made and awaited in 0.3 us more.
        """
        mailbox = self._mailbox
        loop = asyncio.get_running_loop()
        if mailbox is None or loop is not self._loop:
            self.bind()
            mailbox = self._mailbox = Mailbox(loop)
        future: asyncio.Future[None] = asyncio.Future(loop=loop)
        return future, functools.partial(mailbox.resolve, future)

    def see_to_deadline(self, seconds: float, give_up: Callable[[], object]) -> asyncio.TimerHandle | None:
        """Have the loop call `give_up` after so many seconds where the connection's own owner may be late, because its
        library blocks; returns what is to be cancelled.
        """
        return self.bind().call_later(seconds, give_up) if self.capabilities.pump_stall > 0.0 else None

    def _reactor(self, connect: Callable[[ConnectionEvents, Services], Connection], role: Role) -> Reactor:
        loop = self.bind()
        if self.capabilities.pump_stall == 0.0 and hasattr(loop, "add_reader"):
            reactor = LoopReactor(connect, self.capabilities, name=self._name(role), loop=loop)
            if reactor.has_descriptor:
                return reactor
            reactor.start_close(0.0)
        return ThreadReactor(connect, self.capabilities, name=self._name(role))

    def _forked(self) -> None:
        self._loop = None
        self._mailbox = None
        super()._forked()

    async def close(self, grace: float = 5.0) -> None:
        """Flush and close all connections within `grace` seconds; whatever still waits ends with Closed. Idempotent.

        Raises StateError in another loop than the transport's own.
        """
        if self._loop is not None:
            # Its connections live in that loop; from another one they could only be broken.
            self.bind()
        reactors = self._begin_close()
        for reactor in reactors:
            reactor.start_close(grace)
        for reactor in reactors:
            if isinstance(reactor, LoopReactor):
                await reactor.closed(grace)
            else:
                await asyncio.to_thread(reactor.close, grace)

    async def __aenter__(self) -> Self:
        self.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def open_transport(url: str, **options: Any) -> Transport:
    """Open a transport by its URL; nothing is connected before it is needed. Arguments and errors as in
    `messaging.open_transport`.
    """
    return Transport(url, **options)
