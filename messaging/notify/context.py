"""What a running handler can learn of its notification: `notify.current()`.

A context variable, so it follows the handler into the threads and tasks that carry contexts. It knows nothing of how
the notification came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

from messaging.errors import NotStarted
from messaging.message import Delivery
from messaging.notify.event import Event

__all__ = ["CurrentEvent", "current", "running_event"]


class CurrentEvent(msgspec.Struct, eq=False):
    """The notification that a handler is serving; read-only for handlers, thread-safe.

    In a handler of batches it stands for the whole batch: `attempt` is the highest of it, `redelivered` and `cancelled`
    hold when they hold for one of its events, and the other fields are those of its first event.
    """

    _event: Event[Any]
    _deliveries: Sequence[Delivery]
    attempt: int
    redelivered: bool
    gave_up: bool = False

    @classmethod
    def of_batch(cls, events: list[Event[Any]], deliveries: Sequence[Delivery]) -> CurrentEvent:
        """What a handler of batches sees."""
        return cls(
            events[0],
            deliveries,
            max(event.attempt for event in events),
            any(event.redelivered for event in events),
        )

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
        return self.gave_up or any(delivery.stale for delivery in self._deliveries)


running_event: ContextVar[CurrentEvent | None] = ContextVar("messaging_notification", default=None)


def current() -> CurrentEvent:
    """Return the notification that this thread or task is serving. Raises NotStarted outside of a handler."""
    event = running_event.get()
    if event is None:
        raise NotStarted("notify.current() works inside a handler only; no notification is being served here")
    return event
