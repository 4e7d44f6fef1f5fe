"""What a broker says no with, as errors that tell what is wrong and what cures it.

Pure: reply code and text in, exception out. The codes are those of AMQP 0-9-1 as RabbitMQ uses them; its text is always
in the message, because it alone names what was refused.
"""

from __future__ import annotations

import re
import ssl

from messaging.drivers.rabbit.methods import DeclareExchange, DeclareQueue, Method
from messaging.errors import (
    AuthFailed,
    ConnectFailed,
    ConnectionLost,
    Delivered,
    MessagingError,
    NoRoute,
    Overloaded,
    Rejected,
    TooLarge,
)
from messaging.message import Outgoing, Route, RouteKind

__all__ = [
    "ACCESS_REFUSED",
    "NOT_FOUND",
    "about_publishing",
    "connection_refused",
    "cure_of",
    "declaration_refused",
    "nacked",
    "no_route",
    "passing",
    "publish_refused",
    "refused_size",
]

CONNECTION_FORCED = 320
ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
NOT_ALLOWED = 530
NOT_IMPLEMENTED = 540
INTERNAL_ERROR = 541
_TRANSIENT = "transient_nonexcl_queues"
"""By which RabbitMQ calls queues that are neither durable nor exclusive."""


def connection_refused(code: int, text: str, place: str, who: str, opened: bool) -> MessagingError:
    """Why a broker has closed a connection. `who`: the login that was tried; `opened`: it had been accepted before.

    AuthFailed, and ConnectFailed that is not retryable, are final: the same would be refused again.
    """
    if code == INTERNAL_ERROR and _TRANSIENT in text:
        # RabbitMQ 4.3 closes the whole connection for that; connecting again would only repeat it.
        return ConnectFailed(
            f"{place} takes no queues that are neither durable nor exclusive, as the predecessor's are: {text}. "
            "Say rabbit_quorum_queue=yes (or amqp_durable_queues=yes) and rabbit_transient_quorum_queue=yes, here and "
            f"there, or permit them at the broker: deprecated_features.permit.{_TRANSIENT} = true",
            retryable=False,
        )
    if opened:
        return ConnectionLost(f"{place} has closed the connection: {code} {text}")
    if code == ACCESS_REFUSED:
        return AuthFailed(f"{place} refused the login of {who}: {text}")
    if code == NOT_ALLOWED:
        cure = "create it (rabbitmqctl add_vhost), give this user permissions in it, or correct the end of the URL"
        return ConnectFailed(f"{place} refused the vhost to {who}: {text}; {cure}", retryable=False)
    return ConnectFailed(f"{place} refused the connection: {code} {text}")


def cure_of(error: BaseException, secured: bool) -> str:
    """What helps against an error of a connection that has not come about, as the rest of a sentence. `secured`: it was
    tried with TLS.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; name the authority that has signed its certificate by tls_ca, or its own name by tls_server_name"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "; this port does not speak TLS"
    if isinstance(error, ValueError) and "21 is no kind of frame" in str(error):
        return "; this port speaks TLS: say tls=yes"
    if isinstance(error, ConnectionResetError | EOFError) and not secured:
        return "; if this port speaks TLS, say tls=yes"
    return ""


def declaration_refused(code: int, text: str, methods: tuple[Method, ...], checked_only: bool) -> MessagingError:
    """Why what a source or a route needs could not be declared, or was not there."""
    if code == PRECONDITION_FAILED and "inequivalent" in text:
        asked = next((told for told in map(_described, methods) if told[0] and f"'{told[0]}'" in text), None)
        ours = f"; this side declares it with {asked[1]}" if asked is not None else ""
        return Rejected(
            f"it is there already, with other arguments: {text}{ours}. Delete the old one when nobody needs it "
            "(rabbitmqctl delete_queue), or give both sides the same options"
        )
    if code == NOT_FOUND and checked_only:
        return Rejected(f"declare=no, and what is needed is not there: {text}; have it created, or allow to declare it")
    if code == ACCESS_REFUSED:
        return Rejected(
            f"this user may not do that: {text}; give it the permission, or create what is needed and say declare=no"
        )
    if code in (NOT_IMPLEMENTED, INTERNAL_ERROR, NOT_ALLOWED):
        return Rejected(f"the broker cannot or will not do that: {code} {text}")
    return Rejected(f"the broker refused: {code} {text}")


def passing(code: int, text: str) -> bool:
    """Whether a channel was closed for something that goes away by itself: then it is opened again."""
    return code in (NOT_FOUND, RESOURCE_LOCKED) or (
        code == PRECONDITION_FAILED and "inequivalent" not in text and "invalid" not in text
    )


def about_publishing(code: int, text: str) -> bool:
    """Whether a channel was closed for a message that was published on it, and for nothing else that may happen."""
    return code in (ACCESS_REFUSED, NOT_FOUND) or (code == PRECONDITION_FAILED and "size" in text)


def refused_size(code: int, text: str) -> int | None:
    """Bytes of the message for which a channel was closed, where that was its size."""
    found = re.search(r"message size (\d+)", text) if code == PRECONDITION_FAILED else None
    return int(found[1]) if found is not None else None


def publish_refused(code: int, text: str) -> MessagingError:
    """Why the one message that was under way has closed its channel: it was not taken."""
    if code == PRECONDITION_FAILED and "size" in text:
        return TooLarge(f"the broker takes no message of this size: {text}; see its max_message_size")
    if code == NOT_FOUND:
        return NoRoute(f"the exchange has gone: {text}")
    return Rejected(f"the broker refused the message: {code} {text}")


def nacked(outgoing: Outgoing) -> MessagingError:
    """A broker says no in place of a confirmation: a queue was full. Of several queues others may have taken it."""
    several = outgoing.route.kind in (RouteKind.POOLS, RouteKind.ALL)
    return Overloaded(
        f"a queue of {named(outgoing.route)} has refused the message: it holds as many as it may (option max_length)",
        delivered=Delivered.MAYBE if several else Delivered.NO,
    )


def no_route(route: Route, text: str) -> MessagingError:
    """A mandatory message that no queue took."""
    what = {
        RouteKind.REPLY: "nobody has this reply address any more",
        RouteKind.ANY: "no server has ever served this topic here",
        RouteKind.ONE: "there is no server of this name",
        RouteKind.POOLS: "no pool has ever listened to this topic here",
    }.get(route.kind, "nobody is there")
    return NoRoute(f"{what}: {named(route)} ({text})")


def named(route: Route) -> str:
    """A route as a user wrote it."""
    kind, exchange, topic, server, address = route
    if kind is RouteKind.REPLY:
        return repr(address)
    return f"topic {topic!r} of exchange {exchange!r}" + (f", server {server!r}" if server else "")


def _described(method: Method) -> tuple[str, str]:
    if isinstance(method, DeclareQueue):
        return method.name, (
            f"durable={method.durable}, exclusive={method.exclusive}, auto_delete={method.auto_delete}, "
            f"arguments {dict(method.arguments)}"
        )
    if isinstance(method, DeclareExchange):
        return method.name, (
            f"type={method.type}, durable={method.durable}, auto_delete={method.auto_delete}, "
            f"arguments {dict(method.arguments)}"
        )
    return "", ""
