"""What an operation leaves behind: nothing that only the garbage collector can free.

A message and its sender refer to each other, and so do a call and its Future; a circle per call cost a seventh of it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from messaging import Target, open_transport, rpc
from messaging.aio import open_transport as open_async_transport
from messaging.aio import rpc as async_rpc

URLS = ["memory://", "zmq://"]
OPERATIONS = 100


class Echo:
    """Answers with what it got."""

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value."""
        return value

    @rpc.expose
    async def echo_later(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value, from a coroutine."""
        return value


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    """Let garbage lie where it is made, so that it can be counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left_behind() -> int:
    """How many objects only the collector could free."""
    return gc.collect()


@pytest.mark.parametrize("url", URLS)
def test_calls_casts_and_futures_leave_no_garbage(url: str) -> None:
    """A hundred operations of each kind leave less than one unreachable object each."""
    with open_transport(url) as transport, rpc.Server(transport, Target(topic="garbage", server="s"), [Echo()]):
        client = rpc.Client(transport, Target(topic="garbage"))
        for verb in (client.call, client.cast, client.fanout, lambda *a, **k: client.submit(*a, **k).result()):
            verb(None, "echo", value=1)
            left_behind()
            for value in range(OPERATIONS):
                verb(None, "echo", value=value)
            assert left_behind() < OPERATIONS, verb


@pytest.mark.parametrize("url", URLS)
def test_coroutines_leave_no_garbage(url: str) -> None:
    """The same with asyncio on both ends and a task per request."""

    async def main() -> int:
        async with (
            open_async_transport(url) as transport,
            async_rpc.Server(transport, Target(topic="garbage", server="s"), [Echo()]),
        ):
            client = async_rpc.Client(transport, Target(topic="garbage"))
            await client.call(None, "echo_later", value=1)
            left_behind()
            for value in range(OPERATIONS):
                await client.call(None, "echo_later", value=value)
            return left_behind()

    assert asyncio.run(main()) < OPERATIONS
