"""The demo: `make demo`, or `python -m examples.demo`.

It starts the service twice, the listener and the client, each a process of its own, kills one of the servers while it
works, and prints what all of them say. Each step is checked and has a deadline: exit status 1, and one line that says
what did not happen, when one of them fails. Nothing is left running.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, NoReturn, Self

ROOT = Path(__file__).resolve().parents[2]
TOLD_WITHIN = 3.0
"""Seconds in which the caller of a killed server has to know. The promise; it is milliseconds in fact."""


class Failed(Exception):
    """A step of the demo did not happen as told."""


class Line(NamedTuple):
    """What a process has said, and when; None: it has ended."""

    process: str
    text: str | None
    when: float


class Story:
    """The processes of the demo, what they have said, and what they are expected to say."""

    def __init__(self, url: str) -> None:
        # Nobody's settings for other services may reach the demo.
        own = {name: value for name, value in os.environ.items() if not name.startswith("MESSAGING_")}
        self._environment = {**own, "MESSAGING_RPC_URL": url, "PYTHONUNBUFFERED": "1"}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._hearers: list[threading.Thread] = []
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._said: list[Line] = []
        self._ended: set[str] = set()
        self._started = time.monotonic()

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start a process and listen to it."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"examples.demo.{module}", *arguments],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes[name] = process
        hearer = threading.Thread(target=self._hear, args=(name, process), daemon=True)
        self._hearers.append(hearer)
        hearer.start()

    def _hear(self, name: str, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    self._lines.put(Line(name, line.rstrip(), time.monotonic()))
        self._lines.put(Line(name, None, time.monotonic()))

    def tell(self, who: str, text: str, when: float | None = None) -> None:
        """Print a line of the story."""
        print(f"{(when or time.monotonic()) - self._started:6.3f} s  {who:<8}  {text}", flush=True)

    def expect(self, process: str, pattern: str, within: float = 15.0) -> Line:
        """Wait until a process says something; each line counts once. `process` may be several, divided by |."""
        until = time.monotonic() + within
        names = process.split("|")
        for line in self._said:
            if line.process in names and re.search(pattern, line.text or ""):
                self._said.remove(line)
                return line
        while True:
            if self._ended.issuperset(names):
                status = self._processes[names[0]].wait()
                raise Failed(f"{process} ended with status {status} before it said {pattern!r}")
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{process} did not say {pattern!r} within {within:g} s") from None
            if line.text is None:
                self._ended.add(line.process)
                continue
            self.tell(line.process, line.text, line.when)
            if line.process in names and re.search(pattern, line.text):
                return line
            self._said.append(line)

    def kill(self, name: str) -> float:
        """End a process as a crash does; returns when."""
        when = time.monotonic()
        self._processes[name].kill()
        return when

    def ended(self, name: str, within: float = 15.0) -> None:
        """Wait for the good end of a process."""
        try:
            status = self._processes[name].wait(within)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} has not ended within {within:g} s") from None
        if status != 0:
            raise Failed(f"{name} ended with status {status}")

    def stop(self, name: str) -> None:
        """Ask a process to end."""
        self._processes[name].terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        for hearer in self._hearers:
            hearer.join()
        while not self._lines.empty():
            line = self._lines.get()
            if line.text is not None and error is not None:
                self.tell(line.process, line.text, line.when)


def play(story: Story) -> None:
    """The story. Raises Failed."""
    story.tell("demo", "two instances of a service, a listener and a client: four processes over zmq://, and no broker")
    story.start("alpha", "service", "alpha")
    story.start("beta", "service", "beta")
    story.start("audit", "listener", "audit")
    for name in ("alpha", "beta", "audit"):
        story.expect(name, "can be reached")

    story.start("client", "client")
    for _ in range(2):
        story.expect("client", r"^call: reserve apples .*Reservation\(")
    story.expect("client", r"^call: reserve pears .*OutOfStock: 9 pears wanted, 3 there")
    story.expect("client", r"^cast: reindex .*taken")
    story.expect("alpha|beta", "has reindexed apples")
    story.expect("client", r"^fanout: .*sent=2, failed=0")
    story.expect("alpha", "has reloaded its prices")
    story.expect("beta", "has reloaded its prices")
    story.expect("client", r"^call beta: .*server='beta'")
    story.expect("client", r"^notify: order.placed .*taken")
    story.expect("audit", "has heard order.placed .*apples.* from shop.host-1")

    # Where a shelf is being counted is the transport's choice, but for the first two.
    counting = {shelf: story.expect("alpha|beta", f"counts shelf {shelf}").process for shelf in (1, 2, 3, 4)}
    killed = story.kill("alpha")
    story.tell("demo", "SIGKILL for alpha, while it counts", killed)
    told = story.expect("client", r"^call: count shelf 1 .*ServerLost, delivered MAYBE").when - killed
    if told > TOLD_WITHIN:
        raise Failed(f"the caller was told {told:.1f} s after the kill, and {TOLD_WITHIN:g} s are promised")
    story.tell("demo", f"the caller was told {told * 1000:.1f} ms after the kill; beta goes on")
    for shelf in (3, 4):
        if counting[shelf] == "alpha":
            story.expect("beta", f"counts shelf {shelf}")
    for shelf in (2, 3, 4):
        story.expect("client", f"^call: count shelf {shelf} .*beta has counted")
    story.expect("client", r"^\d+ calls .*all answered by beta,")
    story.ended("client")

    for name in ("beta", "audit"):
        story.stop(name)
        story.expect(name, "has stopped$")
        story.expect(name, "is closed$")
        story.ended(name)
    story.tell("demo", "every step happened as it should; all processes have ended")


def interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave in good order, so that no process stays."""
    sys.exit(128 + number)


def main() -> int:
    """Play, and return the exit status."""
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    with tempfile.TemporaryDirectory(prefix="messaging-demo-") as directory:
        try:
            # A directory of its own, so that it does not meet other services of this machine.
            with Story(f"zmq+local://{directory}") as story:
                play(story)
        except Failed as failure:
            print(f"demo: FAILED: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
