"""Runs one server and ends with it; ends the server when the process that started it is gone, however it went.

    python guard.py FOLDER COMMAND ARGUMENT...

A test run may be killed by SIGKILL, and nobody runs clean-up code then. The guard's standard input is a pipe from the
test run; its end means that the run is over, so the server's process group is killed and its folder removed. It is a
program of its own, without imports of ours, so that it starts in milliseconds and outlives whatever broke.

On its standard output it writes the server's pid, then its exit status (minus the signal). The server's output goes
to the guard's standard error, which is a log file.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys


def main() -> None:
    """Start the command, wait for its end or for that of the standard input."""
    folder, *command = sys.argv[1:]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr, cwd=folder, start_new_session=True
    )
    _tell(server.pid)
    watch = os.pidfd_open(server.pid)
    ready, _, _ = select.select([sys.stdin.fileno(), watch], [], [])
    if watch in ready:
        _tell(server.wait())
        return
    _kill(server.pid)
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _tell(number: int) -> None:
    try:
        print(number, flush=True)
    except BrokenPipeError:
        # Whoever wanted to know is gone; the end of the standard input says so too.
        pass


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        # It ended by itself meanwhile.
        pass


if __name__ == "__main__":
    main()
