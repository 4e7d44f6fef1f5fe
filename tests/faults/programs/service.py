"""A server process. Its handlers write that they ran; some of them do what handlers should not."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import messaging
from messaging import rpc
from tests.faults.history import REDELIVERED, Recorder
from tests.faults.worker import obey, settings, tell


class Declared(Exception):
    """An exception that belongs to the contract."""


class Handlers:
    """What callers can ask for."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        """Return the value; leaves no trace."""
        return value

    @rpc.expose
    def name(self, ctxt: dict[str, Any]) -> str:
        """Return the name of the server."""
        return self._name

    @rpc.expose
    def work(self, ctxt: dict[str, Any], id: str, seconds: float = 0.0) -> str:
        """Have an effect, take some time, and return the id."""
        self._recorder.write("effect", "work", id, REDELIVERED if rpc.current().redelivered else None)
        if seconds:
            threading.Event().wait(seconds)
        return id

    @rpc.expose
    def hold(self, ctxt: dict[str, Any], id: str, seconds: float) -> str:
        """Have an effect and wait until nobody waits any more, or the time is over."""
        request = rpc.current()
        self._recorder.write("effect", "hold", id)
        until = time.monotonic() + seconds
        pause = threading.Event()
        while time.monotonic() < until and not request.cancelled:
            pause.wait(0.01)
        tell("cancelled" if request.cancelled else "held", id=id)
        return id

    @rpc.expose
    def spin(self, ctxt: dict[str, Any], id: str, seconds: float) -> str:
        """Keep the interpreter busy with Python code."""
        self._recorder.write("effect", "spin", id)
        until = time.monotonic() + seconds
        count = 0
        while time.monotonic() < until:
            count += 1
        return id

    @rpc.expose
    def block(self, ctxt: dict[str, Any], id: str, size: int) -> str:
        """After a moment keep the interpreter from running anything else, in C code that holds its lock."""
        self._recorder.write("effect", "block", id)
        threading.Event().wait(0.2)
        sum(range(size))
        return id

    def hidden(self, ctxt: dict[str, Any]) -> None:
        """Belong to the class alone: it is not exposed."""

    @rpc.expose
    def unencodable(self, ctxt: dict[str, Any]) -> Any:
        """Return what cannot travel."""
        return threading.Lock()

    @rpc.expose
    def large(self, ctxt: dict[str, Any], size: int) -> bytes:
        """Return many bytes."""
        return bytes(size)

    @rpc.expose(raises=(Declared,))
    def fail(self, ctxt: dict[str, Any], how: str) -> None:
        """Fail in one of several ways."""
        if how == "declared":
            raise Declared("as agreed", 7)
        if how == "sys.exit":
            sys.exit(3)
        if how == "os._exit":
            os._exit(3)
        raise ZeroDivisionError("not agreed")

    @rpc.expose
    def call_oneself(self, ctxt: dict[str, Any], whom: str) -> str:
        """Call over the own transport and wait, which an inline handler must not do; return what came of it."""
        try:
            rpc.Client(transport, messaging.Target(topic=whom), timeout=5).call(None, "name")
        except messaging.StateError as error:
            return f"{type(error).__name__}: {error}"
        return "answered"


class Coroutines:
    """The same for coroutines."""

    target = messaging.Target(namespace="coroutines")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @rpc.expose
    async def work(self, ctxt: dict[str, Any], id: str, seconds: float = 0.0) -> str:
        """Have an effect, take some time, and return the id."""
        self._recorder.write("effect", "work", id)
        await asyncio.sleep(seconds)
        return id


def jump(seconds: float) -> None:
    """Set the clock on the wall of this process."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


options = settings()
logging.basicConfig(level=options.get("log", "ERROR"))
recorder = Recorder(options["history"], options["server"])
transport = messaging.open_transport(options["url"], **options.get("transport", {}))
endpoints: list[Any] = [Handlers(recorder, options["server"])]
if options.get("coroutines"):
    endpoints.append(Coroutines(recorder))
server = rpc.Server(
    transport,
    messaging.Target(topic=options["topic"], server=options["server"]),
    endpoints,
    **options.get("options", {}),
)


class Ready:
    """The last of the services that are run: it only tells that all have started."""

    def start(self) -> None:
        """See messaging.running.Service."""
        tell("ready")

    def stop(self, grace: float) -> bool:
        """See messaging.running.Service."""
        tell("stopping")
        return True


commands: dict[str, Callable[..., Any]] = {
    "stats": lambda: {**transport.stats(), "in_hand": server.health()["in_hand"]},
    "health": server.health,
    "stop": server.stop,
    "jump": jump,
}
if "grace" in options:
    threading.Thread(target=obey, args=(commands,), daemon=True).start()
    clean = messaging.run(server, Ready(), grace=options["grace"])
    transport.close()
    tell("ran", clean=clean)
else:
    server.start()
    tell("ready")
    obey(commands)
