"""amqp1:// on an Artemis whose addresses have room for ten messages: what senders are told when one is full, how it
goes on when somebody has made room, and that other addresses are not held up meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import messaging
from messaging import notify, rpc
from messaging.drivers.amqp1.profiles import PROFILES
from messaging.drivers.base import Role
from messaging.errors import DeadlineExceeded, Delivered, MessagingError, Overloaded
from messaging.message import Route, Source
from messaging.target import DEFAULT_EXCHANGE, Target
from messaging.testing.conformance.bare import Bare, together
from messaging.testing.conformance.checks import Failure, Log
from tests.brokers.artemis import Artemis
from tests.faults.processes import Stall, until

TIMEOUT = 1.0
BODY = "x" * 10_000
CREDITS = {"FAIL": 1000, "BLOCK": 10}
"""What a sender is granted at a time, by policy: so little where it is the lack of credit that stops it."""
_FULL = "<max-size-bytes>100000</max-size-bytes><address-full-policy>{}</address-full-policy>"
_PREFIXES = ("openstack.org/om/rpc/anycast", "openstack.org/om/notify/multicast")


@pytest.fixture(scope="module", params=sorted(CREDITS))
def policy(request: pytest.FixtureRequest) -> str:
    """What the broker does when an address is full."""
    return str(request.param)


@pytest.fixture(scope="module")
def cramped(policy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artemis]:
    """A broker with one small address for each kind of message."""
    limits = {f"{prefix}/{DEFAULT_EXCHANGE}/small": _FULL.format(policy) for prefix in _PREFIXES}
    with Artemis(tmp_path_factory.mktemp("cramped"), limits=limits, credits=CREDITS[policy]) as broker:
        yield broker


@pytest.fixture(scope="module")
def stingy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artemis]:
    """A broker that grants little credit, and none to who has sent to a small address that is full, or to a caller that
    does not read its answers.
    """
    limits = {
        f"{prefix}/{DEFAULT_EXCHANGE}/{policy}": _FULL.format(policy) for prefix in _PREFIXES for policy in CREDITS
    }
    # Addresses for answers have no dots.
    limits["*"] = _FULL.format("FAIL")
    with Artemis(tmp_path_factory.mktemp("stingy"), limits=limits, credits=10) as broker:
        yield broker


class Taker:
    """Takes casts and notifications."""

    def __init__(self) -> None:
        self.taken: Log[int] = Log()

    @rpc.expose
    def take(self, ctxt: dict[str, Any], number: int, body: str) -> None:
        """Note a cast."""
        self.taken.add(number)

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Note a notification."""
        self.taken.add(event.payload[0])


class Sender:
    """Sends numbered messages to a topic, and knows which of them were confirmed."""

    def __init__(self, transport: messaging.Transport, kind: str, topic: str) -> None:
        self._kind = kind
        self._client = rpc.Client(transport, Target(topic=topic), timeout=TIMEOUT)
        self._notifier = notify.Notifier(transport, publisher_id="p", topics=[topic], timeout=TIMEOUT)
        self._number = 0
        self.confirmed: list[int] = []

    def send(self) -> None:
        """Send one."""
        self._number += 1
        if self._kind == "cast":
            self._client.cast({}, "take", number=self._number, body=BODY)
        else:
            self._notifier.info({}, "event", [self._number, BODY])
        self.confirmed.append(self._number)

    def fill(self) -> tuple[MessagingError, float]:
        """Send until one fails; how, and how long that took."""
        for _ in range(100):
            begun = time.monotonic()
            try:
                self.send()
            except MessagingError as error:
                return error, time.monotonic() - begun
        raise AssertionError("a hundred messages had room")

    def passes(self) -> bool:
        """Whether one more is taken."""
        try:
            self.send()
        except (DeadlineExceeded, Overloaded):
            return False
        return True


def _server(transport: messaging.Transport, kind: str, topic: str, taker: Taker) -> Any:
    if kind == "cast":
        return rpc.Server(transport, Target(topic=topic, server="a"), [taker])
    return notify.Listener(transport, [Target(topic=topic)], [taker])


@pytest.mark.parametrize("kind", ["cast", "notify"])
def test_a_full_address_is_told_and_recovers(cramped: Artemis, policy: str, kind: str) -> None:
    """Within the deadline, NO: Overloaded where the broker refuses, the deadline itself where it gives no credit. Once
    there is room messages pass; what was confirmed arrives, once, and nothing else does.
    """
    taker = Taker()
    with ExitStack() as stack:
        stall = stack.enter_context(Stall())
        sending, receiving = (stack.enter_context(messaging.open_transport(cramped.url)) for _ in range(2))
        first = _server(receiving, kind, "small", taker)
        first.start(10)
        first.stop(1.0)
        sender = Sender(sending, kind, "small")
        error, took = sender.fill()
        assert isinstance(error, Overloaded if policy == "FAIL" else DeadlineExceeded), error
        assert error.delivered is Delivered.NO
        assert took < TIMEOUT + 0.1 + stall.worst
        server = _server(receiving, kind, "small", taker)
        server.start(10)
        stack.callback(server.stop, 1.0)
        until(sender.passes, "messages pass again")
        taker.taken.wait(len(sender.confirmed), "what was confirmed")
        assert sorted(taker.taken.items) == sender.confirmed
        assert sending.stats()["driver.reconnects"] == 0


def takes_no_detours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whatever happens, one link serves all addresses."""
    monkeypatch.setitem(PROFILES, "artemis", PROFILES["artemis"]._replace(detours=False))


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("kind", ["cast", "notify"])
@pytest.mark.parametrize("full", sorted(CREDITS))
def test_a_full_address_holds_up_no_other(
    stingy: Artemis, full: str, kind: str, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker keeps credit from the link that has sent to it; messages to others pass within their deadlines."""
    if planted:
        takes_no_detours(monkeypatch)
    with messaging.open_transport(stingy.url) as transport:
        # The pool, or the queue, that fills up.
        with messaging.open_transport(stingy.url) as receiving:
            server = _server(receiving, kind, full, Taker())
            server.start(10)
            server.stop(1.0)
        sender = Sender(transport, kind, full)
        until(lambda: isinstance(sender.fill()[0], DeadlineExceeded), "no credit is left", every=0.0)
        others = [Sender(transport, kind, f"other-{number}") for number in range(3)]
        assert [other.passes() for other in others] == [not planted] * 3
        assert transport.stats()["driver.reconnects"] == 0


@pytest.mark.parametrize("planted", [False, True])
def test_a_caller_that_does_not_read_holds_up_no_other(
    stingy: Artemis, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is full of answers; those of another caller of the same server arrive."""
    if planted:
        takes_no_detours(monkeypatch)
    server, slow, prompt = bares = [Bare(stingy.url, Role.ALL, {}) for _ in range(3)]
    try:
        for each in bares:
            each.connect()
        addresses = [each.subscribe(Source.reply()) for each in (slow, prompt)]
        for _ in range(3_000):
            # More than the sockets on the way to it hold.
            server.publish(Route.reply(addresses[0]), BODY.encode(), confirm=False)
        server.publish(Route.reply(addresses[1]), b"answer", confirm=False)
        both = [server, prompt]
        if planted:
            with pytest.raises(Failure):
                together(both, lambda: prompt.events.deliveries, "the answer", 2.0)
        else:
            together(both, lambda: prompt.events.deliveries, "the answer")
    finally:
        for each in bares:
            each.close()
