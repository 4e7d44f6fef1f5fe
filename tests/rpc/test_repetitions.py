"""A call that is sent again while its first attempt runs in the same server."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.testing.conformance.checks import eventually
from tests.conformance.subjects.zmq import zmq


class Gated:
    """Handlers that wait for a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.runs = threading.Semaphore(0)

    @rpc.expose
    def blocking(self, ctxt: dict[str, Any]) -> str:
        """Wait in a thread."""
        self.runs.release()
        self.gate.wait(10)
        return "done"

    @rpc.expose
    async def coroutine(self, ctxt: dict[str, Any]) -> str:
        """Wait in a coroutine."""
        self.runs.release()
        await asyncio.to_thread(self.gate.wait, 10)
        return "done"


@pytest.mark.parametrize("method", ["blocking", "coroutine"])
def test_the_answer_goes_where_it_is_awaited_now(tmp_path: Path, method: str) -> None:
    """The connection of an idempotent call breaks while it runs, and the call comes again over another one: it runs
    once, and its one answer arrives.
    """
    cut = zmq(tmp_path).disconnect
    assert cut is not None
    endpoint = Gated()
    url = f"zmq+local://{tmp_path}"
    target = Target(topic="repetitions", server="s")
    with messaging.open_transport(url) as serving, messaging.open_transport(url) as calling:
        with rpc.Server(serving, target, [endpoint]):
            future = rpc.Client(calling, target, timeout=20, idempotent=True).submit(None, method)
            assert endpoint.runs.acquire(timeout=10)
            for reactor in calling._reactors():
                cut(reactor._connection)
            eventually(lambda: serving.stats().get("server.duplicates") == 1, "the repetition")
            endpoint.gate.set()
            assert future.result(20) == "done"
        assert not endpoint.runs.acquire(blocking=False)
        assert serving.stats().get("server.undelivered_replies", 0) == 0
