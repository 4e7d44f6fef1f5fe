"""The same as load.py on an event loop, which owns the connections: tasks in place of threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import messaging
from messaging import aio
from tests.faults.history import Recorder
from tests.faults.worker import obey, settings, tell

options = settings()
name: str = options["name"]
topic: str = options["topic"]
timeout: float = options.get("timeout", 3.0)
recorder = Recorder(options["history"], name)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, name="loop", daemon=True).start()


def on_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the loop and wait for it."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def build() -> tuple[aio.Transport, aio.rpc.Client, aio.notify.Notifier]:
    """Make everything on the loop that it belongs to."""
    transport = aio.open_transport(options["url"], **options.get("transport", {}))
    return (
        transport,
        aio.rpc.Client(transport, messaging.Target(topic=topic), timeout=timeout),
        aio.notify.Notifier(transport, publisher_id=name, topics=[f"{topic}-events"], timeout=timeout),
    )


transport, client, notifier = on_loop(build())
verbs: dict[str, Callable[[str], Coroutine[Any, Any, Any]]] = {
    "work": lambda id: client.call(None, "work", id=id),
    "cast": lambda id: client.cast(None, "note", id=id, operation="cast"),
    "fanout": lambda id: client.fanout(None, "note", id=id, operation="fanout"),
    "notify": lambda id: notifier.info(None, "event", {"id": id}),
}
stopping = False
tasks: list[asyncio.Task[None]] = []


async def keep_on(operation: str, task: str, every: float) -> None:
    """Do one after the other, each so many seconds after the one before, or at once when that took longer."""
    due = time.monotonic()
    number = 0
    while not stopping:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        number += 1
        due = max(due + every, time.monotonic())
        id = f"{name}-{operation}{task}-{number}"
        recorder.write("invoke", operation, id, timeout)
        try:
            value = await verbs[operation](id)
        except messaging.MessagingError as error:
            recorder.failed(operation, id, error)
        else:
            recorder.write("ok", operation, id, value if operation == "work" else None)


async def begin(every: float, numbers: dict[str, int]) -> None:
    """Have so many tasks do each of the operations."""
    for operation, number in numbers.items():
        tasks.extend(asyncio.create_task(keep_on(operation, str(count), every)) for count in range(number))


def start(every: float, **numbers: int) -> None:
    """See begin."""
    on_loop(begin(every, numbers))


async def ended() -> None:
    """Wait for all tasks."""
    await asyncio.gather(*tasks)


def stop() -> None:
    """Send nothing more; returns when everything has its outcome."""
    global stopping
    stopping = True
    on_loop(ended())


tell("ready")
obey({"start": start, "stop": stop, "stats": transport.stats, "health": transport.health})
