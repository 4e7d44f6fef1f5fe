"""What every worker program begins with: settings from the command line, commands from standard input, answers to
standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.faults import plants

__all__ = ["obey", "settings", "tell", "watch"]

_telling = threading.Lock()


def settings() -> dict[str, Any]:
    """What the test has set; the bug that it has planted is in place when this returns."""
    plants.plant(os.environ.get("MESSAGING_TEST_PLANT", ""))
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def tell(event: str, **details: Any) -> None:
    """Write one line to the test."""
    line = json.dumps({"event": event, **details}, default=repr) + "\n"
    with _telling:
        sys.stdout.write(line)
        sys.stdout.flush()


def watch(health: Callable[[], Mapping[str, Any]]) -> None:
    """Tell the test when connections are lost, `disconnected` with the time: it would hear of it later than it was."""

    def look() -> None:
        pause = threading.Event()
        while health()["connected"]:
            pause.wait(0.005)
        tell("disconnected", at=time.monotonic())

    threading.Thread(target=look, name="watch", daemon=True).start()


def obey(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Obey commands until the input ends, and end the process then: its test is over."""
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        try:
            value = commands[do](**command)
        except Exception as error:
            tell(f"did {do}", error=f"{type(error).__name__}: {error}")
        else:
            tell(f"did {do}", value=value)
    os._exit(0)
