"""What the log says of a connection's states: an outage when it begins and while it lasts, not each try to end it.

A driver tells of every try, which may be several a second, of each connection, for hours. No I/O and no threads here:
called by the connection's owner.
"""

from __future__ import annotations

import logging
import math

from messaging.deadline import Clock
from messaging.drivers.base import State

__all__ = ["StateLog"]

_AGAIN = 60.0
"""Seconds after which an outage that lasts is told again."""


class StateLog:
    """The log of one connection's states."""

    def __init__(self, log: logging.Logger, name: str, clock: Clock) -> None:
        self._log = log
        self._name = name
        self._clock = clock
        self._state = State.CONNECTING
        self._next = -math.inf
        """When a failure is worth a warning again; while the connection is well, at once."""

    def note(self, state: State, cause: Exception | None, final: bool) -> None:
        """Write down a state, if it has changed; `final`: no further try will be made."""
        if state is self._state:
            return
        self._state = state
        level = logging.INFO
        if state is State.LOST:
            now = self._clock()
            level = logging.WARNING if final or now >= self._next else logging.DEBUG
            if level == logging.WARNING:
                self._next = now + _AGAIN
        elif state is State.CONNECTING and self._next > -math.inf:
            level = logging.DEBUG
        elif state is State.READY:
            self._next = -math.inf
        self._log.log(level, "%s is %s%s", self._name, state.value, f": {cause}" if cause is not None else "")
