"""kombu:// on a real RabbitMQ: it is the same wire as rabbit://. What both drivers refuse, and how they log in, is
tested for both of them at once (test_rabbit_login.py, test_rabbit_declared.py).
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import pytest

from messaging import Target, notify, open_transport, rpc
from messaging.errors import NoRoute

OTHER = {"rabbit": "kombu", "kombu": "rabbit"}
LIBRARY = {"codec": "library"}
"""Messages go through py-amqp, or pika, instead of the codec that both drivers share."""


def topic() -> str:
    """A topic that nobody else uses."""
    return f"topic-{secrets.token_hex(6)}"


class Shop:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @rpc.expose
    def order(self, ctxt: dict[str, Any], item: Any) -> Any:
        """Note and return it."""
        self.seen.append(item)
        return item

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Note it, and reject what is bad, once."""
        self.seen.append(event.payload)
        if event.payload == "bad" and self.seen.count("bad") == 1:
            raise notify.Reject("not wanted")


def until(true: Any, what: str) -> None:
    """Wait for something with a deadline."""
    end = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.mark.parametrize("options", [{}, LIBRARY], ids=["own codec", "library's codec"])
@pytest.mark.parametrize("scheme", ["rabbit", "kombu"])
def test_clients_and_servers_of_both_drivers_understand_each_other(
    rabbit_broker: Any, scheme: str, options: dict[str, Any]
) -> None:
    """Calls, direct calls, casts, fanouts, stored casts, large bodies: a server on one, a client on the other."""
    shop, name = Shop(), topic()
    big = bytes(range(256)) * 4096
    with (
        open_transport(rabbit_broker.url_for(scheme), **options) as serving,
        open_transport(rabbit_broker.url_for(OTHER[scheme]), **options) as calling,
    ):
        client = rpc.Client(calling, Target(topic=name), timeout=10)
        with pytest.raises(NoRoute):
            client.call(None, "order", item=0)
        client.prepare(server="one", store=60).cast(None, "order", item="stored")
        with rpc.Server(serving, Target(topic=name, server="one"), [shop]):
            until(lambda: shop.seen == ["stored"], "the stored cast")
            assert client.call({"user": "ü"}, "order", item=[1, None, "☃"]) == [1, None, "☃"]
            assert client.prepare(server="one").call(None, "order", item=big) == big
            client.cast(None, "order", item="cast")
            client.fanout(None, "order", item="fanout")
            until(lambda: len(shop.seen) == 5, "a cast and a fanout")
            with client.pipeline() as pipeline:
                for number in range(200):
                    pipeline.call(None, "order", item=number)
            assert pipeline.results() == list(range(200))


@pytest.mark.parametrize("scheme", ["rabbit", "kombu"])
def test_notifications_and_dead_letters_pass_between_both_drivers(rabbit_broker: Any, scheme: str) -> None:
    """A listener on one, a notifier on the other; what is rejected is read and sent again by the other."""
    shop, name = Shop(), topic()
    with (
        open_transport(rabbit_broker.url_for(scheme)) as listening,
        open_transport(rabbit_broker.url_for(OTHER[scheme])) as sending,
        notify.Listener(listening, [Target(topic=name)], [shop], pool="p"),
    ):
        notifier = notify.Notifier(sending, publisher_id="p", topics=[name])
        with notifier.pipeline() as pipeline:
            for payload in ("good", "bad"):
                pipeline.info(None, "event", payload)
        until(lambda: sorted(shop.seen) == ["bad", "good"], "two notifications")
        with notify.DeadLetters(sending, Target(topic=name), pool="p") as letters:
            until(lambda: letters.count(0.1) == 1, "a dead letter")
            assert [letter.reason for letter in letters.read(0.1)] == ["not wanted"]
            assert letters.replay_all(0.1) == 1
        until(lambda: shop.seen.count("bad") == 2, "the dead letter again")
