"""One process of a server: started behind a guard, watched through its log, signalled as a group.

It knows no particular server. What the process writes is kept in a file, of which the end is shown when something goes
wrong, because a server that does not start says why only there.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["GuardedProcess", "ServerFailed"]

_GUARD = Path(__file__).with_name("guard.py")


_STOPS = 10.0
"""Seconds for a signal to stop every thread."""
_STILL = "TtZX"
"""States of threads that do nothing: stopped, traced, dead."""


class ServerFailed(AssertionError):
    """A server could not be had: what was tried, what it wrote, and what to do about it."""


class GuardedProcess:
    """A running process in a session of its own. Not thread-safe, but for its properties."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self._command = " ".join(command)
        self._log = log
        self._status: int | None = None
        with log.open("ab") as output:
            # What an earlier process wrote into the same file is not this one's.
            self._begin = output.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-S", "-E", str(_GUARD), str(folder), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                # A Ctrl-C at the terminal is for the tests, not for their servers.
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        first = self._guard.stdout.readline()
        if not first:
            raise ServerFailed(f"{command[0]} could not be run{self.tail()}")
        self.pid = int(first)

    def output(self) -> str:
        """What this process has written so far."""
        with self._log.open("rb") as output:
            output.seek(self._begin)
            return output.read().decode(errors="replace")

    def tail(self) -> str:
        """The end of what it wrote, as part of a message."""
        return f"; its log {self._log} ends with:\n{self.output()[-3000:]}"

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended(0.0)

    def _ended(self, within: float) -> bool:
        if self._status is not None:
            return True
        output = self._guard.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], within)
        if not ready:
            return False
        # No line: the guard itself was killed.
        self._status = int(output.readline() or b"0")
        self._guard.wait()
        output.close()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        return True

    def wait_for_text(self, text: str, within: float) -> None:
        """Return when it has written this text. Raises ServerFailed when it ends or is too slow."""
        self._wait_until(lambda: text in self.output(), within)

    def wait_for_port(self, host: str, port: int, within: float) -> None:
        """Return when it takes connections. Raises ServerFailed when it ends or is too slow."""

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((host, port)) == 0

        self._wait_until(listens, within)

    def _wait_until(self, ready: Callable[[], bool], within: float) -> None:
        end = time.monotonic() + within
        pause = threading.Event()
        while not ready():
            if not self.running:
                raise ServerFailed(f"ended with status {self._status}: {self._command}{self.tail()}")
            if time.monotonic() >= end:
                raise ServerFailed(f"not ready within {within:g} s: {self._command}{self.tail()}")
            pause.wait(0.02)

    def signal(self, number: int) -> None:
        """Send a signal to the process and all its children; nothing when it has ended. After SIGSTOP they stand still
        when this returns: a busy machine may let them answer until then.
        """
        if self.running:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                # It ended between the question and the signal.
                return
            if number == signal.SIGSTOP:
                self._wait_until(self._stands_still, _STOPS)

    def _stands_still(self) -> bool:
        return all(state in _STILL for state in _states(self.pid))

    def terminate(self, within: float) -> None:
        """Ask it to end, and wait for it. Raises ServerFailed, after SIGKILL, when it takes longer."""
        if self.running:
            # The first process alone: it ends its children in its own order.
            os.kill(self.pid, signal.SIGTERM)
        if not self._ended(within):
            told = self.tail()
            self.kill()
            raise ServerFailed(f"did not stop within {within:g} s: {self._command}{told}")

    def kill(self) -> None:
        """SIGKILL to the whole group, and wait for its end."""
        self.signal(signal.SIGKILL)
        assert self._ended(10.0), f"{self._command} survived SIGKILL for 10 s"


def _states(group: int) -> list[str]:
    """The states of all threads in a group of processes, as the kernel calls them."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(_fields(stat)[2]) == group:
                states += [_fields(each)[0] for each in stat.parent.glob("task/*/stat")]
        except OSError:
            # It ended while it was looked at.
            continue
    return states


def _fields(stat: Path) -> list[str]:
    """What follows the name of the command: state, parent, group, ..."""
    return stat.read_text("utf-8", "replace").rpartition(")")[2].split()
