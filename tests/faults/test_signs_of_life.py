"""Handlers that keep the interpreter busy: in Python they leave room for signs of life, in C they do not, and the
caller is told that it cannot rely on this server.
"""

from __future__ import annotations

import time

import pytest

from messaging import Delivered, ServerLost, rpc
from tests.faults.conftest import Stage
from tests.faults.processes import Stall

SILENCE = 0.6
"""Seconds without a sign of life after which a server counts as lost; it is to give one each third of that."""


def test_a_handler_that_is_busy_in_python_is_not_taken_for_dead(stage: Stage) -> None:
    """A handler computes for three times the silence that would end its call: its signs of life go out meanwhile."""
    stage.service("a")
    client = stage.client(timeout=10, call_monitor_timeout=SILENCE)
    assert stage.call(client, 10, "spin", "busy", seconds=3 * SILENCE) == "busy"


def test_a_server_without_signs_of_life_is_found(stage: Stage) -> None:
    """Planted: the server gives no signs of life. Its caller takes it for lost, though it works."""
    stage.service("a", plant="gives_no_signs")
    client = stage.client(timeout=10, call_monitor_timeout=SILENCE)
    assert isinstance(stage.call(client, 10, "spin", "busy", seconds=3 * SILENCE), ServerLost)


def measured(client: rpc.Client, size: int) -> float:
    """Seconds for which a handler keeps the interpreter to itself; it is accepted before that."""
    begun = time.monotonic()
    client.call(None, "block", id="measure", size=size)
    return time.monotonic() - begun - 0.2


def test_a_handler_that_keeps_the_interpreter_to_itself_is_reported(stage: Stage) -> None:
    """C code that holds the interpreter's lock silences the whole process: the caller of a call that was accepted gets
    ServerLost(MAYBE) in time, and the server is called again when it is through.
    """
    stage.service("a")
    client = stage.client(timeout=20)
    # The quickest of three: other programs make the measurement longer, and what is derived from it too short.
    each = min(measured(client, 3_000_000) for _ in range(3)) / 3_000_000
    with Stall() as stall:
        begun = time.monotonic()
        with pytest.raises(ServerLost) as told:
            client.prepare(call_monitor_timeout=SILENCE).call(None, "block", id="deaf", size=int(2.0 / each))
        took = time.monotonic() - begun
    assert told.value.delivered is Delivered.MAYBE
    assert took < 2 * SILENCE + 0.5 + stall.worst
    assert client.call(None, "name") == "a"
