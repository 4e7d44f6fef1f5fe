"""Counts that balance: every operation that starts ends in exactly one outcome.

Operations end on whatever thread ends them, and `value += 1` from several threads loses counts. `next()` on an
`itertools.count` is one step of the interpreter, so each cell is one of these; it costs 30 ns and needs no lock. A
count can only be read from its repr.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

__all__ = ["OUTCOMES", "Counters", "Tally"]

OUTCOMES = ("replied", "taken", "refused", "unroutable", "expired", "in_doubt", "cancelled", "closed")
"""How an operation can end. `replied`: an answer came, an error of the handler included; `taken`: a peer or broker has
taken it; `refused`: told that it will not be done; `unroutable`: told that nobody listens; `expired`: the deadline
passed; `in_doubt`: the connection was lost; `cancelled`: its caller gave up; `closed`: the transport was closed under
it."""


class Tally:
    """A count that any thread may add one to; read it with int()."""

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = itertools.count()
        self.add: Callable[[], int] = self._count.__next__

    def add_many(self, number: int) -> None:
        """Add more than one."""
        deque(itertools.islice(self._count, number), maxlen=0)

    def __int__(self) -> int:
        return int(repr(self._count)[6:-1])


class Counters:
    """Named tallies, made when first asked for. Thread-safe."""

    __slots__ = ("_tallies",)

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def tally(self, name: str) -> Tally:
        """Return the tally of this name; keep it where it is needed often."""
        return self._tallies.setdefault(name, Tally()) if name not in self._tallies else self._tallies[name]

    def add(self, name: str) -> None:
        """Add one to the tally of this name."""
        self.tally(name).add()

    def snapshot(self) -> dict[str, int]:
        """All counts by name, in alphabetical order."""
        return {name: int(self._tallies[name]) for name in sorted(self._tallies)}
