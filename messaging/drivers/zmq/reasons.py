"""How errors call what a message was for, and why it did not get there."""

from __future__ import annotations

from messaging.errors import AuthFailed, ConnectFailed, DeadlineExceeded, Delivered, NoRoute
from messaging.message import Route, RouteKind

__all__ = ["gone", "nobody", "not_reached_in_time", "unreached"]


def called(route: Route) -> str:
    """Whom a route means."""
    what = f"topic {route.topic!r} of exchange {route.exchange!r}"
    return f"server {route.server!r} of {what}" if route.server else f"a server of {what}"


def nobody(route: Route, failure: Exception | None = None) -> NoRoute | ConnectFailed:
    """Nobody is known for a route; `failure`: and not everybody could be asked."""
    what = called(route).removeprefix("a server of ")
    told = f"nobody {'listens to' if route.kind is RouteKind.POOLS else 'serves'} {what}"
    return NoRoute(told) if failure is None else _because(f"{told}, but not every peer could be asked", failure)


def gone() -> NoRoute:
    """Whoever had an address has left."""
    return NoRoute("whoever is to get this message is not connected any more")


def unreached(route: Route, failure: Exception | None) -> ConnectFailed:
    """Somebody is known for a route, and every attempt to connect has failed."""
    return _because(f"{called(route)} is known but cannot be reached", failure)


def not_reached_in_time(route: Route) -> DeadlineExceeded:
    """The deadline passed while a message waited for a connection."""
    told = f"the deadline passed before {called(route)} could be reached"
    return DeadlineExceeded(told, phase="connect", delivered=Delivered.NO)


def _because(told: str, failure: Exception | None) -> ConnectFailed:
    """An error of the kind of the last failure: refused credentials stay refused, however often they are tried."""
    kind = AuthFailed if isinstance(failure, AuthFailed) else ConnectFailed
    error = kind(f"{told}: {failure}")
    error.retryable = getattr(failure, "retryable", True)
    error.__cause__ = failure
    return error
