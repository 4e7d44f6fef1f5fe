"""Where messages of each route go and where each source is attached: pure functions, one class per kind of peer.

The names are those of the predecessor's driver ("routable"), so that a router that is set up for it serves this one:

    PREFIX/anycast/EXCHANGE/TOPIC           one server of a topic
    PREFIX/unicast/EXCHANGE/TOPIC/SERVER    the named one
    PREFIX/multicast/EXCHANGE/TOPIC         all of them

with a prefix for RPC and one for notifications, and the virtual host before the exchange where the peer has none of
its own. What a name may hold beyond letters, digits and `-._~` is percent-encoded, because peers give a meaning to `*`,
`#`, `:` and `/`.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol
from urllib.parse import quote

from messaging.errors import Unsupported
from messaging.message import Route, RouteKind, Source, SourceKind

__all__ = ["Addresses", "Artemis", "Attachment", "BrokerJ", "Destination", "RabbitMQ", "Router", "Words", "existing"]


class Words(NamedTuple):
    """The configurable parts of addresses."""

    rpc: str = "openstack.org/om/rpc"
    notify: str = "openstack.org/om/notify"
    multicast: str = "multicast"
    unicast: str = "unicast"
    anycast: str = "anycast"
    vhost: str = ""


class Destination(NamedTuple):
    """Where a message goes."""

    address: str
    annotations: dict[str, bytes] | None = None
    """Message annotations that make the peer treat the address as what it is; values are encoded already."""
    capabilities: tuple[str, ...] = ()
    """What does the same for a link of its own to the address."""


class Attachment(NamedTuple):
    """How a receiver attaches to its source."""

    address: str | None
    capabilities: tuple[str, ...] = ()
    subscription: str = ""
    """The name of a durable subscription that its members share."""


class Addresses(Protocol):
    """The addresses of one kind of peer."""

    def destination(self, route: Route) -> Destination:
        """Where a message of this route goes."""

    def attachment(self, source: Source) -> Attachment:
        """How to receive from this source; REPLY is dynamic everywhere, and has no address."""

    def again(self, source: Source) -> Destination | None:
        """Where a copy of a delivery goes that shall come again to the same pool; None: there is no such address."""

    def dead(self, source: Source) -> Destination:
        """Where the dead letters of a source's pool are kept."""


class _Routable:
    """What all peers have in common."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def _rpc(self, kind: str, *names: str) -> str:
        words = self._words
        return self._joined(words.rpc, kind, words.vhost, *names)

    def _notify(self, kind: str, *names: str) -> str:
        words = self._words
        return self._joined(words.notify, kind, words.vhost, *names)

    def _joined(self, prefix: str, kind: str, *names: str) -> str:
        return "/".join([prefix, kind, *(quote(name, safe="") for name in names if name)])


class Router(_Routable):
    """qpid-dispatch and skupper-router: addresses are patterns of their configuration, and nothing is kept."""

    def destination(self, route: Route) -> Destination:
        """See Addresses."""
        return Destination(self._address(route))

    def _address(self, route: Route) -> str:
        words = self._words
        kind = route.kind
        if kind is RouteKind.REPLY:
            return route.address
        if kind is RouteKind.ANY:
            return self._rpc(words.anycast, route.exchange, route.topic)
        if kind is RouteKind.ONE:
            return self._rpc(words.unicast, route.exchange, route.topic, route.server)
        if kind is RouteKind.ALL:
            return self._rpc(words.multicast, route.exchange, route.topic)
        return self._notify(words.anycast, route.exchange, route.topic)

    def attachment(self, source: Source) -> Attachment:
        """See Addresses."""
        if source.kind is SourceKind.REPLY:
            return Attachment(None)
        return Attachment(self._address(_as_route(source)))

    def again(self, source: Source) -> Destination | None:
        """See Addresses."""
        return None

    def dead(self, source: Source) -> Destination:
        """See Addresses."""
        raise LookupError("a router keeps nothing, so it has no dead letters")


class Artemis(_Routable):
    """Apache Artemis: an address is a queue or a topic as the first who uses it says."""

    _QUEUE: ClassVar[tuple[dict[str, bytes], tuple[str]]] = ({"x-opt-jms-dest": b"\x51\x00"}, ("queue",))
    _TOPIC: ClassVar[tuple[dict[str, bytes], tuple[str]]] = ({"x-opt-jms-dest": b"\x51\x01"}, ("topic",))

    def destination(self, route: Route) -> Destination:
        """See Addresses."""
        words = self._words
        kind = route.kind
        if kind is RouteKind.REPLY:
            # Without an annotation: a reply must not make a queue when its caller is gone.
            return Destination(route.address)
        if kind is RouteKind.ANY:
            return Destination(self._rpc(words.anycast, route.exchange, route.topic), *self._QUEUE)
        if kind is RouteKind.ONE:
            return Destination(self._rpc(words.unicast, route.exchange, route.topic, route.server), *self._QUEUE)
        if kind is RouteKind.ALL:
            return Destination(self._rpc(words.multicast, route.exchange, route.topic), *self._TOPIC)
        return Destination(self._notify(words.multicast, route.exchange, route.topic), *self._TOPIC)

    def attachment(self, source: Source) -> Attachment:
        """See Addresses."""
        kind = source.kind
        if kind is SourceKind.REPLY:
            return Attachment(None, ("temporary-queue",))
        if kind is SourceKind.DEAD:
            return Attachment(self.dead(source).address, ("queue",))
        address = self.destination(_as_route(source)).address
        if kind is SourceKind.POOLS:
            return Attachment(address, ("topic", "shared", "global"), self._subscription(source))
        return Attachment(address, ("topic",) if kind is SourceKind.ALL else ("queue",))

    def _subscription(self, source: Source) -> str:
        return self._notify("pool", source.exchange, source.topic, source.pool)

    def again(self, source: Source) -> Destination | None:
        """See Addresses: the queue behind a shared subscription has a name of its own."""
        address = self.destination(_as_route(source)).address
        return Destination(f"{address}::{self._subscription(source)}:global")

    def dead(self, source: Source) -> Destination:
        """See Addresses."""
        return Destination(self._notify("dead", source.exchange, source.topic, source.pool), *self._QUEUE)


class _Dotted(_Routable):
    """Peers that take a slash for something else: names are divided by dots."""

    def _joined(self, prefix: str, kind: str, *names: str) -> str:
        # The dots of names would be taken for divisions: two topics could have one address.
        quoted = (quote(name, safe="").replace(".", "%2E") for name in names if name)
        return ".".join([prefix.replace("/", "."), kind, *quoted])


class BrokerJ(_Dotted):
    """Apache Qpid Broker-J: queues by their names; topics are keys of the exchange amq.direct.

    Its queues are named with dots, because it takes what stands before a slash for an exchange.
    """

    def destination(self, route: Route) -> Destination:
        """See Addresses."""
        words = self._words
        kind = route.kind
        if kind is RouteKind.REPLY:
            return Destination(route.address)
        if kind is RouteKind.ANY:
            return Destination(self._rpc(words.anycast, route.exchange, route.topic))
        if kind is RouteKind.ONE:
            return Destination(self._rpc(words.unicast, route.exchange, route.topic, route.server))
        if kind is RouteKind.ALL:
            return Destination("amq.direct/" + self._rpc(words.multicast, route.exchange, route.topic))
        return Destination("amq.direct/" + self._notify(words.multicast, route.exchange, route.topic))

    def attachment(self, source: Source) -> Attachment:
        """See Addresses."""
        kind = source.kind
        if kind is SourceKind.REPLY:
            return Attachment(None, ("temporary-queue",))
        if kind is SourceKind.DEAD:
            return Attachment(self.dead(source).address)
        address = self.destination(_as_route(source)).address
        if kind is SourceKind.POOLS:
            name = self._notify("pool", source.exchange, source.topic, source.pool)
            return Attachment(address, ("topic", "shared", "global"), name)
        return Attachment(address, ("topic",) if kind is SourceKind.ALL else ())

    def again(self, source: Source) -> Destination | None:
        """See Addresses."""
        return None

    def dead(self, source: Source) -> Destination:
        """See Addresses."""
        return Destination(self._notify("dead", source.exchange, source.topic, source.pool))


_ONLY_POOL = "default"
"""The name of the pool of those who name none."""


class RabbitMQ(_Dotted):
    """RabbitMQ 3 with rabbitmq_amqp1_0: queues that attaching to `/queue/NAME` declares, and nothing else.

    A message to a queue that nobody has declared is confirmed and dropped, so every address gets a link of its own,
    whose attaching declares the queue.
    """

    def destination(self, route: Route) -> Destination:
        """See Addresses."""
        return Destination("/queue/" + self._notify("pool", route.exchange, route.topic))

    def attachment(self, source: Source) -> Attachment:
        """See Addresses. Raises Unsupported for a pool: it would take from the only one."""
        if source.pool not in ("", _ONLY_POOL):
            raise Unsupported(
                f"RabbitMQ 3 has no pools over AMQP 1.0: every listener of a topic is in the pool {_ONLY_POOL!r}, and "
                f"none in {source.pool!r}; use rabbit:// for that"
            )
        if source.kind is SourceKind.DEAD:
            return Attachment(self.dead(source).address)
        return Attachment(self.destination(_as_route(source)).address)

    def again(self, source: Source) -> Destination | None:
        """See Addresses."""
        return None

    def dead(self, source: Source) -> Destination:
        """See Addresses."""
        return Destination("/queue/" + self._notify("dead", source.exchange, source.topic, source.pool))


def existing(address: str) -> str:
    """RabbitMQ 3: the address of a queue that declares it, as one that is refused where there is none."""
    return f"/amq{address}"


_ROUTE_KINDS = {
    SourceKind.ANY: RouteKind.ANY,
    SourceKind.ONE: RouteKind.ONE,
    SourceKind.ALL: RouteKind.ALL,
    SourceKind.POOLS: RouteKind.POOLS,
}


def _as_route(source: Source) -> Route:
    return Route(_ROUTE_KINDS[source.kind], source.exchange, source.topic, source.server)
