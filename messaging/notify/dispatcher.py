"""From a notification to the handlers that want it: levels, patterns, filters, and the two ways to write a handler.

    def info(self, ctxt, publisher_id, event_type, payload, metadata)      the predecessor's: one method per level
    @notify.on("instance.create.*", level="info")                          by event type; takes one notify.Event
    def created(self, event: notify.Event[Instance])

Everything about a handler is worked out once, when the listener is built. All handlers that want a notification are
called, in the order of the endpoints and within one by name; the first that fails ends that, and when the notification
comes again it starts from the first. No I/O.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from messaging.codec import convert
from messaging.errors import ConfigError
from messaging.notify.event import LEVELS, Event, level_names
from messaging.notify.filters import Filter

__all__ = ["Dispatcher", "Handler", "on"]

F = TypeVar("F", bound=Callable[..., Any])

_INTEREST = "__messaging_on__"
_MEMORY = 10_000
"""Senders choose event types, so what is remembered of them is bounded."""


class Interest(NamedTuple):
    """What `@on` says of a method."""

    pattern: re.Pattern[str]
    levels: frozenset[str]


def on(pattern: str, *patterns: str, level: str | Iterable[str] | None = None) -> Callable[[F], F]:
    """Send a method the notifications whose event type matches one of the patterns, of one, several or (None) all
    levels.

    Patterns are those of fnmatch, case-sensitive: `*` any characters, `?` one, `[ab]` one of them. The method takes a
    notify.Event; in a BatchListener a list of them. Raises ConfigError for an unknown level or a pattern that is no
    string.
    """
    for each in (pattern, *patterns):
        if not isinstance(each, str):
            raise ConfigError(
                f'notify.on takes patterns of event types, for example @notify.on("instance.*"), not {each!r}'
            )
    joined = re.compile("|".join(fnmatch.translate(each) for each in (pattern, *patterns)))
    interest = Interest(joined, level_names(level))

    def mark(function: F) -> F:
        setattr(function, _INTEREST, interest)
        return function

    return mark


class Handler:
    """One method of an endpoint that takes notifications. Immutable, thread-safe."""

    __slots__ = (
        "_pattern",
        "_type",
        "_wanted",
        "call",
        "filter",
        "function",
        "is_async",
        "levels",
        "name",
        "takes_event",
    )

    def __init__(self, endpoint: Any, name: str, filter: Filter | None, in_batches: bool) -> None:
        self.function: Callable[..., Any] = getattr(endpoint, name)
        self.name = f"{type(endpoint).__name__}.{name}"
        self.is_async = inspect.iscoroutinefunction(self.function)
        self.filter = filter
        interest: Interest | None = getattr(self.function, _INTEREST, None)
        self.takes_event = interest is not None
        self.call: Callable[[Event[Any]], Any] = self.function if self.takes_event else self._call_apart
        """Calls the handler with one event, as `argument` has made it; an async one gives its coroutine."""
        self.levels = interest.levels if interest is not None else level_names(name)
        self._pattern = interest.pattern if interest is not None else None
        arguments = ["event"] if self.takes_event else ["ctxt", "publisher_id", "event_type", "payload", "metadata"]
        if in_batches:
            arguments = ["events"] if self.takes_event else ["messages"]
        try:
            inspect.signature(self.function).bind(*arguments)
        except TypeError as error:
            raise ConfigError(
                f"{self.name} is called as {name}({', '.join(arguments)}), which it cannot be: {error}"
            ) from error
        self._type = _payload_type(self.function, in_batches) if self.takes_event else Any
        # msgspec works a type out anew in each conversion, but for the fields of a struct: 0.5 us instead of 0.9.
        self._wanted = (
            None if self._type is Any else msgspec.defstruct("Payload", [("payload", self._type)], array_like=True)
        )

    def wants_type(self, event_type: str) -> bool:
        """Whether the handler's pattern matches an event type."""
        return self._pattern is None or self._pattern.match(event_type) is not None

    def passes(self, event: Event[Any]) -> bool:
        """Whether the endpoint's filter lets an event through."""
        return self.filter is None or self.filter.match(
            event.context, event.publisher_id, event.event_type, event.metadata, event.payload
        )

    @property
    def converts(self) -> bool:
        """Whether it takes payloads of a type."""
        return self._wanted is not None

    def argument(self, event: Event[Any]) -> Event[Any]:
        """Return the event as this handler takes it, its payload converted. Raises DecodeError."""
        wanted = self._wanted
        if wanted is None:
            return event
        try:
            payload = msgspec.convert((event.payload,), wanted, str_keys=True).payload  # type: ignore[attr-defined]
        except msgspec.ValidationError:
            # Once more, for an error that says where in the payload it is.
            payload = convert(event.payload, self._type, f"the payload of {event.event_type} for {self.name}")
        return msgspec.structs.replace(event, payload=payload)

    def _call_apart(self, event: Event[Any]) -> Any:
        return self.function(event.context, event.publisher_id, event.event_type, event.payload, event.metadata)

    def call_batch(self, events: Sequence[Event[Any]]) -> Any:
        """Call the handler with many events at once."""
        if self.takes_event:
            return self.function(list(events))
        return self.function(
            [
                {
                    "ctxt": event.context,
                    "publisher_id": event.publisher_id,
                    "event_type": event.event_type,
                    "payload": event.payload,
                    "metadata": event.metadata,
                }
                for event in events
            ]
        )


class Dispatcher:
    """All handlers of a listener. Immutable but for what it remembers; thread-safe.

    Raises ConfigError for an endpoint without handlers, a `filter_rule` that is no Filter, or a handler that cannot be
    called.
    """

    def __init__(self, endpoints: Any, *, in_batches: bool = False) -> None:
        if isinstance(endpoints, str) or not isinstance(endpoints, Sequence) or not endpoints:
            raise ConfigError("endpoints must be a list of at least one object")
        self.handlers: list[Handler] = []
        for endpoint in endpoints:
            self.handlers += _handlers_of(endpoint, in_batches)
        self.levels: frozenset[str] = frozenset().union(*(handler.levels for handler in self.handlers))
        """Every level that some handler takes: of other levels nothing has to be decoded."""
        self.any_async = any(handler.is_async for handler in self.handlers)
        self.converts = any(handler.converts for handler in self.handlers)
        self._filters = any(handler.filter is not None for handler in self.handlers)
        self._found: dict[tuple[str, str], tuple[Handler, ...]] = {}
        self.known: Mapping[tuple[str, str], Sequence[Handler]] = {} if self._filters else self._found
        """What `find` has found before, by level and type, where that is all that decides: a look here is shorter."""

    def find(self, event: Event[Any]) -> Sequence[Handler]:
        """Return the handlers that want an event, in the order in which they are called."""
        key = (event.level, event.event_type)
        found = self._found.get(key)
        if found is None:
            found = tuple(
                handler
                for handler in self.handlers
                if event.level in handler.levels and handler.wants_type(event.event_type)
            )
            if len(self._found) < _MEMORY:
                self._found[key] = found
        return [handler for handler in found if handler.passes(event)] if self._filters else found


def _handlers_of(endpoint: Any, in_batches: bool) -> list[Handler]:
    if isinstance(endpoint, type):
        raise ConfigError(f"an endpoint is an object, and {endpoint.__name__} is a class: write {endpoint.__name__}()")
    where = type(endpoint).__name__
    rule = getattr(endpoint, "filter_rule", None)
    if rule is not None and not isinstance(rule, Filter):
        raise ConfigError(f"{where}.filter_rule must be a notify.Filter, not {rule!r}")
    names = []
    for name in dir(endpoint):
        # Looked up on the class first, so that a property is not run by being looked at.
        static = inspect.getattr_static(endpoint, name, None)
        if isinstance(static, property) or name.startswith("__"):
            continue
        member = getattr(endpoint, name, None)
        if callable(member) and (
            name in LEVELS or name == "warning" or isinstance(getattr(member, _INTEREST, None), Interest)
        ):
            names.append(name)
    if not names:
        raise ConfigError(
            f"endpoint {where} handles nothing: give it methods named after levels ({', '.join(LEVELS)}), "
            'or mark some with @notify.on("instance.*")'
        )
    return [Handler(endpoint, name, rule, in_batches) for name in names]


def _payload_type(function: Callable[..., Any], in_batches: bool) -> Any:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:
        # An annotation that cannot be resolved (a name that exists for type checkers only) is no reason not to listen.
        return Any
    parameters = list(inspect.signature(function).parameters)
    annotation = hints.get(parameters[0], Any) if parameters else Any
    if in_batches:
        annotation = (*typing.get_args(annotation), Any)[0]
    if typing.get_origin(annotation) is not Event:
        return Any
    return typing.get_args(annotation)[0]
