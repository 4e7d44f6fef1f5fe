"""Bugs between a driver's connection and its owner, and inside the drivers for RabbitMQ and redis: see plants.py.

Most of them work on the contract, so the same bug can be planted under any scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["DRIVER_PLANTS"]


class _Between:
    """Passes everything on; a bug overrides one method."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _put_between(events: Callable[[Any], Any]) -> None:
    """Let every connection of this process tell its events to something in between."""
    from messaging.transport import BaseTransport

    connect = BaseTransport._connect

    def connect_between(self: BaseTransport, role: Any, owner: Any, services: Any) -> Any:
        between = events(owner)
        connection = connect(self, role, between, services)
        between.connection = connection
        return connection

    BaseTransport._connect = connect_between  # type: ignore[method-assign, assignment]


def deaf_after_a_loss() -> None:
    """A connection that comes back after a loss, looks healthy, and hands over nothing more."""
    from messaging.drivers.base import State

    class Deaf(_Between):
        lost = False

        def on_state(self, state: State, *about: Any) -> None:
            self.lost = self.lost or state is State.LOST
            self.real.on_state(state, *about)

        def on_deliveries(self, source: Any, batch: Sequence[Any]) -> None:
            if not self.lost:
                self.real.on_deliveries(source, batch)

    _put_between(Deaf)


def swallows_no_route() -> None:
    """What came back because nobody was there is reported as taken."""
    from messaging.errors import NoRoute
    from messaging.message import SentResult, Stage

    class Swallows(_Between):
        def on_sent(self, results: Sequence[Any]) -> None:
            self.real.on_sent(
                [
                    SentResult(result.outgoing, Stage.TAKEN) if isinstance(result.error, NoRoute) else result
                    for result in results
                ]
            )

    _put_between(Swallows)


def settles_on_receipt() -> None:
    """Notifications are settled when they arrive, before anybody has looked at them."""
    from messaging.message import Outcome, SourceKind

    class Settles(_Between):
        def on_deliveries(self, source: Any, batch: Sequence[Any]) -> None:
            if source.kind is SourceKind.POOLS:
                self.connection.settle(batch, Outcome.ACCEPT)
            self.real.on_deliveries(source, batch)

    _put_between(Settles)


def hides_blocked() -> None:
    """Nobody hears that the peer wants nothing more, and what is sent is written all the same."""
    from messaging.drivers.base import State
    from messaging.drivers.rabbit.link import Link

    class Hides(_Between):
        def on_state(self, state: State, *about: Any) -> None:
            if state is not State.BLOCKED:
                self.real.on_state(state, *about)

    def ignore(self: Link, reason: str) -> None:
        pass

    Link.on_blocked = ignore  # type: ignore[method-assign]
    _put_between(Hides)


def overstays() -> None:
    """Every operation takes six seconds more than it was given, so that it shows where the machine stalls for three."""
    from messaging.notify import base_notifier
    from messaging.rpc import base_client

    given = base_client.timeout_seconds  # type: ignore[attr-defined]

    def longer(value: object, default: float) -> float:
        seconds: float = given(value, default)
        return seconds + 6.0

    base_client.timeout_seconds = longer  # type: ignore[attr-defined]
    base_notifier.timeout_seconds = longer  # type: ignore[attr-defined]


def reconnects_in_step() -> None:
    """Whoever has lost the same broker tries again at the same times."""
    from messaging.backoff import Backoff

    def in_step(self: Backoff) -> float:
        bound = self._bound
        self._bound = min(bound * 2, self._maximum)
        return bound

    Backoff.next = in_step  # type: ignore[method-assign]


def forgets_to_persist() -> None:
    """Notifications are not written to the broker's disk."""
    from messaging.drivers.rabbit.topology import Address, NativeTopology
    from messaging.message import Route

    address = NativeTopology._address

    def transient(self: NativeTopology, route: Route) -> Address:
        return address(self, route)._replace(persistent=False)

    NativeTopology._address = transient  # type: ignore[method-assign]


def trusts_the_network() -> None:
    """A broker that is silent is believed to be well."""
    from messaging.drivers.rabbit.link import Link

    beat = Link._beat

    def trusting(self: Link, now: float) -> None:
        self._read_at = now
        beat(self, now)

    Link._beat = trusting  # type: ignore[method-assign]


def pops_before_noting() -> None:
    """Messages are popped from redis and noted down by nobody, as by a consumer that is between its two steps."""
    from messaging.drivers.kombu import redis_readers

    careless = """
        local taken = {}
        for i = 1, tonumber(ARGV[1]) do taken[i] = redis.call('RPOP', KEYS[1]) end
        return taken
    """
    redis_readers.TAKE = careless  # type: ignore[attr-defined]


def looks_away() -> None:
    """A driver that passes over what the broker says of consumers and channels."""
    from messaging.drivers.rabbit.subscription import Subscription

    def cancelled(self: Subscription, consumer: str) -> None:
        pass

    def closed(self: Subscription, code: int, text: str) -> None:
        pass

    Subscription.on_cancelled = cancelled  # type: ignore[method-assign]
    Subscription.on_channel_closed = closed  # type: ignore[method-assign]


def never_looks_again() -> None:
    """What was declared and bound once is believed to be there for good."""
    from messaging.drivers.rabbit.subscriptions import Subscriptions

    def once(self: Subscriptions, now: float) -> None:
        self._renew_at = now + 3600.0

    Subscriptions._renew = once  # type: ignore[method-assign]


DRIVER_PLANTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        deaf_after_a_loss,
        swallows_no_route,
        settles_on_receipt,
        hides_blocked,
        overstays,
        reconnects_in_step,
        forgets_to_persist,
        trusts_the_network,
        looks_away,
        never_looks_again,
        pops_before_noting,
    )
}
