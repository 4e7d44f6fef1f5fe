"""A process that sends at a steady rate: some threads notify, some call. What became of each is in the history."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import messaging
from messaging import notify, rpc
from tests.faults.history import Recorder
from tests.faults.worker import obey, settings, tell

options = settings()
name: str = options["name"]
topic: str = options["topic"]
timeout: float = options.get("timeout", 3.0)
recorder = Recorder(options["history"], name)
transport = messaging.open_transport(options["url"], **options.get("transport", {}))
client = rpc.Client(transport, messaging.Target(topic=topic), timeout=timeout)
notifier = notify.Notifier(transport, publisher_id=name, topics=[f"{topic}-events"], timeout=timeout)
stopping = threading.Event()
threads: list[threading.Thread] = []


def call(id: str) -> None:
    """Make one call."""
    recorder.run("work", id, timeout, lambda: client.call(None, "work", id=id))


def send(id: str) -> None:
    """Send one notification."""
    recorder.run("notify", id, timeout, lambda: notifier.info(None, "event", {"id": id}))


def keep_on(thread: str, one: Callable[[str], None], every: float) -> None:
    """Do one after the other, each so many seconds after the one before, or at once when that took longer."""
    due = time.monotonic()
    number = 0
    while not stopping.wait(max(0.0, due - time.monotonic())):
        number += 1
        due = max(due + every, time.monotonic())
        one(f"{name}-{thread}-{number}")


def start(notifying: int, calling: int, every: float) -> None:
    """Have so many threads notify and so many call."""
    stopping.clear()
    run = len(threads)
    for number in range(notifying + calling):
        one = send if number < notifying else call
        thread = f"{one.__name__}{run + number}"
        threads.append(threading.Thread(target=keep_on, args=(thread, one, every), daemon=True))
        threads[-1].start()


def stop() -> None:
    """Send nothing more; returns when everything has its outcome."""
    stopping.set()
    for thread in threads:
        thread.join()


def burst(number: int) -> int:
    """Send so many notifications through a pipeline; returns how many were confirmed."""
    ids = [f"{name}-burst-{count}" for count in range(number)]
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
obey({"start": start, "stop": stop, "burst": burst, "stats": transport.stats, "health": transport.health})
