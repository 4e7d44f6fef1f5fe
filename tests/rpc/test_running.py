"""`messaging.run`: what signals do to a service, seen from outside. The service is that of the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import messaging
from examples.demo.service import Inventory
from messaging import Target, rpc
from messaging.errors import NoRoute, ServerLost, StateError
from tests.faults.processes import Stall, until
from tests.house.source import ROOT


class Served:
    """The service in a process of its own, and a client of it."""

    def __init__(self, directory: Path) -> None:
        url = f"zmq+local://{directory}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.demo.service", "alpha"],
            cwd=ROOT,
            env={**os.environ, "MESSAGING_RPC_URL": url},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.hear("can be reached")
        self.transport = messaging.open_transport(url)
        target = Target(topic="inventory", namespace="inventory", version="1.0")
        self.client = rpc.Client(self.transport, target, timeout=10)

    def hear(self, words: str) -> None:
        """Wait until the service says something in its log."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        pytest.fail(f"the service ended without saying {words!r}")

    def close(self) -> None:
        """End what is left of it."""
        self.transport.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A service that runs."""
    found = Served(tmp_path)
    yield found
    found.close()


def finds_nobody(served: Served) -> bool:
    """Whether a call is told that there is no server."""
    try:
        served.client.prepare(retry=0).call(None, Inventory.reload_prices)
    except NoRoute:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(served: Served, number: signal.Signals) -> None:
    """What runs is finished and answered, new calls find nobody, and the process ends with 0."""
    call = served.client.submit(None, Inventory.count_shelf, shelf=1)
    served.hear("counts shelf 1")
    served.process.send_signal(number)
    served.hear(f"{number.name} received: draining")
    # Told before it is done: who calls at that very moment may still be served.
    until(lambda: finds_nobody(served), "new calls find nobody")
    assert not call.done()
    assert call.result(10) == "alpha has counted shelf 1"
    assert served.process.wait(10) == 0


def test_the_second_signal_ends_it_at_once(served: Served) -> None:
    """Without waiting for what runs, whose caller is told; the exit status is the signal's."""
    call = served.client.submit(None, Inventory.count_shelf, shelf=1)
    served.hear("counts shelf 1")
    served.process.terminate()
    served.hear("SIGTERM received: draining")
    with Stall() as stall:
        began = time.monotonic()
        served.process.terminate()
        assert served.process.wait(10) == 128 + signal.SIGTERM
        took = time.monotonic() - began
    assert took < 0.5 + stall.worst
    with pytest.raises(ServerLost):
        call.result(10)


def test_it_works_in_the_main_thread_only() -> None:
    """Elsewhere Python lets nobody handle signals, and the error says what to do there."""
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            messaging.run()
        except StateError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join(10)
    assert "use start() and stop()" in str(raised[0])
