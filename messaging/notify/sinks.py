"""Where notifications go: to the transport, to a log, to nowhere, to a list, or wherever an installed package takes
them.

A sink is an object with `emit(event)`, which must not wait. The transport is the one sink that has to be waited for, so
the notifier does that by itself and `Messaging` only marks it. Packages register sinks as entry points in the group
`messaging.notifiers`: a name, and something that returns a sink when it is called without arguments.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from messaging.errors import ConfigError
from messaging.notify.event import Event
from messaging.options import nearest

__all__ = ["ENTRY_POINTS", "Log", "Messaging", "Noop", "Recording", "Sink", "masked", "sink_named", "sinks_of"]

ENTRY_POINTS = "messaging.notifiers"

_SECRETS = (
    "password",
    "passwd",
    "secret",
    "token",
    "adminpass",
    "admin_pass",
    "api_key",
    "apikey",
    "private_key",
    "credential",
)
_MASK = "***"
_LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "audit": logging.INFO,
    "sample": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


@runtime_checkable
class Sink(Protocol):
    """Somewhere for notifications to go."""

    def emit(self, event: Event[Any]) -> None:
        """Take one notification; on the sender's thread or loop, so without waiting. What it raises counts as a failed
        send.
        """


class Messaging:
    """The transport of the notifier; the default."""

    def emit(self, event: Event[Any]) -> None:
        """Nothing: the notifier sends through its transport itself, because that can be waited for."""


class Noop:
    """Nowhere."""

    def emit(self, event: Event[Any]) -> None:
        """Do nothing."""


class Log:
    """The logger `messaging.notification.EVENT_TYPE`, as one line of JSON; values under keys like `password` are
    masked.

    `audit` and `sample`, which logging does not know, are written at INFO; `extra["notification_level"]` holds the
    level.
    """

    def emit(self, event: Event[Any]) -> None:
        """Write it."""
        logger = logging.getLogger(f"messaging.notification.{event.event_type}")
        level = _LOG_LEVELS[event.level]
        if logger.isEnabledFor(level):
            logger.log(level, "%s", _as_json(event), extra={"notification_level": event.level})


class Recording:
    """A list, for tests: `events`, the latest `limit` of them. Thread-safe."""

    def __init__(self, limit: int = 100_000) -> None:
        self.events: deque[Event[Any]] = deque(maxlen=limit)

    def emit(self, event: Event[Any]) -> None:
        """Keep it."""
        self.events.append(event)


def masked(value: Any) -> Any:
    """Return a plain value with everything under a key that names a secret replaced by three asterisks."""
    if isinstance(value, Mapping):
        return {
            key: _MASK if isinstance(key, str) and any(secret in key.lower() for secret in _SECRETS) else masked(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return value


def _as_json(event: Event[Any]) -> str:
    plain = msgspec.to_builtins(
        {
            "event_type": event.event_type,
            "publisher_id": event.publisher_id,
            "level": event.level,
            "payload": event.payload,
            "context": event.context,
            **event.metadata,
        },
        str_keys=True,
        enc_hook=repr,
    )
    return msgspec.json.encode(masked(plain)).decode()


_KNOWN: dict[str, Callable[[], Sink]] = {"messaging": Messaging, "log": Log, "noop": Noop, "test": Recording}


def sink_named(name: str) -> Sink:
    """Return a new sink by its name: ours, or one that an installed package offers. Raises ConfigError."""
    make = _KNOWN.get(name)
    if make is None:
        # Costs milliseconds to import, and most programs name no foreign sink.
        from importlib.metadata import entry_points

        offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if name not in offered:
            known = sorted({*_KNOWN, *offered})
            raise ConfigError(f"no sink is named {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        make = offered[name].load()
    sink = make()
    if not isinstance(sink, Sink):
        raise ConfigError(f"the sink {name!r} has no method emit(event): {sink!r}")
    return sink


def sinks_of(given: Sequence[Sink | str] | None) -> tuple[Sink, ...]:
    """Check what a user gave as sinks: objects, or names of sinks; None is the transport alone. Raises ConfigError."""
    if given is None:
        return (Messaging(),)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(f"sinks must be a list of sinks or their names, not {given!r}")
    found = []
    for sink in given:
        if isinstance(sink, str):
            sink = sink_named(sink)
        elif isinstance(sink, type) or not isinstance(sink, Sink):
            raise ConfigError(f"a sink is an object with a method emit(event), for example notify.Log(), not {sink!r}")
        found.append(sink)
    return tuple(found)
