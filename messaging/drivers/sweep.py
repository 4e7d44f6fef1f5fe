"""When to look through a table for what nobody needs any more, where nothing says so at the time. Pure.

A look costs as much as the table is long. So the next one is due when there are twice as many as the last has left:
however long the table stays, that is O(1) for each new entry.
"""

from __future__ import annotations

__all__ = ["Sweep"]


class Sweep:
    """Looks begin at `least` entries. Owner only."""

    __slots__ = ("_at", "_least")

    def __init__(self, least: int) -> None:
        self._at = self._least = least

    def is_due(self, size: int) -> bool:
        """Whether to look through a table of this size now."""
        return size >= self._at

    def done(self, left: int) -> None:
        """A look has left so many entries."""
        self._at = max(self._least, 2 * left)
