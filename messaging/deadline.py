"""One absolute deadline per operation, and the scope in which nested calls inherit it.

A deadline is a point on the monotonic clock in seconds, made once when the user calls; every later step asks it how
much is left, and none makes a new one. It knows nothing of messages. The scope is a context variable, so it follows
threads' and tasks' own contexts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from messaging.errors import ConfigError

__all__ = ["Clock", "Scope", "current_deadline", "deadline", "deadline_scope", "detached", "timeout_seconds"]

Clock = Callable[[], float]
"""Returns seconds on a clock that never goes back."""


class Scope(Protocol):
    """Where calls are made: inside a handler, or a block of `deadline()` or `detached()`."""

    @property
    def until(self) -> float | None:
        """What calls made here must not outlive; None: nothing."""

    @property
    def served(self) -> Any:
        """The request that is being handled; None: none is."""


class _Block(NamedTuple):
    until: float | None
    served: Any


deadline_scope: ContextVar[Scope | None] = ContextVar("messaging_deadline", default=None)
"""The innermost scope: set by whoever runs a handler, and by `deadline()`. One variable for both, because setting one
and resetting it costs 0.3 us per request.
"""


class DeadlineView(Protocol):
    """What a handler sees of its deadline."""

    def remaining(self) -> float:
        """Seconds left, never negative; infinity when the request carries no deadline."""


def timeout_seconds(value: object, default: float) -> float:
    """Check a user's timeout and return it as seconds; None is `default`.

    Raises ConfigError for anything but a positive finite number: an operation without an end is refused on purpose.
    """
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise ConfigError(f"timeout must be a number of seconds, not {value!r}")
    if math.isinf(value):
        raise ConfigError("timeout must be finite: every operation ends. Choose the longest wait that is still useful")
    if value <= 0:
        raise ConfigError(f"timeout must be more than 0 seconds, not {value!r}")
    return float(value)


def current_deadline() -> float | None:
    """The monotonic time that calls made here inherit, or None."""
    scope = deadline_scope.get()
    return None if scope is None else scope.until


def _served() -> Any:
    scope = deadline_scope.get()
    return None if scope is None else scope.served


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Give all calls made in this block one common budget, in seconds from now.

    A block inside a block can only shorten it. Casts and notifications start afresh and are not bound by it.
    """
    until = time.monotonic() + timeout_seconds(seconds, seconds)
    outer = current_deadline()
    token = deadline_scope.set(_Block(until if outer is None else min(until, outer), _served()))
    try:
        yield
    finally:
        deadline_scope.reset(token)


@contextmanager
def detached() -> Iterator[None]:
    """Let calls made in this block live longer than the request that is being handled."""
    token = deadline_scope.set(_Block(None, _served()))
    try:
        yield
    finally:
        deadline_scope.reset(token)
