"""A service on oslo.messaging, before it moves: a server, a client, and notifications both ways.

    python -m examples.migration.before serve rabbit://guest:guest@localhost:5672/ host-1
    python -m examples.migration.before call  rabbit://guest:guest@localhost:5672/
    python -m examples.migration.before audit rabbit://guest:guest@localhost:5672/

The other file, after.py, is the same service on this library; either end may move first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import oslo_messaging
from oslo_config import cfg


class Inventory:
    """Reserves things."""

    target = oslo_messaging.Target(namespace="inventory", version="1.3")

    def __init__(self, name: str, notifier: oslo_messaging.Notifier) -> None:
        self.name = name
        self.notifier = notifier

    def reserve(self, ctxt: dict[str, Any], sku: str, count: int) -> dict[str, Any]:
        """Reserve some, and tell everybody who wants to know."""
        if count > 10:
            raise ValueError(f"only 10 of {sku}")
        self.notifier.info({}, "inventory.reserved", {"sku": sku, "count": count})
        return {"server": self.name, "left": 10 - count}


class Audit:
    """Prints what was reserved."""

    def info(self, ctxt: dict[str, Any], publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        """One notification."""
        print(f"{event_type} {payload['sku']} {payload['count']} from {publisher_id}", flush=True)


def serve(url: str, name: str) -> None:
    """Serve until the input ends."""
    transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=url)
    notifications = oslo_messaging.get_notification_transport(cfg.CONF, url=url)
    notifier = oslo_messaging.Notifier(notifications, name, driver="messagingv2", topics=["inventory-events"])
    target = oslo_messaging.Target(topic="inventory", server=name)
    server = oslo_messaging.get_rpc_server(transport, target, [Inventory(name, notifier)], executor="threading")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop()
    server.wait()


def call(url: str) -> None:
    """Reserve this and that, and once too many."""
    transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=url)
    target = oslo_messaging.Target(topic="inventory", namespace="inventory", version="1.3")
    client = oslo_messaging.get_rpc_client(transport, target, timeout=10)
    for sku in ("A1", "B2"):
        print(client.call({"user": "ann"}, "reserve", sku=sku, count=2)["server"], flush=True)
    try:
        client.call({"user": "ann"}, "reserve", sku="A1", count=11)
    except ValueError:
        print("refused", flush=True)


def audit(url: str) -> None:
    """Print notifications until the input ends."""
    transport = oslo_messaging.get_notification_transport(cfg.CONF, url=url)
    targets = [oslo_messaging.Target(topic="inventory-events")]
    listener = oslo_messaging.get_notification_listener(transport, targets, [Audit()], executor="threading")
    listener.start()
    print("ready", flush=True)
    sys.stdin.read()
    listener.stop()
    listener.wait()


if __name__ == "__main__":
    cfg.CONF([])
    commands: dict[str, Callable[..., None]] = {"serve": serve, "call": call, "audit": audit}
    commands[sys.argv[1]](*sys.argv[2:])
