"""What a notification is to its sender's sinks and to its receivers, and what a handler may answer.

One class serves both ends: a sink gets the event that is about to leave, a handler the one that has come. It knows
nothing of transports.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, get_args

import msgspec

from messaging.errors import ConfigError
from messaging.wire.native import Level

__all__ = ["HANDLED", "LEVELS", "REQUEUE", "Event", "Reject", "Result", "Retry", "level_name", "level_names"]

T = TypeVar("T")

LEVELS: tuple[str, ...] = get_args(Level)
"""The levels of notifications, which the predecessor calls priorities. `warning` is another name of `warn`."""


def level_name(level: object) -> str:
    """Return the canonical name of a level, in any case. Raises ConfigError for what is none."""
    if isinstance(level, str):
        name = level.lower()
        if name in LEVELS:
            return name
        if name == "warning":
            return "warn"
    raise ConfigError(f"a level is one of {', '.join(LEVELS)} (or warning), not {level!r}")


def level_names(level: str | Iterable[str] | None) -> frozenset[str]:
    """Return the canonical names of one level, several, or with None all. Raises ConfigError."""
    if level is None:
        return frozenset(LEVELS)
    if isinstance(level, str):
        return frozenset({level_name(level)})
    return frozenset(level_name(each) for each in level)


class Event(msgspec.Struct, Generic[T], eq=False):
    """A notification. Annotate a handler's argument with `Event[T]`, and its payload is converted to `T` by msgspec."""

    event_type: str
    publisher_id: str
    level: str
    payload: T
    context: Any
    """A dict, or what the serializer made of it."""
    timestamp: float
    """When it was sent, in seconds since the epoch, on the sender's clock."""
    message_id: str
    """The same for every topic it was sent to, and for every time it is delivered."""
    headers: dict[str, Any]
    attempt: int = 1
    """1 for the first delivery to this pool."""
    redelivered: bool = False
    """Whether it may have been delivered before."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the predecessor's endpoint methods get: `message_id`, and `timestamp` as text in UTC."""
        moment = datetime.fromtimestamp(self.timestamp, UTC).replace(tzinfo=None)
        return {"message_id": self.message_id, "timestamp": str(moment)}


class Result(enum.StrEnum):
    """What a handler may return; None means HANDLED."""

    HANDLED = "handled"
    REQUEUE = "requeue"


HANDLED = Result.HANDLED
REQUEUE = Result.REQUEUE


class Retry(Exception):
    """Raised by a handler: not now. The notification comes again, after `after` seconds or else by the listener's
    backoff.

    It counts as an attempt, so that a notification for which no time is right ends among the dead letters.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason or "the handler asked for another attempt")
        if after is not None and not 0 <= after < float("inf"):
            raise ConfigError(f"after= is a finite number of seconds from 0, not {after!r}")
        self.after = after


class Reject(Exception):
    """Raised by a handler: never. The notification goes to the dead letters at once, with this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler rejected it")
