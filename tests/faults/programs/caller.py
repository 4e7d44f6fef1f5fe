"""A calling process: opens a given number of calls at once and leaves them open, or calls one after the other from
several threads and writes what came of each.
"""

from __future__ import annotations

import gc
import signal
import threading
from typing import Any

import messaging
from messaging import rpc
from tests.faults.history import Recorder
from tests.faults.worker import obey, settings, tell

options = settings()
name = options["name"]
recorder = Recorder(options["history"], name)
transport = messaging.open_transport(options["url"])
client = rpc.Client(transport, messaging.Target(topic=options["topic"]), timeout=options.get("timeout", 5.0))
stopping = threading.Event()
counts: dict[str, int] = {}


def open_calls(number: int, method: str, namespace: str | None, seconds: float) -> int:
    """Start calls and wait for none; returns how many of them are under way."""
    there = client.prepare(namespace=namespace)
    futures = [there.submit(None, method, id=f"{name}-open-{n}", seconds=seconds) for n in range(number)]
    return sum(not future.done() for future in futures)


def keep_calling(thread: str) -> None:
    """Call until told to stop; every answer has to be the own one."""
    number = 0
    while not stopping.is_set():
        number += 1
        id = f"{name}-{thread}-{number}"
        recorder.run("work", id, options.get("timeout", 5.0), lambda id=id: client.call(None, "work", id=id))  # type: ignore[misc]
        counts[thread] = number


def start(threads: int) -> None:
    """Have so many threads call."""
    for number in range(threads):
        threading.Thread(target=keep_calling, args=(f"thread{number}",), daemon=True).start()


def stop() -> int:
    """Have no thread begin another call; returns how many there were."""
    stopping.set()
    return sum(counts.values())


def pipelined(number: int, chunk: int) -> int:
    """Make so many calls, a chunk of them under way at a time; returns how many did not get their own answers."""
    wrong = 0
    for first in range(0, number, chunk):
        with client.pipeline() as pipeline:
            for value in range(first, first + chunk):
                pipeline.call(None, "echo", value=value)
        wrong += sum(answer != value for value, answer in enumerate(pipeline.results(), first))
    return wrong


def at_once(number: int) -> int:
    """Have so many calls under way at the same time; returns how many did not get their own answers."""
    futures = [client.submit(None, "echo", value=value) for value in range(number)]
    return sum(future.result(60) != value for value, future in enumerate(futures))


def cycles(number: int) -> int:
    """Open a transport, call and close it so many times; returns how many calls did not get their answers."""
    wrong = 0
    for value in range(number):
        with messaging.open_transport(options["url"]) as opened:
            there = rpc.Client(opened, messaging.Target(topic=options["topic"]))
            wrong += there.call(None, "echo", value=value) != value
    # A closed transport keeps one descriptor, its bell, until nobody can ring it any more.
    gc.collect()
    return wrong


commands: dict[str, Any] = {
    "pipelined": pipelined,
    "at_once": at_once,
    "cycles": cycles,
    "open_calls": open_calls,
    "start": start,
    "stop": stop,
    "counts": lambda: counts,
    "stats": transport.stats,
}

if options.get("interruptible"):
    # The main thread is the one that Python interrupts; so it makes the call, and another one takes the commands.
    threading.Thread(target=obey, args=(commands,), daemon=True).start()
    # A parent may have set it to be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        tell("ready")
        client.prepare(timeout=30).call(None, "hold", id=f"{name}-main", seconds=30)
    except KeyboardInterrupt:
        tell("interrupted")
    threading.Event().wait()
else:
    tell("ready")
    obey(commands)
