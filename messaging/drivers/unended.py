"""Messages that a driver remembers for as long as their senders have not ended, and keeps no longer.

A message takes no weak references (see Outgoing), so who has ended is found by looking: it has taken its token away.
One look goes through all, whenever they have doubled since the last one, so an entry costs O(1). Pure; it belongs to
the connection's owner.
"""

from __future__ import annotations

from collections.abc import Iterator

from messaging.message import Outgoing

__all__ = ["Unended"]

_COUNT = 64
_BYTES = 1024 * 1024
"""So many, and so much of bodies, may stay of messages that have ended."""


class Unended:
    """A set of messages. Those that have ended are not seen, and are gone soon."""

    __slots__ = ("_bytes", "_kept", "_most", "_most_bytes")

    def __init__(self) -> None:
        self._kept: dict[Outgoing, bool] = {}
        self._bytes = 0
        self._most = _COUNT
        self._most_bytes = _BYTES

    def add(self, outgoing: Outgoing) -> None:
        """Remember one."""
        self._kept[outgoing] = True
        self._bytes += len(outgoing.body)
        if len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._look()

    def discard(self, outgoing: Outgoing) -> None:
        """Forget one, if it is there."""
        if self._kept.pop(outgoing, False):
            self._bytes -= len(outgoing.body)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._bytes = 0

    def __contains__(self, outgoing: Outgoing) -> bool:
        return outgoing.token is not None and outgoing in self._kept

    def __iter__(self) -> Iterator[Outgoing]:
        """Those that have not ended when this is asked for, in the order in which they were added."""
        return iter([outgoing for outgoing in self._kept if outgoing.token is not None])

    def _look(self) -> None:
        self._kept = dict.fromkeys(self, True)
        self._bytes = sum([len(outgoing.body) for outgoing in self._kept])
        self._most = max(_COUNT, 2 * len(self._kept))
        self._most_bytes = max(_BYTES, 2 * self._bytes)
