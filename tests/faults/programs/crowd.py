"""Many clients in one process, each with a connection of its own."""

from __future__ import annotations

import messaging
from messaging import rpc
from tests.faults.worker import obey, settings, tell

options = settings()
transports = [messaging.open_transport(options["url"]) for _ in range(options["number"])]
clients = [rpc.Client(transport, messaging.Target(topic=options["topic"]), timeout=30) for transport in transports]
futures = [client.submit(None, "work", id=f"{options['name']}-{number}") for number, client in enumerate(clients)]
for future in futures:
    future.result()
tell("ready")
obey({"connected": lambda: sum(transport.health()["connected"] for transport in transports)})
