"""A process that sends at a steady rate: some threads notify, some call, some cast or fan out. What became of each is
in the history.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import messaging
from messaging import notify, rpc
from tests.faults.history import Recorder
from tests.faults.worker import obey, settings, tell, watch

options = settings()
name: str = options["name"]
topic: str = options["topic"]
timeout: float = options.get("timeout", 3.0)
recorder = Recorder(options["history"], name)
transport = messaging.open_transport(options["url"], **options.get("transport", {}))
client: Any = None
if transport.capabilities.rpc:
    client = rpc.Client(transport, messaging.Target(topic=topic), timeout=timeout)
notifier = notify.Notifier(transport, publisher_id=name, topics=[f"{topic}-events"], timeout=timeout)
verbs: dict[str, Callable[[str], Any]] = {
    "work": lambda id: client.call(None, "work", id=id),
    "cast": lambda id: client.cast(None, "note", id=id, operation="cast"),
    "fanout": lambda id: client.fanout(None, "note", id=id, operation="fanout"),
    "notify": lambda id: notifier.info(None, "event", {"id": id}),
}
stopping = threading.Event()
threads: list[threading.Thread] = []


def keep_on(operation: str, thread: str, every: float) -> None:
    """Do one after the other, each so many seconds after the one before, or at once when that took longer."""
    verb = verbs[operation]
    due = time.monotonic()
    number = 0
    while not stopping.wait(max(0.0, due - time.monotonic())):
        number += 1
        due = max(due + every, time.monotonic())
        id = f"{name}-{thread}-{number}"
        recorder.run(operation, id, timeout, lambda id=id: verb(id))  # type: ignore[misc]


def start(every: float, **numbers: int) -> None:
    """Have so many threads do each of the operations."""
    for operation, number in numbers.items():
        for count in range(number):
            thread = threading.Thread(target=keep_on, args=(operation, f"{operation}{count}", every), daemon=True)
            threads.append(thread)
            thread.start()


def stop() -> None:
    """Send nothing more; returns when everything has its outcome."""
    stopping.set()
    for thread in threads:
        thread.join()


def burst(number: int, first: int = 0) -> int:
    """Send so many notifications through a pipeline, numbered from `first`; returns how many were confirmed."""
    ids = [f"{name}-burst-{count}" for count in range(first, first + number)]
    for id in ids:
        recorder.write("invoke", "notify", id, timeout)
    failed: dict[int, Any] = {}
    try:
        with notifier.pipeline() as pipeline:
            for id in ids:
                pipeline.info(None, "event", {"id": id})
    except messaging.PipelineFailed as group:
        failed = {getattr(error, "index", -1): error for error in group.exceptions}
    for index, id in enumerate(ids):
        if index in failed:
            recorder.failed("notify", id, failed[index])
        else:
            recorder.write("ok", "notify", id)
    return number - len(failed)


tell("ready")
obey(
    {
        "start": start,
        "stop": stop,
        "burst": burst,
        "stats": transport.stats,
        "health": transport.health,
        "watch": lambda: watch(transport.health),
    }
)
