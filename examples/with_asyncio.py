"""asyncio: the same names and verbs. Only the import of the faces, `await` and `async with` change.

    python -m examples.with_asyncio [URL]

The event loop itself does the transport's I/O, so there is no thread in the way. A service that runs until it is told
to stop is in docs/operations.md.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from messaging import Target
from messaging.aio import open_transport, rpc


class Weather:
    """Endpoints may be coroutine functions, plain functions, or both; plain ones run on threads."""

    target = Target(namespace="weather", version="1.0")

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    @rpc.expose
    async def forecast(self, ctxt: dict[str, Any], city: str) -> str:
        """Answer after a while; many at a time."""
        await asyncio.sleep(0.05)
        return f"sun in {city}"

    @rpc.expose
    async def observe(self, ctxt: dict[str, Any], seconds: float) -> str:
        """Look at the sky for long, unless nobody waits for it."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "still sun"


async def main(url: str) -> None:
    """Serve and call, in one loop here; they may as well be two processes."""
    weather = Weather()
    async with (
        open_transport(url) as transport,
        rpc.Server(transport, Target(topic="weather", server="host-1"), [weather]),
    ):
        client = rpc.Client(transport, Target(topic="weather", namespace="weather", version="1.0"), timeout=5)
        print(await client.call(None, Weather.forecast, city="Oslo"))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.call(None, "forecast", city=f"city {n}")) for n in range(20)]
        print(f"{len(tasks)} at once, the last one: {tasks[-1].result()}")

        # A task that gives up cancels its call, and the server's coroutine hears of it.
        try:
            await asyncio.wait_for(client.call(None, Weather.observe, seconds=30), 0.2)
        except TimeoutError:
            await asyncio.wait_for(weather.cancelled.wait(), 5)
            print("gave up, and so did the server")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory://"))
