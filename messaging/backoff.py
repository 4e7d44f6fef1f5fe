"""How long to wait before the next attempt: exponential with full jitter.

Full jitter (anything between 0 and the bound) is what keeps a thousand clients of one restarted server from coming back
together. Pure: the random source is given, nothing sleeps here.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["Backoff", "draw"]


def draw() -> float:
    """Return a float from [0, 1), from the system: the module `random` costs 3 ms to import, for a few jitters."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


class Backoff:
    """Delays in seconds that grow from `initial` to `maximum`, each drawn from [0, bound].

    Not thread-safe: it belongs to whoever owns the connection or the operation.
    """

    __slots__ = ("_bound", "_initial", "_maximum", "_random")

    def __init__(self, initial: float = 0.05, maximum: float = 5.0, source: Callable[[], float] = draw) -> None:
        self._initial = initial
        self._maximum = maximum
        self._random = source
        self._bound = initial

    def next(self) -> float:
        """Draw the delay before the next attempt, and raise the bound for the one after it."""
        bound = self._bound
        self._bound = min(bound * 2, self._maximum)
        return self._random() * bound

    def reset(self) -> None:
        """Start afresh; call it when the service is whole again, not when the first step succeeded."""
        self._bound = self._initial
