"""What a forked child may do with the notifiers and listeners of its parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_PROGRAM = """
import os, sys, threading
from messaging import Forked, Target, notify, open_transport

url, seen = sys.argv[1], threading.Semaphore(0)

def tell(*words):
    # One write, because two processes share the pipe.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Endpoint:
    @notify.on("*")
    def take(self, event):
        tell("got", event.payload)
        seen.release()

with open_transport(url) as transport:
    listener = notify.Listener(transport, [Target(topic="t")], [Endpoint()])
    listener.start()
    notifier = notify.Notifier(transport, topics=["t"])
    notifier.info(None, "x", "parent")
    seen.acquire(timeout=5)
    child = os.fork()
    if child == 0:
        try:
            for forbidden in (lambda: listener.wait(0.1), lambda: listener.stop(0.1)):
                try:
                    forbidden()
                except Forked as error:
                    tell("Forked")
            notifier.info(None, "x", "child")
            tell("sent")
            transport.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    if not seen.acquire(timeout=5):
        tell("lost")
    notifier.info(None, "x", "again")
    seen.acquire(timeout=5)
    tell("clean", listener.stop(5))
"""


def test_a_child_sends_afresh_and_may_not_listen(tmp_path: Path) -> None:
    """An inherited notifier opens a connection of its own; an inherited listener says Forked; the parent goes on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM, f"zmq+local://{tmp_path}/here"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert sorted(told) == sorted(["got parent", "Forked", "Forked", "sent", "got child", "got again", "clean True"])
    assert told[-1] == "clean True"
