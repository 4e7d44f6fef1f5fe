"""Where messages go and where they come from on an AMQP 0-9-1 broker: exchanges, queues, bindings and their arguments.

Pure data, shared by everything that speaks AMQP 0-9-1, so that rabbit:// and kombu:// are two ends of one wire. The
`Topology` protocol is what a connection asks; `NativeTopology` is ours, and `wire=oslo` brings the predecessor's.

    ANY    queue messaging/any/EXCHANGE/TOPIC, durable, bounded                     published to it by name
    ONE    queue messaging/one/EXCHANGE/TOPIC/SERVER, durable, expires              published to it by name
           and messaging/stored/EXCHANGE/TOPIC/SERVER, the mailbox of `store`
    ALL    queue messaging/all/EXCHANGE/TOPIC/SERVER/RANDOM, durable, expires       bound to exchange messaging/EXCHANGE
    POOLS  queue messaging/pool/EXCHANGE/TOPIC/POOL, durable, bounded               bound to exchange messaging/EXCHANGE
    REPLY  queue messaging/reply/RANDOM, durable, expires                           published to it by name
    DEAD   queue messaging/dead/EXCHANGE/TOPIC/POOL, durable, drops its oldest      published to it by name
    delay  queue messaging/delay/SECONDS/QUEUE, durable, expires; what it holds goes back to QUEUE by its expiration

Why so. RabbitMQ 4.3 refuses queues that are neither durable nor exclusive, and an exclusive one would not survive a
reconnect: so all are durable, and what belongs to one process expires when nobody uses it. What is published to a queue
by its name needs no exchange, and survives whatever happens to exchanges and bindings. A bounded queue refuses what is
too much (reject-publish), so that the sender is told; only dead letters drop their oldest, which has been there the
longest to be read. A publisher never creates a queue that nobody may ever read: the mailbox, a delay queue and the
queue of dead letters are the exceptions, each for a message that has to be kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from messaging.drivers.rabbit.methods import Bind, DeclareExchange, DeclareQueue, Method
from messaging.drivers.rabbit.properties import Properties, delivered, stamped
from messaging.message import Delivery, Outgoing, Route, RouteKind, Source, SourceKind

__all__ = ["Address", "Copy", "Intake", "NativeTopology", "Topology"]

_PREFIX = "messaging"
_CLASSIC = {"x-queue-type": "classic"}
"""Said even where it is the default, which a vhost can change."""
_LONGEST = 255
"""Bytes of a queue's name or a routing key: both are short strings."""
_MAILBOX_EXPIRES = 7 * 24 * 3600
"""Seconds for which a mailbox is kept when nobody sends to it or reads it. Not an option: arguments of a queue that two
processes declare have to be equal."""
_ROUTES = 4096
"""Routes whose addresses are remembered; addresses of answers are as many as there are callers."""
_DEAD_LETTERS = 100_000
"""Dead letters of one pool that are kept; the same reason."""
_DELAY_MARGIN = 120
"""Seconds for which a delay queue outlives what it holds, at least."""


class Address(NamedTuple):
    """Where a message is published. `needs` has to be declared before, and again after `fresh` seconds."""

    exchange: str
    key: str
    mandatory: bool = True
    """Whether the broker says so when no queue takes the message."""
    persistent: bool = False
    """Whether the broker writes it to its disk."""
    expires: float | None = None
    """Seconds after which the broker throws it away, whatever the message's own budget; None: that alone counts."""
    needs: tuple[Method, ...] = ()
    fresh: float = math.inf


class Intake(NamedTuple):
    """How a source is read: what is declared and bound, in order, and which queues are consumed."""

    methods: tuple[Method, ...]
    queues: tuple[str, ...]
    address: str
    """The address under which it is reachable, as `on_subscribed` tells it."""
    temporary: tuple[str, ...] = ()
    """Queues that are of no use to anybody else: deleted, if they are empty, when this source is unsubscribed."""
    no_ack: bool = False
    """Answers by direct reply-to are not settled."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """Of each consumer."""


class Copy(NamedTuple):
    """Where a copy of a delivery goes (later, or to the dead letters), and the headers that it gets in addition."""

    address: Address
    headers: dict[str, Any]


class Topology(Protocol):
    """What a connection asks. Pure: the same question has the same answer, so answers may be kept."""

    def address(self, outgoing: Outgoing) -> Address:
        """Where a message goes, by its route (and by its headers, where a wire says so); not for `store`."""

    def mailbox(self, outgoing: Outgoing) -> Address:
        """Where a message with `store` waits for its named server."""

    def intake(self, source: Source) -> Intake:
        """How a source is read."""

    def delayed(self, source: Source, queue: str, delay: float) -> Copy:
        """Where a message of a queue waits for `delay` seconds before it comes back to that queue alone."""

    def dead(self, source: Source, queue: str, reason: str) -> Copy | None:
        """Where a rejected message of a source is kept; None: it is dropped."""

    def stamp(
        self, outgoing: Outgoing, message_id: str, reply_to: str, expires: float | None, persistent: bool
    ) -> Properties:
        """The properties of a message that is written now. `message_id` is what it has to carry where its headers name
        none, so that it can be told apart when it comes back; `expires` is in seconds.
        """

    def read(
        self, source: Source, generation: int, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> Delivery:
        """What a message that has come is to the layers above. Raises ValueError for properties nobody here wrote."""


class NativeTopology:
    """Ours. `identity` is random and belongs to one connection: it is what its own queues are named by.

    `expires`: seconds for which the queues of a process (reply, fanout, server) outlive their last consumer.
    `topic_expires`: the same for topic and pool queues; 0: for ever. `max_length`: messages in a topic, pool or server
    queue. `provided`: everything was declared by somebody else, so nothing may have a random name: the fanout queue of
    a server is messaging/all/EXCHANGE/TOPIC/SERVER, and answers come by direct reply-to.
    """

    def __init__(
        self,
        identity: str,
        *,
        queue_type: str = "classic",
        expires: float = 300.0,
        topic_expires: float = 0.0,
        max_length: int = 1_000_000,
        direct_replies: bool = False,
        provided: bool = False,
    ) -> None:
        self._identity = identity
        self._direct_replies = direct_replies or provided
        self._provided = provided
        self._known: dict[Route, Address] = {}
        bounds = {"x-max-length": max_length, "x-overflow": "reject-publish"}
        kind = {"x-queue-type": queue_type}
        self._shared: dict[str, Any] = {**kind, **bounds}
        if topic_expires > 0.0:
            self._shared["x-expires"] = int(topic_expires * 1000)
        self._own: dict[str, Any] = {**_CLASSIC, "x-expires": int(expires * 1000)}
        self._server: dict[str, Any] = {**self._own, **bounds}
        self._dead: dict[str, Any] = {**kind, "x-max-length": _DEAD_LETTERS}

    def address(self, outgoing: Outgoing) -> Address:
        """See Topology."""
        route = outgoing.route
        known = self._known.get(route)
        if known is None:
            if len(self._known) >= _ROUTES:
                self._known.clear()
            known = self._known[route] = self._address(route)
        return known

    def _address(self, route: Route) -> Address:
        kind, exchange, topic, server, address = route
        if kind is RouteKind.REPLY:
            # The broker returns what was published mandatory to direct reply-to, and delivers it all the same.
            return Address("", address, mandatory=not address.startswith(DIRECT_REPLY_TO))
        if kind is RouteKind.ANY:
            return Address("", queue_name("any", exchange, topic))
        if kind is RouteKind.ONE:
            return Address("", queue_name("one", exchange, topic, server))
        declared = _exchange(exchange)
        if kind is RouteKind.ALL:
            return Address(declared.name, _key("all", topic), mandatory=False, needs=(declared,))
        return Address(declared.name, _key("pool", topic), persistent=True, needs=(declared,))

    def mailbox(self, outgoing: Outgoing) -> Address:
        """See Topology."""
        declared = _mailbox(outgoing.route.exchange, outgoing.route.topic, outgoing.route.server)
        # Declaring it again renews it, so it is kept while anybody sends to it.
        return Address(
            "", declared.name, persistent=True, expires=outgoing.store, needs=(declared,), fresh=_MAILBOX_EXPIRES / 14
        )

    def stamp(
        self, outgoing: Outgoing, message_id: str, reply_to: str, expires: float | None, persistent: bool
    ) -> Properties:
        """See Topology."""
        return stamped(
            outgoing.headers,
            message_id=message_id,
            reply_to=reply_to,
            expires=expires,
            persistent=persistent,
            sender=self._identity,
        )

    def read(
        self, source: Source, generation: int, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> Delivery:
        """See Topology."""
        return delivered(source, generation, tag, redelivered, properties, body)

    def intake(self, source: Source) -> Intake:
        """See Topology."""
        kind, exchange, topic, server, pool = source
        if kind is SourceKind.REPLY:
            if self._direct_replies:
                return Intake((), (DIRECT_REPLY_TO,), DIRECT_REPLY_TO, no_ack=True)
            name = queue_name("reply", self._identity)
            return Intake((DeclareQueue(name, arguments=self._own),), (name,), name, (name,))
        if kind is SourceKind.ANY:
            name = queue_name("any", exchange, topic)
            return Intake((DeclareQueue(name, arguments=self._shared),), (name,), name)
        if kind is SourceKind.ONE:
            name = queue_name("one", exchange, topic, server)
            stored = _mailbox(exchange, topic, server)
            own = DeclareQueue(name, arguments=self._server)
            return Intake((own, stored), (name, stored.name), name, (name, stored.name))
        if kind is SourceKind.DEAD:
            name = queue_name("dead", exchange, topic, pool)
            return Intake((DeclareQueue(name, arguments=self._dead),), (name,), name)
        declared = _exchange(exchange)
        if kind is SourceKind.ALL:
            marks = [] if self._provided else [self._identity]
            name = queue_name("all", exchange, topic, server, *marks)
            queue = DeclareQueue(name, arguments=self._own)
            return Intake((declared, queue, Bind(name, declared.name, _key("all", topic))), (name,), name, (name,))
        name = queue_name("pool", exchange, topic, pool)
        queue = DeclareQueue(name, arguments=self._shared)
        return Intake((declared, queue, Bind(name, declared.name, _key("pool", topic))), (name,), name)

    def delayed(self, source: Source, queue: str, delay: float) -> Copy:
        """See Topology.

        Queues give up only what is in front, so each holds delays of one octave: what waits in front of a message can
        make it late by its own delay at most, and each message still has its own expiration.
        """
        step = 2.0 ** math.ceil(math.log2(delay)) if delay > 0.0 else 1.0
        step = max(step, 1.0)
        name = queue_name("delay", f"{step:g}", queue)
        expires = 2.0 * step + _DELAY_MARGIN
        arguments = {
            **_CLASSIC,
            "x-expires": int(expires * 1000),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
        }
        declared = DeclareQueue(name, arguments=arguments)
        return Copy(
            Address("", name, persistent=True, expires=delay, needs=(declared,), fresh=_DELAY_MARGIN / 2),
            {},
        )

    def dead(self, source: Source, queue: str, reason: str) -> Copy | None:
        """See Topology. What is rejected of a request, whose sender is told, is no dead letter."""
        kind, exchange, topic, _, pool = source
        if kind is not SourceKind.POOLS:
            return None
        declared = DeclareQueue(queue_name("dead", exchange, topic, pool), arguments=self._dead)
        headers = {"dead-exchange": exchange, "dead-topic": topic, "dead-pool": pool, "dead-queue": queue}
        return Copy(Address("", declared.name, persistent=True, needs=(declared,)), headers)


DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"
"""The pseudo-queue of RabbitMQ by which answers go straight to the channel that asked."""


def queue_name(*parts: str) -> str:
    """Join names so that no two lists of names give the same: a slash inside a name is written %2F.

    What is longer than a broker takes ends in a digest of the whole instead.
    """
    name = "/".join((_PREFIX, *(part.replace("%", "%25").replace("/", "%2F") for part in parts)))
    encoded = name.encode()
    if len(encoded) <= _LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:32]
    return encoded[: _LONGEST - 33].decode(errors="ignore") + "~" + digest


def _key(kind: str, topic: str) -> str:
    return queue_name(kind, topic)


def _exchange(exchange: str) -> DeclareExchange:
    """One exchange carries all fanouts and notifications of an exchange of ours, told apart by their keys."""
    return DeclareExchange(queue_name(exchange), "direct")


def _mailbox(exchange: str, topic: str, server: str) -> DeclareQueue:
    return DeclareQueue(
        queue_name("stored", exchange, topic, server), arguments={**_CLASSIC, "x-expires": _MAILBOX_EXPIRES * 1000}
    )
