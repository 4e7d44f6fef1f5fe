"""A process with everything under way (calls, a server, a listener) that forks, and children that go on with it."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import messaging
from messaging import Forked, notify, rpc
from tests.faults.history import Recorder
from tests.faults.worker import obey, settings, tell

PATIENCE = 10.0
options = settings()
name = options["name"]
TIMEOUT = options.get("timeout", 5.0)
recorder = Recorder(options["history"], name)
transport = messaging.open_transport(options["url"])
client = rpc.Client(transport, messaging.Target(topic="t"), timeout=TIMEOUT)
notifier = notify.Notifier(transport, publisher_id=name, topics=["events"], timeout=5)
stopping = threading.Event()
answered = 0


class Own:
    """Served by this process itself."""

    def __init__(self, who: str) -> None:
        self._who = who

    @rpc.expose
    def who(self, ctxt: dict[str, Any]) -> str:
        """Return who serves."""
        return self._who


class Audit:
    """Listens in this process."""

    @notify.on("*", level="info")
    def heard(self, event: notify.Event[Any]) -> None:
        """Write down what was notified."""
        recorder.write("effect", "notify", event.payload["id"])


server = rpc.Server(transport, messaging.Target(topic="own", server=name), [Own(name)])
listener = notify.Listener(transport, [messaging.Target(topic="events")], [Audit()])
server.start()
listener.start()


def work(id: str) -> bool:
    """Make a call that goes into the history, and say whether its answer is right."""
    return bool(recorder.run("work", id, TIMEOUT, lambda: client.call(None, "work", id=id)) == id)


def work_later(id: str) -> bool:
    """The same by way of a Future."""
    return bool(recorder.run("work", id, TIMEOUT, lambda: client.submit(None, "work", id=id).result(5)) == id)


def keep_calling(thread: str, how: Callable[[str], bool]) -> None:
    """Call until told to stop."""
    global answered
    number = 0
    while not stopping.is_set():
        number += 1
        how(f"{name}-{thread}-{number}")
        answered += 1


def refusals(pending: Future[Any]) -> list[str]:
    """What a child can do with what it has inherited and must not use: nothing, and it is told so."""
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("server.stop", server.stop),
        ("server.wait", lambda: server.wait(0.1)),
        ("listener.stop", listener.stop),
        ("listener.wait", lambda: listener.wait(0.1)),
        ("future.result", lambda: pending.result(1)),
    ]
    wrong = []
    for what, attempt in attempts:
        try:
            wrong.append(f"{what} returned {attempt()!r}")
        except Forked:
            pass
        except Exception as error:
            wrong.append(f"{what} raised {error!r}")
    return wrong


def use_everything(child: str, pending: Future[Any]) -> list[str]:
    """What has to work in a child, and what has to be refused; returns what is wrong."""
    wrong = refusals(pending)
    if not work(f"{child}-call"):
        wrong.append("a call has failed")
    if client.submit(None, "echo", value=child).result(5) != child:
        wrong.append("a submitted call got another answer")
    if rpc.Client(transport, messaging.Target(topic="own"), timeout=5).call(None, "who") != name:
        wrong.append("the server of the parent was not reached")
    notifier.info(None, "child.born", {"id": f"{child}-event"})
    with rpc.Server(transport, messaging.Target(topic="own", server=child), [Own(child)]):
        to_child = rpc.Client(transport, messaging.Target(topic="own", server=child), timeout=5)
        if to_child.call(None, "who") != child:
            wrong.append("a server of its own was not reached")
    transport.close()
    return wrong


def await_child(pid: int) -> int:
    """Return the exit status of a child; one that hangs is killed, and -9."""
    watch = os.pidfd_open(pid)
    try:
        if not select.select([watch], [], [], PATIENCE)[0]:
            os.kill(pid, 9)
    finally:
        os.close(watch)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_use(how: str, child: str) -> dict[str, Any]:
    """Fork in one of three ways while a call is pending; returns what the child found wrong, how it ended, and what the
    parent got for its own pending call.
    """
    pending = client.submit(None, "work", id=f"{child}-pending", seconds=0.5)
    reading, writing = os.pipe()

    def in_child() -> None:
        try:
            wrong = use_everything(child, pending)
        except BaseException as error:
            wrong = [repr(error)]
        os.write(writing, "\n".join(wrong).encode())

    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=in_child)
        process.start()
        process.join(PATIENCE)
        status = process.exitcode
    else:
        pid = os.fork()
        if pid == 0:
            in_child()
            if how == "os._exit":
                os._exit(0)
            # The whole way out: what is collected now must not touch what belongs to the parent.
            sys.exit(0)
        status = await_child(pid)
    os.close(writing)
    wrong = os.read(reading, 10_000).decode()
    os.close(reading)
    return {"wrong": wrong, "status": status, "pending": pending.result(5)}


def fork_while_locked() -> dict[str, Any]:
    """Fork while another thread holds the lock of a pending Future, as whoever sets or awaits its result does for a
    moment; returns how the child ended and what the parent got.
    """
    pending = client.submit(None, "work", id="pending", seconds=0.5)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with pending._condition:
            held.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE)
    pid = os.fork()
    if pid == 0:
        try:
            pending.result(1)
        except Forked:
            os._exit(0)
        finally:
            os._exit(1)
    release.set()
    return {"status": await_child(pid), "pending": pending.result(5)}


def fork_at_random(forks: int, seed: int) -> list[str]:
    """Fork many times while threads call; each child makes three calls. Returns which of them did not end well."""
    chance = random.Random(seed)
    pause = threading.Event()
    bad = []
    for number in range(forks):
        enough = answered + chance.randrange(1, 20)
        while answered < enough:
            pause.wait(chance.random() / 1000)
        pid = os.fork()
        if pid == 0:
            try:
                right = all(work(f"{name}-child{number}-{n}") for n in range(3))
            except BaseException as error:
                recorder.write("note", "fork", f"child{number}", repr(error))
                os._exit(2)
            os._exit(0 if right else 1)
        status = await_child(pid)
        if status:
            bad.append(f"child {number} ended with {status}")
    return bad


def start(threads: int) -> None:
    """Have so many threads call, every second one by Futures."""
    for number in range(threads):
        how = work_later if number % 2 else work
        threading.Thread(target=keep_calling, args=(f"thread{number}", how), daemon=True).start()


def stop() -> None:
    """Have no thread begin another call."""
    stopping.set()


tell("ready")
obey(
    {
        "start": start,
        "stop": stop,
        "fork_and_use": fork_and_use,
        "fork_while_locked": fork_while_locked,
        "fork_at_random": fork_at_random,
        "stats": transport.stats,
        "who": lambda: rpc.Client(transport, messaging.Target(topic="own"), timeout=5).call(None, "who"),
    }
)
