"""What kinds of peers there are, and how they differ: a table.

A peer says in its Open which product it is. Everything that follows from that stands here, as data: addresses, what is
stored, what outcomes mean, what must not be done to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from messaging.drivers.amqp1.addresses import Addresses, Artemis, BrokerJ, RabbitMQ, Router, Words, existing
from messaging.drivers.base import Capabilities

__all__ = ["AUTO", "PROFILES", "Profile", "capabilities_of", "known_by"]


class Profile(NamedTuple):
    """One kind of peer."""

    name: str
    """As the option `profile` has it."""
    title: str
    products: tuple[str, ...]
    """How the names of its products begin, in small letters."""
    addresses: Callable[[Words], Addresses]
    promises: dict[str, Any]
    """Its capabilities, as far as they are not the least."""
    anonymous: bool = True
    """One sending link serves all addresses; else each has its own."""
    detours: bool = False
    """One address that is full keeps credit from the link that serves all: the others get links of their own then."""
    routed: bool = False
    """It stores nothing: outcomes are those of consumers."""
    modifies: bool = True
    """The outcome `modified` may be sent to it."""
    drops_rejected: bool = True
    """A message that is rejected does not come again."""
    counts_deliveries: bool = True
    """A message that was unsettled when its consumer went says that it was delivered before."""
    proof: Callable[[str], str] | None = None
    """It accepts what it drops where a queue was deleted: for an address, one that is refused where there is no queue.
    """
    hostname: str = ""
    """What Open's hostname is for a virtual host ("{}"); empty: there are none, so it goes into the addresses."""
    sender_outcomes: tuple[str, ...] = ()
    """Declared by senders: what it may answer instead of ending a link."""
    settles_answers: bool = True
    """Answers are settled when they are sent. Not where a settled message to an address that is gone ends its link,
    and those of other callers that are on their way behind it are dropped without a word.
    """
    refusal: str = ""
    """Why RPC is not possible."""


_BROKER = {
    "fanout": "live",
    "pools": True,
    "storage": True,
    "confirms": True,
    "no_route": "by_config",
    "redelivers": "on_loss",
    "reject": "dead_letter",
    "ordering": "queue",
    "ttl": True,
}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="artemis",
            title="Apache Artemis",
            products=("apache-activemq-artemis", "apache-artemis"),
            addresses=Artemis,
            promises={**_BROKER, "requeue": "later"},
            detours=True,
        ),
        Profile(
            name="broker-j",
            title="Apache Qpid Broker-J",
            products=("apache qpid broker-j", "qpid broker-j"),
            addresses=BrokerJ,
            promises={**_BROKER, "requeue": "now"},
            drops_rejected=False,
            hostname="{}",
            sender_outcomes=("amqp:accepted:list", "amqp:rejected:list"),
            settles_answers=False,
        ),
        Profile(
            name="rabbitmq",
            title="RabbitMQ 3 with rabbitmq_amqp1_0",
            products=("rabbitmq",),
            addresses=RabbitMQ,
            promises={
                **_BROKER,
                "rpc": False,
                "direct": False,
                "fanout": "none",
                "pools": False,
                "no_route": "never",
                "requeue": "now",
            },
            anonymous=False,
            modifies=False,
            proof=existing,
            hostname="vhost:{}",
            refusal="RabbitMQ 3 has neither dynamic reply addresses nor honest confirms over AMQP 1.0",
        ),
        Profile(
            name="router",
            title="qpid-dispatch or skupper-router",
            products=("qpid-dispatch-router", "skupper-router"),
            addresses=Router,
            promises={
                "fanout": "live",
                "confirms": True,
                "acceptance": "peer",
                "no_route": "consumer",
                "requeue": "now",
            },
            routed=True,
        ),
    )
}

AUTO = PROFILES["artemis"]
"""Whose promises are made while the peer is not known: the most that a broker keeps."""


def known_by(product: str) -> Profile | None:
    """The profile of a product."""
    small = product.lower()
    return next(
        (profile for profile in PROFILES.values() if any(small.startswith(each) for each in profile.products)), None
    )


def capabilities_of(profile: Profile, max_body: int, confirms: bool) -> Capabilities:
    """What a peer of this kind can do, under these options."""
    return Capabilities(**{**profile.promises, "confirms": confirms, "max_body": max_body})
