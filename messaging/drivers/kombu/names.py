"""How queues and exchanges are called on kombu's virtual transports: pure names.

Each part is quoted, so no two lists of names give the same queue, and nothing in a name means anything to a transport:
redis would take * ? [ ] in the name of a fanout for a pattern.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from messaging.message import Route, RouteKind, Source, SourceKind

__all__ = ["Place", "dead_letters", "mailbox", "places", "pools_exchange", "queue_of", "reply_queue"]


class Place(NamedTuple):
    """One thing to read from. `own`: it belongs to one process, and is of no use when that is gone."""

    queue: str
    kind: SourceKind
    own: bool = False


def _name(*parts: str) -> str:
    return ":".join(("messaging", *(quote(part, safe="") for part in parts)))


def queue_of(route: Route) -> str:
    """The queue, or for ALL the fanout exchange, of a route; not for POOLS, which has several."""
    kind, exchange, topic, server, address = route
    if kind is RouteKind.REPLY:
        return address
    return _name(kind.value, exchange, topic, server) if server else _name(kind.value, exchange, topic)


def mailbox(exchange: str, topic: str, server: str) -> str:
    """Where messages with `store` wait for a server."""
    return _name("stored", exchange, topic, server)


def pools_exchange(exchange: str, topic: str) -> str:
    """The exchange to which the queues of all pools of a topic are bound."""
    return _name("pools", exchange, topic)


def dead_letters(exchange: str, topic: str, pool: str) -> str:
    """The queue of a pool's dead letters."""
    return _name("dead", exchange, topic, pool)


def reply_queue(identity: str) -> str:
    """The queue of a connection's answers."""
    return _name("reply", identity)


def places(source: Source, identity: str) -> list[Place]:
    """What is read for a source."""
    kind, exchange, topic, server, pool = source
    if kind is SourceKind.REPLY:
        return [Place(reply_queue(identity), kind, True)]
    if kind is SourceKind.ANY:
        return [Place(queue_of(Route.any(exchange, topic)), kind)]
    if kind is SourceKind.ONE:
        own = queue_of(Route.one(exchange, topic, server))
        return [Place(own, kind, True), Place(mailbox(exchange, topic, server), kind)]
    if kind is SourceKind.ALL:
        return [Place(queue_of(Route.all(exchange, topic)), kind)]
    if kind is SourceKind.DEAD:
        return [Place(dead_letters(exchange, topic, pool), kind)]
    return [Place(_name("pool", exchange, topic, pool), kind)]
