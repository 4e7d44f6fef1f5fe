"""What routes and sources are called on Kafka: topics and consumer groups. Pure names, no I/O.

    Route.pools("messaging", "notifications")     topic   messaging.notifications
    pool "billing" of it                          group   billing@messaging.notifications
                                          retry   topic   messaging.notifications..billing.retry
                                    dead letters  topic   messaging.notifications..billing.dead

Two different things never get one name: Kafka allows letters, digits, `.`, `_` and `-`, so everything else is written
as `_x` and two hexadecimal digits per byte, and so is an underscore that stands before an x. A dot in an exchange is
written so too, as is one that follows another dot or stands at an end of a topic; so the first dot ends the exchange,
and two dots begin a pool.

With `wire=oslo` the topics are those of oslo.messaging, one for each level: `notifications.info`; the exchange is not
in them, and the pool is the group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from messaging.errors import InvalidTarget
from messaging.message import Route, RouteKind, Source, SourceKind

__all__ = ["LEVELS", "NativeNames", "OsloNames", "names_for", "quoted"]

_LONGEST = 249
"""Characters of a topic's name; Kafka's limit."""
_FOREIGN = re.compile(r"_(?=x)|[^A-Za-z0-9._-]|(?<=\.)\.|^\.|\.$")
_FOREIGN_OR_DOT = re.compile(r"_(?=x)|[^A-Za-z0-9_-]")
LEVELS = ("audit", "debug", "info", "warn", "error", "critical", "sample")
_LEVEL_HEADER = "level"


def quoted(text: str, *, dots: bool = True) -> str:
    """Write a name with the characters of Kafka; `dots`: single dots inside stay as they are."""
    return (_FOREIGN if dots else _FOREIGN_OR_DOT).sub(_as_hex, text)


def _as_hex(match: re.Match[str]) -> str:
    return "".join(f"_x{byte:02x}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _checked(name: str) -> str:
    if len(name) > _LONGEST:
        raise InvalidTarget(f"Kafka's topics have names of at most {_LONGEST} characters; {name!r} has {len(name)}")
    return name


class NativeNames:
    """Our own names. Immutable."""

    def sending(self, route: Route, headers: Mapping[str, Any]) -> str:
        """The topic to which a message of a route goes. Raises InvalidTarget."""
        if route.kind is not RouteKind.POOLS:
            raise InvalidTarget("kafka:// carries notifications alone")
        return self._topic(route.exchange, route.topic)

    def receiving(self, source: Source) -> Sequence[str]:
        """The topics that a source is read from, without the one for retries. Raises InvalidTarget."""
        if source.kind is SourceKind.DEAD:
            return [self.dead(source)]
        if source.kind is not SourceKind.POOLS:
            raise InvalidTarget("kafka:// carries notifications alone")
        return [self._topic(source.exchange, source.topic)]

    def group(self, source: Source) -> str:
        """The consumer group of a source."""
        dead = ".dead" if source.kind is SourceKind.DEAD else ""
        return f"{quoted(source.pool)}@{self._topic(source.exchange, source.topic)}{dead}"

    def retry(self, source: Source) -> str:
        """The topic in which a pool's notifications wait for another attempt."""
        return _checked(f"{self._topic(source.exchange, source.topic)}..{quoted(source.pool, dots=False)}.retry")

    def dead(self, source: Source) -> str:
        """The topic of a pool's dead letters."""
        return _checked(f"{self._topic(source.exchange, source.topic)}..{quoted(source.pool, dots=False)}.dead")

    def level(self, topic: str) -> str | None:
        """The level that a topic's name tells; None: it tells none."""
        return None

    def _topic(self, exchange: str, topic: str) -> str:
        return _checked(f"{quoted(exchange, dots=False)}.{quoted(topic)}")


class OsloNames(NativeNames):
    """The predecessor's names. Immutable."""

    def __init__(self, suffix: str | None, group: str, *, listeners_too: bool) -> None:
        self._sending = f".{suffix}" if suffix else ""
        self._receiving = self._sending if listeners_too else ""
        self._group = group
        self._levels = {f".{level}{end}": level for level in LEVELS for end in {self._sending, self._receiving}}

    def sending(self, route: Route, headers: Mapping[str, Any]) -> str:
        """See NativeNames."""
        if route.kind is not RouteKind.POOLS:
            raise InvalidTarget("kafka:// carries notifications alone")
        return f"{route.topic}.{headers.get(_LEVEL_HEADER, 'info')}{self._sending}"

    def receiving(self, source: Source) -> Sequence[str]:
        """See NativeNames."""
        if source.kind is SourceKind.DEAD:
            return [self.dead(source)]
        if source.kind is not SourceKind.POOLS:
            raise InvalidTarget("kafka:// carries notifications alone")
        return [f"{source.topic}.{level}{self._receiving}" for level in LEVELS]

    def group(self, source: Source) -> str:
        """See NativeNames."""
        group = self._group if source.pool == "default" else source.pool
        return f"{group}.dead" if source.kind is SourceKind.DEAD else group

    def level(self, topic: str) -> str | None:
        """See NativeNames."""
        for end, level in self._levels.items():
            if topic.endswith(end):
                return level
        return None

    def _topic(self, exchange: str, topic: str) -> str:
        return topic


def names_for(wire: str, vhost: str | None, group: str, *, listeners_too: bool) -> NativeNames:
    """The names of a wire format."""
    return NativeNames() if wire == "native" else OsloNames(vhost, group, listeners_too=listeners_too)
