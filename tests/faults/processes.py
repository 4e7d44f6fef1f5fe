"""Worker processes: started from a module, spoken to by lines over pipes, killed by pid, never left behind.

A worker ends when its standard input does, so none outlives a test run that is killed itself. Every wait has a bound
and, when it is reached, says what was waited for and shows what the worker wrote to its standard error.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["Stall", "Worker", "came_true", "until"]

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 20.0
"""Seconds for a step that takes milliseconds: what is waited for is an event, and this bound only ends a hang."""


def until(condition: Callable[[], Any], what: str, within: float = _PATIENCE, every: float = 0.005) -> Any:
    """Return the first true value of a condition, looked at every 5 ms or as said; fail when there was none in time."""
    end = time.monotonic() + within
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= end:
            raise AssertionError(f"not within {within:g} s: {what}")
        pause.wait(every)


def came_true(condition: Callable[[], Any], within: float, every: float = 0.05) -> bool:
    """Wait until a condition is true, or until the time is over; whether it was."""
    end = time.monotonic() + within
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= end:
            return False
        pause.wait(every)
    return True


class Worker:
    """One process that runs `python -m tests.faults.programs.NAME SETTINGS`."""

    package = "tests.faults.programs"

    def __init__(self, program: str, plant: str = "", **settings: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MESSAGING_TEST_PLANT": plant}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", f"{self.package}.{program}", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment,
            # A Ctrl-C at the terminal is for the tests, not for what they test.
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._kept: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, name=f"reads {program}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        for line in output:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    # Talking

    def expect(self, event: str, within: float = _PATIENCE) -> dict[str, Any]:
        """Return what the worker tells with an event; other events stay for later."""
        end = time.monotonic() + within
        for told in self._kept:
            if told["event"] == event:
                self._kept.remove(told)
                return told
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise AssertionError(f"no {event!r} within {within:g} s{self.errors()}") from None
            if line is None:
                self._lines.put(None)
                raise AssertionError(f"the worker ended before {event!r}{self.errors()}")
            if line["event"] == event:
                return line
            self._kept.append(line)

    def send(self, do: str, **arguments: Any) -> None:
        """Give a command without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def ask(self, do: str, within: float = _PATIENCE, **arguments: Any) -> Any:
        """Give a command and return its answer."""
        self.send(do, **arguments)
        return self.answer(do, within)

    def answer(self, do: str, within: float = _PATIENCE) -> Any:
        """Return the answer to a command that was given before."""
        told = self.expect(f"did {do}", within)
        assert "error" not in told, f"{do}: {told['error']}{self.errors()}"
        return told["value"]

    def errors(self) -> str:
        """What the worker wrote to its standard error, for messages."""
        text = Path(f"/proc/self/fd/{self._errors.fileno()}").read_text(encoding="utf-8", errors="replace")
        return f"; the worker wrote:\n{text[-4000:]}" if text else ""

    # Life and death

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has been waited for; after SIGSTOP it stands still when this returns: until
        its last thread does, what a test counts on not to be answered may be.
        """
        if self._process.returncode is None:
            os.kill(self.pid, number)
            if number == signal.SIGSTOP:
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, within: float = _PATIENCE) -> int:
        """Return the exit status; that of a shell would be 128 more than the signal, this one is minus the signal."""
        if self._process.returncode is None:
            watch = os.pidfd_open(self.pid)
            try:
                ended, _, _ = select.select([watch], [], [], within)
            finally:
                os.close(watch)
            assert ended, f"the worker did not end within {within:g} s{self.errors()}"
        return self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, whatever it does, and give its pipes back."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    # What was not read by the dead.
                    pass
        self._errors.close()

    # Looking at it

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """How many threads it has, those of ZeroMQ included."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stall:
    """How long this process was kept from running at most while the block lasted: what a loaded machine adds to every
    latency, measured by a thread that wants to run every 5 ms, so that nobody has to guess an allowance.
    """

    def __init__(self) -> None:
        self.worst = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="stall", daemon=True)

    def _measure(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(0.005):
            now = time.monotonic()
            self.worst = max(self.worst, now - before - 0.005)
            before = now

    def __enter__(self) -> Stall:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
