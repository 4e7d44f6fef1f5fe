"""A listening process: writes down the id of every notification that it gets."""

from __future__ import annotations

from typing import Any

import messaging
from messaging import notify
from tests.faults.history import Recorder
from tests.faults.worker import obey, settings, tell

options = settings()
recorder = Recorder(options["history"], options["name"])
transport = messaging.open_transport(options["url"], **options.get("transport", {}))


class Endpoint:
    """Hears everything."""

    @notify.on("*")
    def heard(self, event: notify.Event[Any]) -> None:
        """Write down the id."""
        recorder.write("effect", "notify", event.payload["id"])


listener = notify.Listener(
    transport, [messaging.Target(topic=options["topic"])], [Endpoint()], pool=options.get("pool")
)
listener.start()
tell("ready")
obey({"stats": transport.stats, "stop": listener.stop})
