"""The asyncio face on the predecessor's wire: the same bytes, so one round in each direction says it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import messaging
from messaging import Target
from messaging.aio import notify, open_transport, rpc
from messaging.notify import Event, on
from tests.interop.conftest import Peer
from tests.interop.test_our_server import place


class Inventory:
    """What the predecessor's client calls."""

    target = Target(namespace="inventory", version="1.3")

    @rpc.expose
    async def slow(self, ctxt: Any) -> dict[str, Any]:
        """Take longer than a caller bears to hear nothing, and return its context."""
        await asyncio.sleep(2.5)
        return dict(ctxt)


class Events:
    """Hears of one event."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Event[Any]] = asyncio.Queue()

    @on("*", level="error")
    async def any(self, event: Event[Any]) -> None:
        """Keep it."""
        self.heard.put_nowait(event)


@pytest.mark.parametrize("scheme", ["rabbit", "kombu"])
def test_both_directions(rabbit_broker: Any, peer: Peer, topic: str, scheme: str) -> None:
    """Calls with signs of life, errors, and notifications, each way."""

    async def story(elsewhere: Callable[..., Any]) -> None:
        url = rabbit_broker.url.replace("rabbit://", f"{scheme}://", 1)
        async with open_transport(url, wire="oslo") as transport:
            await elsewhere(peer.ask, "serve", topic=topic, server="theirs")
            client = rpc.Client(transport, Target(**place(topic)), timeout=15)
            wanted = {"args": {"a": 1}, "context": {"user": "ann"}}
            assert await client.call({"user": "ann"}, "echo", a=1) == wanted
            with pytest.raises(messaging.RemoteError, match="no A1"):
                await client.call({}, "fail", kind="ValueError", args=["no A1"])
            monitored = client.prepare(call_monitor_timeout=2)
            calls = [monitored.call({}, "sleep", seconds=2.2), monitored.call({}, "where")]
            assert await asyncio.gather(*calls) == ["slept", f"{topic}@theirs"]
            events = Events()
            async with (
                rpc.Server(transport, Target(topic=f"{topic}-2", server="ours"), [Inventory()]),
                notify.Listener(transport, [Target(topic=topic)], [events]),
            ):
                target = place(f"{topic}-2")
                told = await elsewhere(
                    peer.ask, "call", target=target, method="slow", args={}, context={"user": "ann"}, monitor=2
                )
                assert told["result"] == {"user": "ann"}
                about = {"form": "messagingv2", "topic": topic, "level": "error", "event_type": "bad", "payload": 1}
                await elsewhere(peer.ask, "notify", **about)
                assert (await asyncio.wait_for(events.heard.get(), 10)).event_type == "bad"
            await elsewhere(peer.ask, "listen", topic=f"{topic}-3", levels=["warn"])
            await notify.Notifier(transport, "our.host", topics=[f"{topic}-3"]).warn({}, "careful", {})
            assert (await elsewhere(peer.heard, 1))[0]["event_type"] == "careful"

    asyncio.run(story(lambda function, *rest, **more: asyncio.to_thread(function, *rest, **more)))
