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
in them, and the pool is the group. Members of one group may listen to different ones, and get messages of these alone;
so each has a retry topic of its own in each group: `notifications.info..billing.retry`.
"""

from __future__ import annotations

import re
from typing import ClassVar, TypeVar

from messaging.errors import InvalidTarget
from messaging.message import Route, RouteKind, Source, SourceKind

__all__ = ["NativeNames", "OsloNames", "names_for", "quoted"]

_LONGEST = 249
"""Characters of a topic's name; Kafka's limit."""
_FOREIGN = re.compile(r"_(?=x)|[^A-Za-z0-9._-]|(?<=\.)\.|^\.|\.$")
_FOREIGN_OR_DOT = re.compile(r"_(?=x)|[^A-Za-z0-9_-]")
_Address = TypeVar("_Address", Route, Source)
DEFAULT_POOL = "default"
"""That of listeners which name none."""


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

    keeps_dead: ClassVar[bool] = True
    """Whether pools have topics of dead letters."""

    def sending(self, route: Route) -> str:
        """The topic to which a message of a route goes. Raises InvalidTarget."""
        return _checked(self._topic(_notifications(route).exchange, route.topic))

    def receiving(self, source: Source) -> str:
        """The topic that a source is read from, beside the one for retries. Raises InvalidTarget."""
        if source.kind is SourceKind.DEAD:
            return self.dead(source)
        return _checked(self._topic(_notifications(source).exchange, source.topic))

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

    def _topic(self, exchange: str, topic: str) -> str:
        return f"{quoted(exchange, dots=False)}.{quoted(topic)}"


class OsloNames(NativeNames):
    """The predecessor's names: what is above has made a topic of each level already. Immutable.

    There are no dead letters: one that is sent again is for one pool, and only our listeners pass over what is for
    another; and a pool has them of all levels, while each goes to the topic of its own.
    """

    keeps_dead: ClassVar[bool] = False

    def __init__(self, suffix: str | None, group: str, *, listeners_too: bool) -> None:
        self._sending = f".{suffix}" if suffix else ""
        self._receiving = self._sending if listeners_too else ""
        self._group = group

    def sending(self, route: Route) -> str:
        """See NativeNames."""
        return _checked(f"{_notifications(route).topic}{self._sending}")

    def receiving(self, source: Source) -> str:
        """See NativeNames."""
        if source.kind is SourceKind.DEAD:
            raise InvalidTarget("kafka:// keeps no dead letters with wire=oslo")
        return _checked(f"{_notifications(source).topic}{self._receiving}")

    def group(self, source: Source) -> str:
        """See NativeNames."""
        return self._group if source.pool == DEFAULT_POOL else source.pool

    def retry(self, source: Source) -> str:
        """See NativeNames. Named by the group, since listeners without a pool may be in any (option oslo_group)."""
        return _checked(f"{self.receiving(source)}..{quoted(self.group(source), dots=False)}.retry")

    def _topic(self, exchange: str, topic: str) -> str:
        return topic


def _notifications(address: _Address) -> _Address:
    if address.kind not in (RouteKind.POOLS, SourceKind.POOLS):
        raise InvalidTarget("kafka:// carries notifications alone")
    return address


def names_for(wire: str, vhost: str | None, group: str, *, listeners_too: bool) -> NativeNames:
    """The names of a wire format."""
    return NativeNames() if wire == "native" else OsloNames(vhost, group, listeners_too=listeners_too)
