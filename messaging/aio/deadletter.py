"""The dead letters of a pool, for asyncio; see `messaging.notify.DeadLetters`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

from messaging.aio.transport import Transport
from messaging.errors import Cancelled, Closed, MessagingError
from messaging.lifecycle import START_TIMEOUT
from messaging.notify.base_deadletter import BaseDeadLetters, DeadLetter, counted, first_time

__all__ = ["DeadLetters"]

_BOUND = 10.0
"""Seconds for giving back what is left."""


class DeadLetters(BaseDeadLetters):
    """The dead letters of one pool of one topic, for an `async with` block of one task; iterate with `async for`.

    Parameters as in `messaging.notify.DeadLetters`.
    """

    transport: Transport
    _face = Transport

    async def __aenter__(self) -> Self:
        self._loop = self.transport.bind()
        self._queue: asyncio.Queue[DeadLetter] = asyncio.Queue()
        future, wake = self.transport.waiter()
        outcome: list[Exception | None] = []

        def started(error: Exception | None) -> None:
            outcome.append(error)
            wake()

        self._open(started)
        await asyncio.wait([future], timeout=START_TIMEOUT)
        if not outcome:
            raise self._unreachable(START_TIMEOUT)
        if outcome[0] is not None:
            raise outcome[0]
        return self

    def _arrived(self, letter: DeadLetter) -> None:
        # The owner may be a thread.
        self._loop.call_soon_threadsafe(self._queue.put_nowait, letter)

    async def read(self, wait: float = 1.0) -> AsyncIterator[DeadLetter]:
        """Yield the letters in hand and what comes, until none has come for `wait` seconds or `limit` are in hand."""
        self._opened()
        seen: set[DeadLetter] = set()
        for letter in list(self._in_hand):
            seen.add(letter)
            yield letter
        while True:
            try:
                letter = await asyncio.wait_for(self._queue.get(), wait)
            except TimeoutError:
                return
            if letter not in seen and letter in self._in_hand and not letter.delivery.stale:
                yield letter

    def __aiter__(self) -> AsyncIterator[DeadLetter]:
        return self.read()

    async def replay(self, letter: DeadLetter) -> None:
        """Send one to its pool again and return when that is stored. Raises what a notifier raises; then it stays."""
        future, wake = self.transport.waiter()
        sending = self._begin_replay(letter, wake)
        try:
            await future
        except asyncio.CancelledError:
            sending.session.abandon(sending, Cancelled("the task was cancelled"))
            self._in_hand[letter] = True
            raise
        self._replayed(letter, sending)

    async def discard(self, letter: DeadLetter) -> None:
        """Throw one away."""
        self._discard(letter)

    async def replay_all(self, wait: float = 1.0) -> int:
        """Send all to their pool again, each once; returns how many. Raises PipelineFailed with the errors of those
        that stay.
        """
        return await self._each(self.replay, wait)

    async def discard_all(self, wait: float = 1.0) -> int:
        """Throw all away; returns how many."""
        return await self._each(self.discard, wait)

    async def count(self, wait: float = 1.0) -> int:
        """Return how many there are, up to `limit`; they stay."""
        return len([letter async for letter in self.read(wait)])

    async def _each(self, act: Callable[[DeadLetter], Awaitable[None]], wait: float) -> int:
        outcomes: list[Exception | None] = []
        seen: set[str] = set()
        async for letter in self.read(wait):
            if not first_time(letter, seen):
                continue
            try:
                await act(letter)
            except MessagingError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return counted(outcomes)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._do(self._unsubscribe)
            await self._do(self._give_back)
        except Closed:
            # With its connection the backend has taken everything back.
            self._in_hand.clear()

    async def _do(self, action: Callable[[Callable[[], None]], None]) -> None:
        future, wake = self.transport.waiter()
        self._opened().call_soon(lambda: action(wake))
        await asyncio.wait([future], timeout=_BOUND)
