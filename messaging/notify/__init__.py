"""Notifications: `Notifier`, `Listener` and `BatchListener` are the blocking ones; `messaging.aio.notify` has the same
names for asyncio.
"""

from messaging.notify.base_deadletter import DeadLetter
from messaging.notify.context import CurrentEvent, current
from messaging.notify.deadletter import DeadLetters
from messaging.notify.dispatcher import on
from messaging.notify.event import HANDLED, LEVELS, REQUEUE, Event, Reject, Result, Retry
from messaging.notify.filters import Filter
from messaging.notify.listener import BatchListener, Listener
from messaging.notify.log_handler import LogHandler
from messaging.notify.notifier import Notifier
from messaging.notify.pipeline import Pipeline
from messaging.notify.routing import Routing
from messaging.notify.sinks import Log, Messaging, Noop, Recording, Sink

__all__ = [
    "HANDLED",
    "LEVELS",
    "REQUEUE",
    "BatchListener",
    "CurrentEvent",
    "DeadLetter",
    "DeadLetters",
    "Event",
    "Filter",
    "Listener",
    "Log",
    "LogHandler",
    "Messaging",
    "Noop",
    "Notifier",
    "Pipeline",
    "Recording",
    "Reject",
    "Result",
    "Retry",
    "Routing",
    "Sink",
    "current",
    "on",
]
