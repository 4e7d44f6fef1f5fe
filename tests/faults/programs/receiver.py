"""A process that receives: it serves calls, listens to the notifications of a pool, or both. Each handler writes that
it has run.
"""

from __future__ import annotations

import threading
from typing import Any

import messaging
from messaging import notify, rpc
from tests.faults.history import REDELIVERED, Recorder
from tests.faults.worker import obey, settings, tell, watch

options = settings()
name: str = options["name"]
topic: str = options["topic"]
seconds: float = options.get("seconds", 0.0)
recorder = Recorder(options["history"], name)
transport = messaging.open_transport(options["url"], **options.get("transport", {}))


class Handlers:
    """What can be called."""

    @rpc.expose
    def work(self, ctxt: dict[str, Any], id: str, seconds: float = 0.0) -> str:
        """Have an effect, take some time, and return the id."""
        recorder.write("effect", "work", id, REDELIVERED if rpc.current().redelivered else None)
        if seconds:
            threading.Event().wait(seconds)
        return id

    @rpc.expose
    def note(self, ctxt: dict[str, Any], id: str, operation: str) -> None:
        """Have an effect."""
        recorder.write("effect", operation, id, REDELIVERED if rpc.current().redelivered else None)

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Take some time and have an effect; at the first attempt fail, where that is asked for."""
        if seconds:
            threading.Event().wait(seconds)
        if event.attempt == 1 and options.get("fails_first"):
            raise notify.Retry("not at the first attempt")
        recorder.write("effect", "notify", event.payload["id"], REDELIVERED if event.redelivered else None)


services: list[Any] = []
if options.get("serves", True):
    services.append(
        rpc.Server(
            transport, messaging.Target(topic=topic, server=name), [Handlers()], **options.get("server_options", {})
        )
    )
if options.get("pool"):
    services.append(
        notify.Listener(
            transport,
            [messaging.Target(topic=f"{topic}-events")],
            [Handlers()],
            pool=options["pool"],
            **options.get("listener_options", {}),
        )
    )
for service in services:
    service.start()
tell("ready")
obey({"stats": transport.stats, "health": transport.health, "watch": lambda: watch(transport.health)})
