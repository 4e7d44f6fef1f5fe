"""What a running handler can learn of its request: `rpc.current()`.

A context variable, so it follows the handler into the threads and tasks that carry contexts, and two requests on one
thread do not see each other. It knows nothing of how the request came.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from messaging.deadline import deadline_scope
from messaging.errors import NotStarted
from messaging.message import Delivery
from messaging.wire.native import Request

__all__ = ["CurrentRequest", "current"]


class RequestDeadline:
    """The time until which the caller waits."""

    __slots__ = ("until",)

    def __init__(self, until: float | None) -> None:
        self.until = until

    def remaining(self) -> float:
        """Seconds left, never negative; infinity for a request that nobody waits for."""
        return float("inf") if self.until is None else max(0.0, self.until - time.monotonic())


class CurrentRequest(msgspec.Struct, eq=False):
    """The request that a handler is serving; read-only for handlers, thread-safe.

    It is made for every request and asked by few handlers, so it keeps what it was made from and looks things up when
    asked.
    """

    _delivery: Delivery
    _body: Request
    _version: str
    context: Any
    message_id: str
    until: float | None
    gave_up: bool = False

    @property
    def served(self) -> CurrentRequest:
        """This request: a handler is the scope of the calls that it makes (see messaging.deadline)."""
        return self

    @property
    def headers(self) -> Mapping[str, Any]:
        """What travelled beside the context, the reserved keys included."""
        return self._delivery.headers

    @property
    def method(self) -> str:
        """The name by which the method was called."""
        return self._body.method

    @property
    def namespace(self) -> str | None:
        """The namespace of the request."""
        return self._body.namespace

    @property
    def version(self) -> str:
        """The version that the caller asked for; the endpoint's own when it named none."""
        return self._body.interface or self._version

    @property
    def attempt(self) -> int:
        """1 for the first delivery of this message."""
        return self._delivery.attempt

    @property
    def redelivered(self) -> bool:
        """Whether a broker may have delivered it before."""
        return self._delivery.redelivered

    @property
    def peer(self) -> str:
        """The opaque identity of the sender's connection, where the transport tells it; else empty."""
        return self._delivery.sent_by

    @property
    def wants_reply(self) -> bool:
        """Whether it is a call."""
        return bool(self._delivery.reply_to)

    @property
    def deadline(self) -> RequestDeadline:
        """How long the caller waits: `deadline.remaining()`."""
        return RequestDeadline(self.until)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more: the caller cancelled, is gone, or its deadline has passed.

        A caller that dies says nothing: over ZeroMQ the next sign of life that cannot reach it tells, within a
        third of `call_monitor_timeout`; elsewhere it is the deadline.
        """
        return self.gave_up or self.deadline.remaining() <= 0.0


def current() -> CurrentRequest:
    """Return the request that this thread or task is serving. Raises NotStarted outside of a handler."""
    scope = deadline_scope.get()
    request: CurrentRequest | None = None if scope is None else scope.served
    if request is None:
        raise NotStarted("rpc.current() works inside a handler only; no request is being served here")
    return request
