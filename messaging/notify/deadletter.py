"""The dead letters of a pool, for callers that wait."""

from __future__ import annotations

import queue
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from messaging.errors import Closed, MessagingError
from messaging.lifecycle import START_TIMEOUT
from messaging.notify.base_deadletter import BaseDeadLetters, DeadLetter, counted, first_time
from messaging.transport import Transport

__all__ = ["DeadLetters"]

_BOUND = 10.0
"""Seconds for giving back what is left."""


class DeadLetters(BaseDeadLetters):
    """The dead letters of one pool of one topic. Use it in a `with` block, from one thread.

        with notify.DeadLetters(transport, Target(topic="notifications"), pool="billing") as letters:
            for letter in letters:
                print(letter.event, letter.reason, letter.attempts)
                letters.replay(letter)      # or discard(letter); with neither it stays a dead letter

    Parameters: see BaseDeadLetters.
    """

    transport: Transport
    _face = Transport

    def __enter__(self) -> Self:
        self._queue: queue.SimpleQueue[DeadLetter] = queue.SimpleQueue()
        outcome: list[Exception | None] = []
        told = threading.Event()

        def started(error: Exception | None) -> None:
            outcome.append(error)
            told.set()

        self._open(started)
        if not told.wait(START_TIMEOUT):
            raise self._unreachable(START_TIMEOUT)
        if outcome[0] is not None:
            raise outcome[0]
        return self

    def _arrived(self, letter: DeadLetter) -> None:
        self._queue.put(letter)

    def read(self, wait: float = 1.0) -> Iterator[DeadLetter]:
        """Yield the letters in hand and what comes, until none has come for `wait` seconds or `limit` are in hand."""
        self._opened()
        seen: set[DeadLetter] = set()
        for letter in list(self._in_hand):
            seen.add(letter)
            yield letter
        while True:
            try:
                letter = self._queue.get(timeout=wait)
            except queue.Empty:
                return
            if letter not in seen and letter in self._in_hand and not letter.delivery.stale:
                yield letter

    def __iter__(self) -> Iterator[DeadLetter]:
        return self.read()

    def replay(self, letter: DeadLetter) -> None:
        """Send one to its pool again, and return when that is stored. Raises what a notifier raises; then it stays a
        dead letter.
        """
        bell = allocate_lock()
        bell.acquire()
        sending = self._begin_replay(letter, bell.release)
        # The owner ends it at its deadline; this bound is for its being late.
        if not bell.acquire(timeout=self._timeout + 1.0):
            sending.session.abandon(sending, sending.expired())
        self._replayed(letter, sending)

    def discard(self, letter: DeadLetter) -> None:
        """Throw one away."""
        self._discard(letter)

    def replay_all(self, wait: float = 1.0) -> int:
        """Send all to their pool again, each once; returns how many. Raises PipelineFailed, whose members are the
        errors of those that stay.
        """
        return self._each(self.replay, wait)

    def discard_all(self, wait: float = 1.0) -> int:
        """Throw all away; returns how many."""
        return self._each(self.discard, wait)

    def count(self, wait: float = 1.0) -> int:
        """Return how many there are, up to `limit`; they stay."""
        return sum(1 for _ in self.read(wait))

    def _each(self, act: Callable[[DeadLetter], None], wait: float) -> int:
        outcomes: list[Exception | None] = []
        seen: set[str] = set()
        for letter in self.read(wait):
            if not first_time(letter, seen):
                continue
            try:
                act(letter)
            except MessagingError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return counted(outcomes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._do(self._unsubscribe)
            self._do(self._give_back)
        except Closed:
            # With its connection the backend has taken everything back.
            self._in_hand.clear()

    def _do(self, action: Callable[[Callable[[], None]], Any]) -> None:
        finished = threading.Event()
        self._opened().call_soon(lambda: action(finished.set))
        finished.wait(_BOUND)
