"""What a running handler can learn of its request: `rpc.current()`.

A context variable, so it follows the handler into the threads and tasks that carry contexts, and two requests on one
thread do not see each other. It knows nothing of how the request came.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from messaging.errors import NotStarted

__all__ = ["CurrentRequest", "current", "running_request"]


class RequestDeadline:
    """The time until which the caller waits."""

    __slots__ = ("until",)

    def __init__(self, until: float | None) -> None:
        self.until = until

    def remaining(self) -> float:
        """Seconds left, never negative; infinity for a request that nobody waits for."""
        return float("inf") if self.until is None else max(0.0, self.until - time.monotonic())


class CurrentRequest:
    """The request that a handler is serving; read-only for handlers, thread-safe."""

    __slots__ = (
        "attempt",
        "context",
        "deadline",
        "gave_up",
        "headers",
        "message_id",
        "method",
        "namespace",
        "peer",
        "redelivered",
        "version",
        "wants_reply",
    )

    def __init__(
        self,
        *,
        context: Any,
        headers: Mapping[str, Any],
        method: str,
        namespace: str | None,
        version: str,
        message_id: str,
        attempt: int,
        redelivered: bool,
        until: float | None,
        peer: str,
        wants_reply: bool,
    ) -> None:
        self.context = context
        self.headers = headers
        self.method = method
        self.namespace = namespace
        self.version = version
        self.message_id = message_id
        self.attempt = attempt
        """1 for the first delivery of this message."""
        self.redelivered = redelivered
        """Whether a broker may have delivered it before."""
        self.deadline = RequestDeadline(until)
        self.peer = peer
        """The opaque identity of the sender's connection, where the transport tells it; else empty."""
        self.wants_reply = wants_reply
        self.gave_up = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more: the caller cancelled, is gone, or its deadline has passed."""
        return self.gave_up or self.deadline.remaining() <= 0.0


running_request: ContextVar[CurrentRequest | None] = ContextVar("messaging_rpc_request", default=None)


def current() -> CurrentRequest:
    """Return the request that this thread or task is serving. Raises NotStarted outside of a handler."""
    request = running_request.get()
    if request is None:
        raise NotStarted("rpc.current() works inside a handler only; no request is being served here")
    return request
