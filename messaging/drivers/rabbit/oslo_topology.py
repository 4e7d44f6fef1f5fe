"""The exchanges, queues and properties of oslo.messaging 18 on RabbitMQ, for `wire=oslo`: pure data, as topology.py.

    ANY    queue TOPIC                       bound to the topic exchange EXCHANGE by its name
    ONE    queue TOPIC.SERVER                the same
    ALL    queue TOPIC_fanout_RANDOM, expires    bound to the fanout exchange TOPIC_fanout, whatever the EXCHANGE
    POOLS  queue TOPIC.LEVEL, or of a named pool queue POOL with a binding for each topic and level
    REPLY  queue reply_RANDOM, expires       published to it by name
    delay  as in the native topology; what it holds goes back to its queue by its expiration

TOPIC of a notification comes with its LEVEL already. Two sides that declare one queue have to agree in every argument,
so these are the predecessor's, by its option names: `durable` and `auto_delete` for exchanges and queues that stay,
`quorum` for queues that stay, `transient_quorum` for those of one process, which expire `ttl` seconds after it.

Its queues of one process are by default neither durable nor exclusive. RabbitMQ 4.3 refuses such queues unless it is
told otherwise, and the cure is on both sides: `transient_quorum`.

Where it is free to, this side does better: messages are mandatory, so that no queue is known at once, and a
notification that was not handled comes again later and not at once.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from messaging.drivers.rabbit.methods import Bind, DeclareExchange, DeclareQueue
from messaging.drivers.rabbit.properties import PERSISTENT, Properties, expiration
from messaging.drivers.rabbit.topology import Address, Intake, NativeTopology
from messaging.message import Outgoing, Route, RouteKind, Source, SourceKind

__all__ = ["OsloTopology"]

_DEFAULT_POOL = "default"
"""The pool of a listener that names none: its queues are those that notifiers declare too."""
_FANOUT_FRESH = 0.25
"""Seconds for which an exchange counts as declared that goes with its last queue. What is published to it after that
closes its channel, and puts in doubt what is under way beside it."""


class OsloTopology(NativeTopology):
    """The predecessor's; what it has no word for (delays, reading properties) is ours.

    `identity` is random and belongs to one connection; `ttl` is in seconds, 0: for ever.
    """

    def __init__(
        self,
        identity: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        quorum: bool = False,
        transient_quorum: bool = False,
        ttl: int = 1800,
        delivery_limit: int = 0,
    ) -> None:
        super().__init__(identity)
        self._durable = durable or quorum
        self._auto_delete = auto_delete
        self._transient_durable = transient_quorum
        quorum_arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if delivery_limit:
            quorum_arguments["x-delivery-limit"] = delivery_limit
        self._lasting = quorum_arguments if quorum else {}
        self._passing: dict[str, Any] = {
            **(quorum_arguments if transient_quorum else {}),
            **({"x-expires": ttl * 1000} if ttl else {}),
        }

    def _address(self, route: Route) -> Address:
        kind, exchange, topic, server, address = route
        if kind is RouteKind.REPLY:
            return Address("", address, persistent=True)
        if kind is RouteKind.ALL:
            fanout = self._fanout(topic)
            return Address(fanout.name, "", mandatory=False, persistent=True, needs=(fanout,), fresh=_FANOUT_FRESH)
        declared = self._exchange(exchange)
        fresh = _FANOUT_FRESH if self._auto_delete else math.inf
        if kind is RouteKind.POOLS:
            # Notifiers of this topology keep what nobody listens to yet.
            needs = (declared, self._queue(topic), Bind(topic, exchange, topic))
            return Address(exchange, topic, persistent=True, needs=needs, fresh=fresh)
        key = f"{topic}.{server}" if kind is RouteKind.ONE else topic
        return Address(exchange, key, persistent=True, needs=(declared,), fresh=fresh)

    def mailbox(self, outgoing: Outgoing) -> Address:
        """There are none: clients refuse `store` before they send."""
        return self.address(outgoing)

    def intake(self, source: Source) -> Intake:
        """See Topology."""
        kind, exchange, topic, server, pool = source
        if kind is SourceKind.REPLY:
            name = f"reply_{self._random('reply')}"
            # It stays until it expires: to a queue that is gone the predecessor's servers send for a minute.
            return Intake((self._own_queue(name),), (name,), name)
        if kind is SourceKind.ALL:
            fanout = self._fanout(topic)
            name = f"{fanout.name}_{self._random(topic, server)}"
            return Intake((fanout, self._own_queue(name), Bind(name, fanout.name, topic)), (name,), name, (name,))
        if kind is SourceKind.ONE:
            key = name = f"{topic}.{server}"
        else:
            key = topic
            name = topic if kind is SourceKind.ANY or pool == _DEFAULT_POOL else pool
        return Intake((self._exchange(exchange), self._queue(name), Bind(name, exchange, key)), (name,), name)

    def dead(self, source: Source, queue: str, reason: str) -> None:
        """It keeps none."""
        return

    def stamp(
        self, outgoing: Outgoing, message_id: str, reply_to: str, expires: float | None, persistent: bool
    ) -> Properties:
        """Ids and the address for the answer stand in the body. `message_id` is not the predecessor's, who ignores it:
        it is how a message that comes back is known.
        """
        return Properties(
            content_type="application/json",
            content_encoding="utf-8",
            headers={},
            delivery_mode=PERSISTENT,
            priority=0,
            expiration=expiration(expires) if expires is not None else None,
            message_id=message_id,
        )

    def _exchange(self, name: str) -> DeclareExchange:
        return DeclareExchange(name, "topic", durable=self._durable, auto_delete=self._auto_delete)

    def _fanout(self, topic: str) -> DeclareExchange:
        return DeclareExchange(f"{topic}_fanout", "fanout", durable=self._transient_durable, auto_delete=True)

    def _queue(self, name: str) -> DeclareQueue:
        return DeclareQueue(name, durable=self._durable, auto_delete=self._auto_delete, arguments=self._lasting)

    def _own_queue(self, name: str) -> DeclareQueue:
        return DeclareQueue(name, durable=self._transient_durable, arguments=self._passing)

    def _random(self, *parts: str) -> str:
        """As random as the identity, and another one for each server of a connection."""
        return hashlib.sha256("/".join((self._identity, *parts)).encode()).hexdigest()[:32]
