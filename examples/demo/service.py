"""A service: an endpoint, a server that offers it, and `messaging.run`, which serves until SIGTERM or Ctrl-C.

    MESSAGING_RPC_URL=zmq:// python -m examples.demo.service alpha

What carries the messages is the URL's business: nothing here knows that it is ZeroMQ.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import messaging
from messaging import rpc

log = logging.getLogger("inventory")


@dataclass
class Reservation:
    """What a caller gets for a reservation."""

    sku: str
    count: int
    left: int
    server: str


class OutOfStock(Exception):
    """There is less in stock than somebody wants."""


class Inventory:
    """The endpoint. Callers reach what is exposed, and nothing else; each request has a thread of the server's pool."""

    target = messaging.Target(namespace="inventory", version="1.0")

    def __init__(self, server: str) -> None:
        self.server = server
        self.stock = {"apples": 1000, "pears": 3}
        self.lock = threading.Lock()

    @rpc.expose(raises=(OutOfStock,))
    def reserve(self, ctxt: dict[str, Any], sku: str, count: int) -> Reservation:
        """Take some out of stock."""
        with self.lock:
            there = self.stock.get(sku, 0)
            if there < count:
                raise OutOfStock(f"{count} {sku} wanted, {there} there")
            self.stock[sku] = there - count
            return Reservation(sku, count, there - count, self.server)

    @rpc.expose
    def count_shelf(self, ctxt: dict[str, Any], shelf: int) -> str:
        """Walk to a shelf and count: slow work."""
        log.info("counts shelf %d ...", shelf)
        time.sleep(2.0)
        return f"{self.server} has counted shelf {shelf}"

    @rpc.expose
    def reindex(self, ctxt: dict[str, Any], sku: str) -> None:
        """Work that nobody waits for."""
        log.info("has reindexed %s", sku)

    @rpc.expose
    def reload_prices(self, ctxt: dict[str, Any]) -> None:
        """Work for every instance."""
        log.info("has reloaded its prices")


def main(name: str) -> None:
    """Serve under this name until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with messaging.open_transports(messaging.load_config()) as transports:
        target = messaging.Target(topic="inventory", server=name)
        messaging.run(rpc.Server(transports.rpc, target, [Inventory(name)]), grace=10)


if __name__ == "__main__":
    main(sys.argv[1])
