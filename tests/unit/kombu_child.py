"""A process that takes five messages over kombu+redis://, says so, and holds them until it is killed."""

from __future__ import annotations

import json
import sys

from messaging.drivers.base import Role
from messaging.message import Source, SourceKind
from messaging.testing.conformance.bare import Bare


def main(url: str, exchange: str, topic: str) -> None:
    """Run until killed."""
    bare = Bare(url, Role.RPC_SERVER, {"visibility_timeout": 1.0})
    bare.connect()
    bare.subscribe(Source(SourceKind.ANY, exchange, topic, "doomed"))
    bare.until(lambda: len(bare.events.deliveries) == 5, "five messages")
    print(json.dumps([bytes(delivery.body).decode() for delivery in bare.events.deliveries]), flush=True)
    while True:
        bare.pump(1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
