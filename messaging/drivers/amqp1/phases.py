"""How far a life of a connection has come: names only; what each of them means to do stands in connection.py."""

from __future__ import annotations

import enum

__all__ = ["ON_THE_WAY", "Phase"]


class Phase(enum.Enum):
    """What the connection is at."""

    NEW = enum.auto()
    RESOLVING = enum.auto()
    CONNECTING = enum.auto()
    """TCP, and TLS."""
    LOGIN = enum.auto()
    OPENING = enum.auto()
    """Open and the first Begin."""
    UP = enum.auto()
    WAITING = enum.auto()
    """For the next try, or for ever."""
    CLOSED = enum.auto()


ON_THE_WAY = frozenset({Phase.RESOLVING, Phase.CONNECTING, Phase.LOGIN, Phase.OPENING})
