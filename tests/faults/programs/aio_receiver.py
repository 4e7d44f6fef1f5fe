"""The same as receiver.py on an event loop, which owns the connections and runs the handlers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import messaging
from messaging import aio, notify, rpc
from tests.faults.history import REDELIVERED, Recorder
from tests.faults.worker import obey, settings, tell

options = settings()
name: str = options["name"]
topic: str = options["topic"]
recorder = Recorder(options["history"], name)
loop = asyncio.new_event_loop()


class Handlers:
    """What can be called, and what listens."""

    @rpc.expose
    async def work(self, ctxt: dict[str, Any], id: str) -> str:
        """Have an effect, and return the id."""
        recorder.write("effect", "work", id, REDELIVERED if rpc.current().redelivered else None)
        return id

    @rpc.expose
    async def note(self, ctxt: dict[str, Any], id: str, operation: str) -> None:
        """Have an effect."""
        recorder.write("effect", operation, id, REDELIVERED if rpc.current().redelivered else None)

    @notify.on("*")
    async def heard(self, event: notify.Event[Any]) -> None:
        """Have an effect."""
        recorder.write("effect", "notify", event.payload["id"], REDELIVERED if event.redelivered else None)


async def begin() -> aio.Transport:
    """Start the services, and return their transport."""
    transport = aio.open_transport(options["url"], **options.get("transport", {}))
    if options.get("serves", True):
        server = aio.rpc.Server(transport, messaging.Target(topic=topic, server=name), [Handlers()])
        await server.start()
    if options.get("pool"):
        listener = aio.notify.Listener(
            transport, [messaging.Target(topic=f"{topic}-events")], [Handlers()], pool=options["pool"]
        )
        await listener.start()
    return transport


opened = loop.run_until_complete(begin())
commands = {"stats": opened.stats, "health": opened.health}
threading.Thread(target=obey, args=(commands,), daemon=True).start()
tell("ready")
loop.run_forever()
