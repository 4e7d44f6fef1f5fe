"""How asyncio callers wait: a future per operation, ended by the connection's owner.

Where the event loop itself owns the connection, ending an operation is setting its future. Where a thread owns it (a
driver without a descriptor), ended operations are handed to the loop in batches: one wake-up per burst.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from messaging.transport import AsyncTransport

__all__ = ["Mailbox", "Transport", "open_transport"]


class Mailbox:
    """Takes futures that are to be resolved from any thread to their loop. The flag protocol is that of the reactor's
    inbox.
    """

    __slots__ = ("_ident", "_loop", "_posted", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ident = threading.get_ident()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._posted = False

    def waker(self, future: asyncio.Future[Any]) -> Callable[[], None]:
        """Return a function that resolves a future with None; thread-safe."""

        def wake() -> None:
            if threading.get_ident() == self._ident:
                if not future.done():
                    future.set_result(None)
            else:
                self._post(future)

        return wake

    def _post(self, future: asyncio.Future[Any]) -> None:
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


class Transport(AsyncTransport):
    """A transport for asyncio; open it with `open_transport` and use it in one event loop, the one of its first use."""

    _mailbox: Mailbox | None = None

    def waiter(self) -> tuple[asyncio.Future[Any], Callable[[], None]]:
        """Return a future of the running loop, and a thread-safe function that resolves it."""
        mailbox = self._mailbox
        if mailbox is None or self._loop is None:
            mailbox = self._mailbox = Mailbox(self.bind())
        elif asyncio.get_running_loop() is not self._loop:
            self.bind()
        future: asyncio.Future[Any] = self._loop.create_future()  # type: ignore[union-attr]
        return future, mailbox.waker(future)

    def _forked(self) -> None:
        self._mailbox = None
        super()._forked()


def open_transport(url: str, **options: Any) -> Transport:
    """Open a transport by its URL; nothing is connected before it is needed. Arguments and errors as in
    `messaging.open_transport`.
    """
    return Transport(url, **options)
