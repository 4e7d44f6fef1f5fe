"""The values that pass between the patterns above and the drivers below: routes, sources, outgoing messages,
deliveries.

This is the whole vocabulary that a driver needs. It knows nothing of calls, casts, versions or endpoints: a driver sees
four ways to address a message, bytes, and a few headers that brokers can use. The two message classes are msgspec
structs because one of each is made per message and a struct is built in C (0.2 us against 0.8 us for a dataclass of
this size).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "CONTENT_TYPE",
    "CORRELATION_ID",
    "DEAD_ATTEMPT",
    "DEAD_HEADERS",
    "DEAD_REASON",
    "MESSAGE_ID",
    "PRIORITY",
    "RESERVED_HEADERS",
    "TRACEPARENT",
    "Delivery",
    "Outcome",
    "Outgoing",
    "Route",
    "RouteKind",
    "SentResult",
    "Source",
    "SourceKind",
    "Stage",
    "Token",
    "by_source",
]

MESSAGE_ID = "message-id"
CORRELATION_ID = "correlation-id"
CONTENT_TYPE = "content-type"
PRIORITY = "priority"
TRACEPARENT = "traceparent"
RESERVED_HEADERS = frozenset({MESSAGE_ID, CORRELATION_ID, CONTENT_TYPE, PRIORITY, TRACEPARENT})
"""Header keys that a driver puts into its transport's own properties where it has them; all others travel as plain
headers."""

DEAD_REASON = "dead-reason"
"""Header that a driver puts on a dead letter: the reason that it was rejected with."""
DEAD_ATTEMPT = "dead-attempt"
"""Header that a driver puts on a dead letter: the attempt at which it was rejected, counted from 1."""
DEAD_HEADERS = frozenset({DEAD_REASON, DEAD_ATTEMPT, "dead-exchange", "dead-topic", "dead-pool", "dead-queue"})
"""All headers that drivers put on dead letters: those two, and where it comes from. What is sent again goes without."""


class RouteKind(enum.Enum):
    """Who gets a message."""

    ANY = "any"
    """One server of a topic."""
    ONE = "one"
    """The server of that name."""
    ALL = "all"
    """Every server of a topic that is alive now."""
    POOLS = "pools"
    """One consumer of every pool that listens to a topic."""
    REPLY = "reply"
    """Whoever holds an opaque address that came with a delivery."""

    # Members are singletons and keys on the hot path; Enum.__hash__ is a Python function, this one is not.
    __hash__ = object.__hash__


class Route(NamedTuple):
    """An address to send to. Build it with the class methods; unused fields are empty strings."""

    kind: RouteKind
    exchange: str = ""
    topic: str = ""
    server: str = ""
    address: str = ""

    @classmethod
    def any(cls, exchange: str, topic: str) -> Route:
        """One server of the topic."""
        return cls(RouteKind.ANY, exchange, topic)

    @classmethod
    def one(cls, exchange: str, topic: str, server: str) -> Route:
        """The named server of the topic."""
        return cls(RouteKind.ONE, exchange, topic, server)

    @classmethod
    def all(cls, exchange: str, topic: str) -> Route:
        """Every live server of the topic."""
        return cls(RouteKind.ALL, exchange, topic)

    @classmethod
    def pools(cls, exchange: str, topic: str) -> Route:
        """One consumer of each pool that listens to the topic."""
        return cls(RouteKind.POOLS, exchange, topic)

    @classmethod
    def reply(cls, address: str) -> Route:
        """The holder of an address that came as `Delivery.reply_to`, as `taker`, or inside a message."""
        return cls(RouteKind.REPLY, address=address)


class SourceKind(enum.Enum):
    """What a connection can receive from."""

    ANY = "any"
    ONE = "one"
    ALL = "all"
    POOLS = "pools"
    REPLY = "reply"
    """This connection's own address: answers, and whatever is sent to it as an address."""
    DEAD = "dead"
    """The dead letters of a topic's pool."""

    __hash__ = object.__hash__


class Source(NamedTuple):
    """Something to subscribe to. `pool` matters for POOLS and DEAD alone.

    `server` is part of the address for ONE; for ANY, ALL and POOLS it only tells several subscribers of one connection
    apart.
    """

    kind: SourceKind
    exchange: str = ""
    topic: str = ""
    server: str = ""
    pool: str = ""

    @classmethod
    def reply(cls) -> Source:
        """This connection's own reply address."""
        return cls(SourceKind.REPLY)


class Stage(enum.Enum):
    """How far a message has got."""

    WRITTEN = "written"
    """It was handed to the operating system; nobody has said that it arrived."""
    TAKEN = "taken"
    """The backend, or where settling is end to end the consumer, has taken responsibility."""

    __hash__ = object.__hash__


class Outcome(enum.Enum):
    """How a consumer settles a delivery."""

    ACCEPT = "accept"
    """Done, or taken over: it shall not come again."""
    REQUEUE = "requeue"
    """Not done: somebody shall get it again, after `delay` seconds where the transport can."""
    REJECT = "reject"
    """It will never be done: to the dead letters where the transport has them, with `reason`."""

    __hash__ = object.__hash__


class Token:
    """What the sender of an Outgoing wants back: the driver only hands it on. `sent` runs on the connection's owner."""

    __slots__ = ()

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        """Take the news of one message. With `error`, `stage` is the last proven one (None: not written)."""
        raise TypeError(f"{type(self).__name__} does not say what to do with the news of its message")

    def all_taken(self, outgoings: Sequence[Outgoing]) -> None:
        """Take the news that these are TAKEN; `sent` for each, unless there is a shorter way for many."""
        for outgoing in outgoings:
            self.sent(outgoing, Stage.TAKEN, None, None)


class Outgoing(msgspec.Struct, eq=False, gc=False):
    """A message on its way out. The driver reads it; the sender alone may set `withdrawn`, from any thread.

    At the write a driver sets `stage = WRITTEN` first and looks at `withdrawn` after that; a sender sets `withdrawn`
    first and looks at `stage` after that. So whatever the threads do, a sender that is told "not written" is told the
    truth.

    `encode` replaces `body` for wire formats that carry the reply address and the budget inside: it is called once, at
    the write, with (the connection's reply address or "", the remaining seconds or None). Times are seconds; `deadline`
    is on the connection's clock.

    Not for the garbage collector, which took a twelfth of a notifier's processor time with two thousand under way, and
    so without weak references. Message and sender refer to each other until the operation has ended: see `token`.
    """

    route: Route
    body: bytes
    headers: dict[str, Any]
    token: Token | None = None
    """Who wants the news. Whoever ends an operation, or sends it again as another message, sets it to None: nothing
    else breaks the circle of the two.
    """
    key: str | None = None
    """Messages of one key keep their order where the transport can."""
    reply_to: bool = False
    """Stamp the connection's own REPLY address on it, at the write."""
    budget: bool = False
    """Stamp what is left of `deadline` on it, at the write: the receiver must not start it later."""
    deadline: float = 0.0
    """Not written by then: `on_sent` with DeadlineExceeded, delivered NO. 0: none."""
    withdrawn: bool = False
    """Its sender gave up: skip it if it is not written yet."""
    store: float = 0.0
    """Seconds that it may wait for a named server that is not up yet; 0: not at all."""
    confirm: bool = True
    """False: nobody waits for its success. The driver keeps `stage` and `taker` up to date and tells errors; a TAKEN
    that comes without the answer is told too.
    """
    encode: Callable[[str, float | None], bytes] | None = None
    stage: Stage | None = None
    """The last proven stage; the driver keeps it (a write that was skipped because of `withdrawn` may leave it at
    WRITTEN).
    """
    taker: str = ""
    """To whom it was written, as an address for a cancel; the driver sets it where the peer is known at the write."""


class SentResult(NamedTuple):
    """News of one message. `taker` is the opaque address of who took it, or for ALL (sent, failed); else None."""

    outgoing: Outgoing
    stage: Stage | None
    error: Exception | None = None
    taker: Any = None


class Delivery(msgspec.Struct, eq=False, gc=False):
    """A received message, unsettled. It belongs to one generation of one subscription; `stale` is set when that one is
    gone.

    Not for the garbage collector, which took an eighth of the time of a listener with thousands in hand: a driver whose
    `tag` leads back to the delivery lets go of it when it is settled or stale.
    """

    source: Source
    body: bytes
    headers: dict[str, Any]
    reply_to: str = ""
    """Where an answer goes; empty: none is wanted."""
    budget: float | None = None
    """Seconds that were left when it was written; the receiver counts from its receipt."""
    redelivered: bool = False
    attempt: int = 1
    sent_by: str = ""
    """The opaque identity of the sending connection, where the transport tells it."""
    generation: int = 0
    stale: bool = False
    tag: Any = None
    """The driver's own handle; nobody else reads it."""
    received: float = 0.0
    """When it arrived, on the connection's clock; stamped by the reactor."""
    lane: str = ""
    """Notifications of one lane are handled one after the other, in their order; empty: their keys decide."""


def by_source(deliveries: Sequence[Delivery]) -> list[Sequence[Delivery]]:
    """Part deliveries by their sources, as settling wants them; in the usual case there is one."""
    first = deliveries[0].source
    for delivery in deliveries:
        if delivery.source is not first:
            break
    else:
        return [deliveries]
    parts: dict[Source, list[Delivery]] = {}
    for delivery in deliveries:
        parts.setdefault(delivery.source, []).append(delivery)
    return list(parts.values())
