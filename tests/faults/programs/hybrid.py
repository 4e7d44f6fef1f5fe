"""A service whose transports stand in a TOML file: it serves calls over one, tells of each over the other, and listens
there too. It tells how its notifications fare, and measures on request what each of them takes.
"""

from __future__ import annotations

import time
from typing import Any

import messaging
from messaging import notify, rpc
from tests.faults.history import Recorder
from tests.faults.pace import paced
from tests.faults.worker import obey, settings, tell

options = settings()
topic: str = options["topic"]
recorder = Recorder(options["history"], options.get("name", "service"))
transports = messaging.open_transports(messaging.load_config(options["config"]))
notifier = notify.Notifier(transports.notify, "service", topics=[f"{topic}-events"], timeout=1.0)


class Handlers:
    """What can be called, and what is heard of it."""

    @rpc.expose
    def work(self, ctxt: dict[str, Any], id: str) -> str:
        """Tell of it without waiting, and return the id."""
        recorder.write("effect", "work", id)
        # An outage of the other transport is not this caller's: what comes of it is the future's to say.
        notifier.submit("info", None, "worked", {"id": id})
        return id

    @notify.on("worked")
    def worked(self, event: notify.Event[dict[str, str]]) -> None:
        """Have an effect."""
        recorder.write("effect", "heard", event.payload["id"])


def notify_paced(seconds: float) -> list[float]:
    """What notifications take, each from when it was due until it was confirmed, in seconds."""
    # What is late is measured, not given up.
    patient = notifier.prepare(timeout=10.0)
    return paced(lambda number: patient.submit("info", None, "worked", {"id": f"paced-{number}"}), seconds)


endpoints = [Handlers()]
listener = notify.Listener(transports.notify, [messaging.Target(topic=f"{topic}-events")], endpoints, pool="hybrid")
server = rpc.Server(transports.rpc, messaging.Target(topic=topic, server="service"), endpoints)
listener.start()
server.start()
tell("ready", at=time.monotonic())
obey({"notify": notify_paced})
