"""amqp1:// on Artemis, which counts deliveries itself and after ten of them takes a message away: which attempts of a
notification it counts, and what keeps it from that.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from messaging.drivers.base import Role
from messaging.message import Delivery, Outcome, Route, Source, SourceKind
from messaging.testing.conformance.bare import Bare, together
from tests.brokers.artemis import Artemis

_BURIED = Source(SourceKind.ANY, "ex", "buried", "a")
_LIMITS = {
    "openstack.#": "<dead-letter-address>openstack.org/om/rpc/anycast/ex/buried</dead-letter-address>",
    "patient.#": "<max-delivery-attempts>-1</max-delivery-attempts>",
}
MOST = 30


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artemis]:
    """A broker that counts as it does by default, but not below one prefix. What it takes away can be seen."""
    with Artemis(tmp_path_factory.mktemp("counting"), limits=_LIMITS) as broker:
        yield broker


def _attempts(url: str, delay: float, **options: Any) -> list[int]:
    """Of one notification, which is handed back each time, until the broker takes it away or there are enough."""
    topic = f"attempts-{secrets.token_hex(4)}"
    source = Source(SourceKind.POOLS, "ex", topic, pool="p")
    bares = listener, notifier, digger = [
        Bare(url, role, options) for role in (Role.LISTENER, Role.NOTIFIER, Role.LISTENER)
    ]
    found: list[int] = []

    def hand_back(delivery: Delivery) -> None:
        found.append(delivery.attempt)
        if len(found) < MOST:
            listener.connection.settle([delivery], Outcome.REQUEUE, delay)

    try:
        for each in bares:
            each.connect()
        digger.subscribe(_BURIED)
        listener.subscribe(source)
        listener.events.on_delivery = hand_back
        notifier.publish(Route.pools("ex", topic), b"x")
        together(bares, lambda: digger.events.deliveries or len(found) == MOST, "the last attempt")
        digger.settle(digger.take())
        if len(found) == MOST:
            listener.settle(listener.take()[-1:])
    finally:
        for each in bares:
            each.close()
    return found


def test_the_broker_takes_away_what_is_handed_back_at_once(counting: Artemis) -> None:
    """Ten times, by default; it is then in the broker's own dead-letter queue, and not among ours."""
    assert _attempts(counting.url, 0.0) == list(range(1, 11))


def test_what_comes_again_later_is_not_counted_by_the_broker(counting: Artemis) -> None:
    """It is a copy each time, and only the library counts."""
    assert _attempts(counting.url, 0.01) == list(range(1, MOST + 1))


def test_the_broker_can_be_told_not_to_count(counting: Artemis) -> None:
    """By max-delivery-attempts of -1, for addresses that a pattern matches."""
    assert _attempts(counting.url, 0.0, notify_prefix="patient.org/om/notify") == list(range(1, MOST + 1))
