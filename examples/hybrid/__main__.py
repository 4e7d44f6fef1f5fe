"""RPC over one transport, notifications over another, and neither is named in the code: service.toml says which.

    python -m examples.hybrid
    MESSAGING_NOTIFY_URL=zmq:// python -m examples.hybrid       the environment wins over the file

Where both urls and their options are equal, `.rpc` and `.notify` are one transport.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import messaging
from messaging import Target, notify, rpc


class Counter:
    """An endpoint that tells others what it did."""

    def __init__(self, notifier: notify.Notifier) -> None:
        self.notifier = notifier
        self.value = 0

    @rpc.expose
    def add(self, ctxt: dict[str, Any], step: int) -> int:
        """Count, and notify."""
        self.value += step
        self.notifier.info(ctxt, "counter.changed", {"value": self.value})
        return self.value


class Watcher:
    """Hears of it."""

    def __init__(self) -> None:
        self.heard = threading.Event()

    @notify.on("counter.changed")
    def changed(self, event: notify.Event[dict[str, int]]) -> None:
        """Print it."""
        print(f"heard over the notification transport: {event.payload}")
        self.heard.set()


def main() -> None:
    """Serve, listen and call."""
    config = messaging.load_config(Path(__file__).with_name("service.toml"))
    watcher = Watcher()
    with messaging.open_transports(config) as transports:
        print(f"RPC over {transports.rpc.url.scheme}://, notifications over {transports.notify.url.scheme}://")
        counter = Counter(notify.Notifier(transports.notify, "counter", topics=["hybrid"]))
        with (
            notify.Listener(transports.notify, [Target(topic="hybrid")], [watcher]),
            rpc.Server(transports.rpc, Target(topic="hybrid", server="host-1"), [counter]),
        ):
            client = rpc.Client(transports.rpc, Target(topic="hybrid", server="host-1"), timeout=5)
            print(f"answered over the RPC transport: {client.call(None, Counter.add, step=5)}")
            if not watcher.heard.wait(5):
                raise SystemExit("no notification within 5 s")


if __name__ == "__main__":
    main()
