"""What a running handler can learn of its notification: `notify.current()`.

A context variable, so it follows the handler into the threads and tasks that carry contexts. It knows nothing of how
the notification came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from messaging.errors import NotStarted
from messaging.message import Delivery
from messaging.notify.event import Event

__all__ = ["CurrentEvent", "Served", "current", "running_event"]


class Served(Protocol):
    """What handlers are called with. Few of them ask about it, so what they see is made when one does."""

    gave_up: bool
    """Whether the listener has stopped waiting for its end."""

    def current(self) -> CurrentEvent:
        """What a handler sees."""


class CurrentEvent(msgspec.Struct, eq=False):
    """The notification that a handler is serving; read-only for handlers, thread-safe.

    In a handler of batches it stands for the whole batch: `attempt` is the highest of it, `redelivered` and `cancelled`
    hold when they hold for one of its events, and the other fields are those of its first event.
    """

    _served: Served
    _event: Event[Any]
    _deliveries: Sequence[Delivery]
    attempt: int
    redelivered: bool

    @property
    def context(self) -> Any:
        """What the sender has passed along."""
        return self._event.context

    @property
    def headers(self) -> Mapping[str, Any]:
        """All headers of the message, this library's own too."""
        return self._event.headers

    @property
    def event_type(self) -> str:
        """What has happened."""
        return self._event.event_type

    @property
    def level(self) -> str:
        """One of notify.LEVELS."""
        return self._event.level

    @property
    def message_id(self) -> str:
        """See Event."""
        return self._event.message_id

    @property
    def cancelled(self) -> bool:
        """Whether the work is in vain: the listener has stopped, or its connection went and somebody else gets the
        notification.
        """
        return self._served.gave_up or any(delivery.stale for delivery in self._deliveries)


running_event: ContextVar[Served | None] = ContextVar("messaging_notification", default=None)


def current() -> CurrentEvent:
    """Return the notification that this thread or task is serving. Raises NotStarted outside of a handler."""
    served = running_event.get()
    if served is None:
        raise NotStarted("notify.current() works inside a handler only; no notification is being served here")
    return served.current()
