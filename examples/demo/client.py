"""A client: every way of asking a service for something, and what a caller hears when a server dies meanwhile.

    MESSAGING_RPC_URL=zmq:// python -m examples.demo.client

Methods are given by reference, so that mypy checks the arguments and knows the results; their names would do as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import as_completed

import messaging
from examples.demo.service import Inventory, OutOfStock
from messaging import notify, rpc


def show(what: str, ask: Callable[[], object]) -> None:
    """Ask, and print what came of it and how long that took."""
    start = time.perf_counter()
    try:
        outcome = ask()
    except OutOfStock as error:  # the service declares it, so it arrives as what it is
        outcome = f"OutOfStock: {error}"
    took = (time.perf_counter() - start) * 1000
    print(f"{what:<22} -> {'taken' if outcome is None else outcome} in {took:.1f} ms")


def use_each_verb(client: rpc.Client, notifier: notify.Notifier) -> None:
    """Call, cast, fan out, call one named server, and notify."""
    show("call: reserve apples", lambda: client.call(None, Inventory.reserve, sku="apples", count=2))
    show("call: reserve apples", lambda: client.call(None, Inventory.reserve, sku="apples", count=3))
    show("call: reserve pears", lambda: client.call(None, Inventory.reserve, sku="pears", count=9))
    show("cast: reindex", lambda: client.cast(None, Inventory.reindex, sku="apples"))
    show("fanout: reload_prices", lambda: client.fanout(None, Inventory.reload_prices))
    beta = client.prepare(server="beta")
    show("call beta: reserve", lambda: beta.call(None, Inventory.reserve, sku="apples", count=1))
    show("notify: order.placed", lambda: notifier.info(None, "order.placed", {"sku": "apples", "count": 2}))


def count_shelves(client: rpc.Client) -> None:
    """Four slow calls at once: one in each server, and two that may be sent again should their server be lost."""
    print("four shelves to count: 1 in alpha, 2 in beta; 3 and 4 in either, and again if need be")
    again = client.prepare(idempotent=True)
    calls = {
        client.prepare(server="alpha").submit(None, Inventory.count_shelf, shelf=1): 1,
        client.prepare(server="beta").submit(None, Inventory.count_shelf, shelf=2): 2,
        again.submit(None, Inventory.count_shelf, shelf=3): 3,
        again.submit(None, Inventory.count_shelf, shelf=4): 4,
    }
    for call in as_completed(calls):
        try:
            outcome = call.result()
        except messaging.ServerLost as error:
            outcome = f"ServerLost, delivered {error.delivered.name}: {error}"
        print(f"call: count shelf {calls[call]}    -> {outcome}")


def go_on(client: rpc.Client, calls: int = 200) -> None:
    """Many calls, one after the other."""
    servers = set()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        servers.add(client.call(None, Inventory.reserve, sku="apples", count=1).server)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds) * 1000
    print(f"{calls} calls              -> all answered by {', '.join(sorted(servers))}, median {median:.2f} ms")


def main() -> None:
    """Talk to whoever serves the topic."""
    with messaging.open_transports(messaging.load_config()) as transports:
        target = messaging.Target(topic="inventory", namespace="inventory", version="1.0")
        client = rpc.Client(transports.rpc, target, timeout=10)
        notifier = notify.Notifier(transports.notify, publisher_id="shop.host-1")
        use_each_verb(client, notifier)
        count_shelves(client)
        go_on(client)


if __name__ == "__main__":
    main()
