"""The two ends of a conversation over a router, bare: what a consumer says, and what its sender is told."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import ExitStack

from messaging.drivers.base import Role
from messaging.message import Outgoing, Route, Source, SourceKind, Stage
from messaging.testing.conformance.bare import Bare, together

__all__ = ["Ends", "bare_at"]


def bare_at(url: str, role: Role, stack: ExitStack, **options: object) -> Bare:
    """A connection to a router, closed with the stack."""
    made = Bare(url, role, {"profile": "router", **options})
    stack.callback(made.close)
    made.connect()
    return made


class Ends:
    """A receiver and a sender at a router, on a topic of their own."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self._url = url
        self._stack = stack
        self.topic = f"ends-{secrets.token_hex(4)}"
        self.source = Source(SourceKind.ANY, "ex", self.topic, "a")
        self.route = Route.any("ex", self.topic)
        self.receiver = bare_at(url, Role.RPC_SERVER, stack)
        self.sender = bare_at(url, Role.RPC_CLIENT, stack)
        self.others: list[Bare] = []
        self.receiver.subscribe(self.source)

    def another(self) -> Bare:
        """One more receiver, subscribed to nothing yet."""
        made = bare_at(self._url, Role.RPC_SERVER, self._stack)
        self.others.append(made)
        return made

    def until(self, predicate: Callable[[], object], what: str) -> None:
        """Pump all until something is so."""
        together([self.sender, self.receiver, *self.others], predicate, what)

    def news(self, outgoing: Outgoing) -> tuple[Stage | None, Exception | None]:
        """Pump until the end of a message is told."""
        self.until(lambda: self.sender.final(outgoing), "news of a message")
        result = self.sender.final(outgoing)
        assert result is not None
        return result.stage, result.error
