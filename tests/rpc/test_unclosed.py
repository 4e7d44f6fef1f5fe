"""Transports that nobody closes: told by a ResourceWarning, which Python shows in its development mode."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

from messaging import NoRoute, Target, aio
from tests.house.source import ROOT

PROGRAM = """
import messaging
from messaging import Target, rpc
transport = messaging.open_transport("memory://used")
try:
    rpc.Client(transport, Target(topic="t")).call(None, "nothing")
except messaging.NoRoute:
    {end}
unused = messaging.open_transport("memory://unused")
"""


@pytest.mark.parametrize(("end", "told"), [("pass", 1), ("transport.close()", 0)])
def test_the_end_of_a_process_tells_of_what_is_open(end: str, told: int) -> None:
    """A transport with connections is named; one that is closed, or was never used, is not."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", PROGRAM.format(end=end)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.count("<Transport memory://used> was never closed; use it in a with block") == told
    assert "unused" not in done.stderr


def test_a_loop_that_has_ended_tells_of_what_it_left() -> None:
    """A transport for asyncio that is forgotten goes with its loop."""

    async def forget() -> None:
        client = aio.rpc.Client(aio.open_transport("memory://forgotten"), Target(topic="t"))
        with pytest.raises(NoRoute):
            await client.call(None, "nothing")

    def forget_and_collect() -> None:
        asyncio.run(forget())
        gc.collect()

    with pytest.warns(ResourceWarning, match="Transport memory://forgotten> was never closed"):
        forget_and_collect()
