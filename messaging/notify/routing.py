"""A sink that spreads notifications over other sinks by a file of rules.

    [audits.log]                                  # group.sink; a sink may stand in several groups
    accepted_events = ["identity.*", "*.delete.end"]
    accepted_levels = ["audit", "error"]

    [everything.messaging]

Patterns are those of fnmatch. Both lists of one rule must accept a notification, a list that is absent accepts all; one
rule that accepts is enough for its sink, which gets the notification once. TOML, because Python reads it without
another package.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from messaging.errors import ConfigError
from messaging.notify.event import Event
from messaging.notify.sinks import Sink, sink_named
from messaging.options import nearest

__all__ = ["Routing"]

_KEYS = {"accepted_events": "events", "accepted_levels": "levels", "accepted_priorities": "levels"}
"""The last is the predecessor's word for levels."""


class _Rule(NamedTuple):
    sink: str
    events: tuple[str, ...] | None
    levels: tuple[str, ...] | None

    def accepts(self, event: Event[Any]) -> bool:
        return _matches(event.event_type, self.events) and _matches(event.level, self.levels)


class Routing:
    """Rules from a TOML file, or from a mapping of the same shape. Immutable, thread-safe.

    `sinks` gives objects for names in the rules; other names are looked up as in `Notifier(sinks=...)`. Raises
    ConfigError for a file that cannot be read, a rule that cannot be understood, or an unknown sink.
    """

    def __init__(self, rules: str | Path | Mapping[str, Any], *, sinks: Mapping[str, Sink] | None = None) -> None:
        groups = rules if isinstance(rules, Mapping) else _read(Path(rules))
        self._rules = [
            _rule(f"{group}.{sink}", sink, rule)
            for group, members in groups.items()
            for sink, rule in _table(members, group).items()
        ]
        given = dict(sinks or {})
        self._sinks = {rule.sink: given.get(rule.sink) or sink_named(rule.sink) for rule in self._rules}

    def choose(self, event: Event[Any]) -> list[Sink]:
        """Return the sinks whose rules accept a notification, each once."""
        names = dict.fromkeys(rule.sink for rule in self._rules if rule.accepts(event))
        return [self._sinks[name] for name in names]

    @property
    def sinks(self) -> list[Sink]:
        """Every sink that a rule names."""
        return list(self._sinks.values())

    def emit(self, event: Event[Any]) -> None:
        """Give it to the chosen sinks; the notifier asks `choose` instead, so that it can wait for the transport."""
        for sink in self.choose(event):
            sink.emit(event)


def _matches(value: str, patterns: tuple[str, ...] | None) -> bool:
    return patterns is None or any(fnmatchcase(value, pattern) for pattern in patterns)


def _read(path: Path) -> dict[str, Any]:
    # Imported by those who have rules in a file; most have none.
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the routing rules in {path} cannot be read: {error}") from error


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"routing rules: {where} must be a table, not {value!r}")
    return value


def _rule(where: str, sink: str, rule: Any) -> _Rule:
    found: dict[str, tuple[str, ...]] = {}
    for key, patterns in _table(rule, where).items():
        field = _KEYS.get(key)
        if field is None:
            raise ConfigError(
                f"routing rules: {where} has no {key!r}{nearest(key, list(_KEYS))}; "
                "allowed: accepted_events, accepted_levels"
            )
        if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigError(f"routing rules: {where}.{key} must be a list of patterns, not {patterns!r}")
        found[field] = tuple(patterns)
    return _Rule(sink, found.get("events"), found.get("levels"))
