"""What a peer's outcome of a message means for its sender. Pure.

accepted                     taken: by the broker, or on a router by the consumer
released                     not delivered: on a router, there is no consumer; elsewhere the queue would not have it
modified, not failed         not delivered, safe to send elsewhere
modified, undeliverable      on a router: a consumer that is full, so not delivered and safe to send elsewhere
modified otherwise           in doubt: somebody had it
rejected                     not delivered, by the condition: nothing there, too large, too much, or for good

Routers set `failed` in every modified that they pass on, whatever the consumer said (qpid-dispatch 1.19, skupper-router
3.5); `undeliverable` they leave as it was, and where a consumer went with what it had they do not set it.
"""

from __future__ import annotations

import enum

from messaging.drivers.amqp1.engine import Condition
from messaging.errors import NoRoute, Overloaded, Rejected, ServerLost, TooLarge, TransportError

__all__ = ["Answer", "judged", "refused"]

_NOBODY = ("amqp:not-found", "amqp:resource-deleted", "qd:no-route-to-dest")
_FULL = ("amqp:resource-limit-exceeded", "amqp:transfer-limit-exceeded", "rabbitmq:queue-full")
_ARTEMIS_NOTHING_THERE = "AMQ119002"
_ARTEMIS_FULL = "AMQ229102"


class Answer(enum.Enum):
    """The outcomes of AMQP 1.0."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RELEASED = "released"
    MODIFIED = "modified"
    NONE = "none"
    """Settled without saying how."""


def judged(
    answer: Answer,
    address: str,
    peer: str,
    *,
    condition: Condition | None = None,
    failed: bool = False,
    undeliverable: bool = False,
    routed: bool = False,
) -> TransportError | None:
    """Return the error of a message to `address`, None when it was taken.

    `failed`, `undeliverable`: what a modified one says of its consumer. `routed`: the peer stores nothing, so that an
    outcome is the consumer's.
    """
    if answer is Answer.ACCEPTED:
        return None
    if answer is Answer.REJECTED:
        return refused(condition, address, peer)
    if answer is Answer.RELEASED:
        if routed:
            return NoRoute(f"nobody consumes {address}, says {peer}")
        return Overloaded(f"{peer} would not take a message for {address} and released it")
    if answer is Answer.MODIFIED and (undeliverable if routed else not failed):
        return Overloaded(f"the consumer of {address} is full")
    return ServerLost(f"{peer} does not know what became of a message to {address}: the outcome is {answer.value}")


def refused(condition: Condition | None, address: str, peer: str) -> TransportError:
    """The error for what a peer refused by a condition: a message, or a link."""
    told = str(condition) if condition is not None else "no reason given"
    name = condition.name if condition is not None else ""
    if name in _NOBODY or _ARTEMIS_NOTHING_THERE in told:
        return NoRoute(f"there is nothing at {address}, says {peer}: {told}")
    if name in _FULL or _ARTEMIS_FULL in told:
        return Overloaded(f"{address} is full, says {peer}: {told}")
    if name == "amqp:link:message-size-exceeded":
        return TooLarge(f"the message is too large for {address}, says {peer}: {told}")
    cure = " (durable=no asks for no more than that)" if "cannot accept durable" in told else ""
    return Rejected(f"{peer} refused {address}: {told}{cure}")
