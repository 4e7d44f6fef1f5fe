"""What a running handler can learn of its notification: `notify.current()`.

A context variable, so it follows the handler into the threads and tasks that carry contexts. It knows nothing of how
the notification came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from messaging.errors import NotStarted
from messaging.message import Delivery
from messaging.notify.event import Event

__all__ = ["CurrentEvent", "current", "running_event"]


class CurrentEvent:
    """The notification that a handler is serving; read-only for handlers, thread-safe.

    In a handler of batches it stands for the whole batch: `attempt` is the highest of it, `redelivered` and `cancelled`
    hold when they hold for one of its events, and the other fields are those of its first event.
    """

    __slots__ = (
        "_deliveries",
        "attempt",
        "context",
        "event_type",
        "gave_up",
        "headers",
        "level",
        "message_id",
        "redelivered",
    )

    def __init__(self, events: list[Event[Any]], deliveries: Sequence[Delivery]) -> None:
        first = events[0]
        self.context: Any = first.context
        self.headers: Mapping[str, Any] = first.headers
        self.event_type = first.event_type
        self.level = first.level
        self.message_id = first.message_id
        self.attempt = max(event.attempt for event in events)
        self.redelivered = any(event.redelivered for event in events)
        self._deliveries = deliveries
        self.gave_up = False

    @classmethod
    def of_one(cls, event: Event[Any], delivery: Delivery) -> CurrentEvent:
        """The same for one notification, in a third of the time."""
        self = cls.__new__(cls)
        self.context = event.context
        self.headers = event.headers
        self.event_type = event.event_type
        self.level = event.level
        self.message_id = event.message_id
        self.attempt = event.attempt
        self.redelivered = event.redelivered
        self._deliveries = (delivery,)
        self.gave_up = False
        return self

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
