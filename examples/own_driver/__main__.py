"""A service over a driver of one's own: `python -m examples.own_driver`.

A program may register its driver, as here; a distribution names it in its pyproject.toml:

    [project.entry-points."messaging.drivers"]
    tcp = "examples.own_driver.driver:Driver"
"""

from __future__ import annotations

import threading
from typing import Any

import messaging
from examples.own_driver.driver import Driver
from examples.own_driver.server import BrokerThread
from messaging import Target, notify, rpc
from messaging.drivers import register_driver


class Greeter:
    """The service."""

    @rpc.expose
    def greet(self, ctxt: dict[str, Any], name: str) -> str:
        """Say hello."""
        return f"hello, {name}"


class Audit:
    """The listener."""

    def __init__(self) -> None:
        self.done = threading.Event()

    @notify.on("greeted")
    def greeted(self, event: notify.Event[dict[str, Any]]) -> None:
        """Write down who was greeted."""
        print(f"audit: {event.payload['name']} was greeted")
        self.done.set()


def main() -> None:
    """Serve, call and notify through the broker."""
    register_driver("tcp", Driver)
    audit = Audit()
    with (
        BrokerThread() as broker,
        messaging.open_transport(broker.url) as transport,
        rpc.Server(transport, Target(topic="greeter", server="host-1"), [Greeter()]),
        notify.Listener(transport, [Target(topic="notifications")], [audit]),
    ):
        client = rpc.Client(transport, Target(topic="greeter"), timeout=5)
        print(client.call(None, "greet", name="Ada"))
        try:
            client.prepare(server="host-2").call(None, "greet", name="Ada")
        except messaging.NoRoute as error:
            print(f"refused: {error}; delivered {error.delivered.name}")
        notifier = notify.Notifier(transport, publisher_id="greeter", topics=["notifications"])
        notifier.info(None, "greeted", {"name": "Ada"})
        audit.done.wait(5)


if __name__ == "__main__":
    main()
