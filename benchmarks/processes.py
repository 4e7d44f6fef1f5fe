"""Processes under measurement, as their parent sees them: started, told what to do, and what they cost."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_START_WITHIN = 60.0  # seconds; twenty processes start at once on two cores
_STOP_WITHIN = 15.0


class WorkerFailed(Exception):
    """The process said that it could not do what it was told, or ended, or did not answer in time."""


class Worker:
    """One child process. It has begun to start when this returns; `ready` waits for it, so that many start side by
    side.
    """

    def __init__(self, subject: str, role: str, place: str, argument: str) -> None:
        self._name = f"{subject} {role}"
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", subject, role, place, argument],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._buffer = b""

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def ready(self) -> list[str]:
        """Wait until it is built; return the addresses of its servers."""
        addresses: list[str] = self._answer(_START_WITHIN)
        return addresses

    def ask(self, command: str, timeout: float = 60.0, **arguments: Any) -> dict[str, float]:
        """Have it do something and return its figures; WorkerFailed says why not."""
        self._input.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        self._input.flush()
        figures: dict[str, float] = self._answer(timeout)
        return figures

    def stop(self) -> None:
        """End its input, which ends it; kill it when it stays."""
        try:
            self._input.close()
        except BrokenPipeError:
            pass  # it has ended already
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            print(f"{self._name} did not end within {_STOP_WITHIN:g} s and was killed", file=sys.stderr)
            self._process.kill()
            self._process.wait()
        self._selector.close()
        self._output.close()
        self._complaints.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.stop()

    def _answer(self, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise WorkerFailed(f"{self._name} did not answer within {timeout:g} s")
            chunk = os.read(self._output.fileno(), 1 << 16)
            if not chunk:
                raise WorkerFailed(f"{self._name} ended with {self._process.wait()}: {self._last_complaint()}")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer["result"]

    def _last_complaint(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, its threads included, in seconds; needs Linux.

    Its CPU clock counts nanoseconds, where /proc counts in hundredths of a second. The number of the clock is made as
    the kernel makes it for clock_getcpuclockid(3), which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (10⁶ bytes); needs Linux."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
