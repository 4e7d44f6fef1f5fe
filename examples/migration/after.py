"""The service of before.py on this library, on the wire that the other one speaks: `wire=oslo`.

    python -m examples.migration.after serve rabbit://guest:guest@localhost:5672/ host-2
    python -m examples.migration.after call  rabbit://guest:guest@localhost:5672/
    python -m examples.migration.after audit rabbit://guest:guest@localhost:5672/

When nobody is left on the other one, the same files speak this library's own format with wire=native.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import messaging
from messaging import Target, notify, rpc


class Inventory:
    """Reserves things."""

    target = Target(namespace="inventory", version="1.3")

    def __init__(self, name: str, notifier: notify.Notifier) -> None:
        self.name = name
        self.notifier = notifier

    @rpc.expose(raises=(ValueError,))
    def reserve(self, ctxt: dict[str, Any], sku: str, count: int) -> dict[str, Any]:
        """Reserve some, and tell everybody who wants to know."""
        if count > 10:
            raise ValueError(f"only 10 of {sku}")
        self.notifier.info({}, "inventory.reserved", {"sku": sku, "count": count})
        return {"server": self.name, "left": 10 - count}


class Audit:
    """Prints what was reserved; the predecessor's methods, named after levels, are taken as they are."""

    def info(self, ctxt: dict[str, Any], publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        """One notification."""
        print(f"{event_type} {payload['sku']} {payload['count']} from {publisher_id}", flush=True)


def serve(transport: messaging.Transport, name: str) -> None:
    """Serve until the input ends."""
    notifier = notify.Notifier(transport, name, topics=["inventory-events"])
    with rpc.Server(transport, Target(topic="inventory", server=name), [Inventory(name, notifier)]):
        print("ready", flush=True)
        sys.stdin.read()


def call(transport: messaging.Transport) -> None:
    """Reserve this and that, and once too many."""
    target = Target(topic="inventory", namespace="inventory", version="1.3")
    client = rpc.Client(transport, target, timeout=10, exceptions=[ValueError])
    for sku in ("A1", "B2"):
        print(client.call({"user": "ann"}, "reserve", sku=sku, count=2)["server"], flush=True)
    try:
        client.call({"user": "ann"}, "reserve", sku="A1", count=11)
    except ValueError:
        print("refused", flush=True)


def audit(transport: messaging.Transport) -> None:
    """Print notifications until the input ends."""
    with notify.Listener(transport, [Target(topic="inventory-events")], [Audit()]):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    command, url, *rest = sys.argv[1:]
    with messaging.open_transport(url, wire="oslo") as transport:
        commands: dict[str, Callable[..., None]] = {"serve": serve, "call": call, "audit": audit}
        commands[command](transport, *rest)
