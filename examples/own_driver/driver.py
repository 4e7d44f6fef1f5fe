"""A driver of one's own, complete: `tcp://host:port` over the broker of broker.py, by way of AsyncioConnection.

A session is one life of the connection. It writes frames, waits for the answers to some of them, and hands messages
to inboxes; states,
reconnecting, windows, deadlines and everything that a lost connection means to messages is done by AsyncioConnection.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from examples.own_driver.broker import read_frame, write_frame
from messaging.drivers import base
from messaging.drivers.asyncio_connection import AsyncioConnection, AsyncioSession, Inbox
from messaging.errors import InvalidUrl, NoRoute, TooLarge
from messaging.message import Delivery, Outcome, Outgoing, RouteKind, Source, SourceKind
from messaging.url import Host

__all__ = ["Driver", "Settings"]


class Settings(base.Settings, frozen=True, kw_only=True):
    """The options of tcp://."""

    connect_timeout: Annotated[float, Meta(gt=0, description="Seconds for connecting to one host.")] = 5.0
    max_body: Annotated[int, Meta(ge=1, description="Bytes of the largest message.")] = 16 * 1024 * 1024


class Driver:
    """The driver of tcp://."""

    schemes: ClassVar[Collection[str]] = ("tcp",)
    options = Settings

    def capabilities(self, settings: Settings) -> base.Capabilities:
        """What the broker can do. Raises InvalidUrl without a host."""
        if not settings.url.hosts:
            raise InvalidUrl("tcp:// needs the host and port of its broker: tcp://127.0.0.1:7777")
        return base.Capabilities(
            fanout="live",
            pools=True,
            confirms=True,
            no_route="consumer",
            redelivers="on_loss",
            requeue="now",
            ordering="queue",
            max_body=settings.max_body,
            shared_roles=True,
            stall_detection=False,
        )

    def connect(
        self, settings: Settings, role: base.Role, events: base.ConnectionEvents, services: base.Services
    ) -> AsyncioConnection:
        """Make a connection, which makes a session for each of its lives."""
        return AsyncioConnection(
            partial(Session, settings),
            settings.url.hosts,
            events,
            services,
            connect_timeout=settings.connect_timeout,
        )


class Session(AsyncioSession):
    """One TCP connection to the broker."""

    def __init__(self, settings: Settings) -> None:
        self._max_body = settings.max_body
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, host: Host | None) -> None:
        """Connect, and read from then on."""
        assert host is not None, "capabilities() has seen to that"
        reader, self._writer = await asyncio.open_connection(host.name, host.port or 7777)
        self.spawn(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            frame = await read_frame(reader)
            if "id" in frame:
                answer = self._answers.pop(frame["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(frame["result"])
            else:
                self._hand_on(frame)

    def _hand_on(self, frame: dict[str, Any]) -> None:
        attempt = frame["attempt"]
        self._inboxes[frame["sub"]].put(
            frame["body"],
            frame["headers"],
            reply_to=frame["reply_to"],
            budget=frame["budget"],
            redelivered=attempt > 1,
            attempt=attempt,
            sent_by=frame["sent_by"],
            tag=frame["tag"],
        )

    def _tell(self, op: str, *args: Any, id: int = 0) -> None:
        assert self._writer is not None, "open() comes first"
        write_frame(self._writer, {"op": op, "id": id, "args": args})

    async def _ask(self, op: str, *args: Any) -> Any:
        id = next(self._ids)
        self._answers[id] = asyncio.get_running_loop().create_future()
        self._tell(op, *args, id=id)
        return await self._answers[id]

    async def send(self, outgoing: Outgoing, body: bytes, reply_to: str, budget: float | None) -> Any:
        """Publish, and wait until the broker has taken it: only then is it known that there was a route."""
        if len(body) > self._max_body:
            raise TooLarge(f"the message has {len(body)} bytes, tcp:// carries {self._max_body} (option max_body)")
        route = outgoing.route
        name = route.address if route.kind is RouteKind.REPLY else route.server
        message = {
            "body": body,
            "headers": outgoing.headers,
            "reply_to": reply_to,
            "budget": budget,
            "attempt": 1,
            "sent_by": "",
        }
        result = await self._ask("publish", route.kind.value, route.exchange, route.topic, name, message)
        if result == "no route":
            raise NoRoute(f"nobody consumes {route.kind.value} {route.exchange}/{route.topic}/{name}")
        return None if result is None else tuple(result)

    async def receive(self, source: Source, inbox: Inbox) -> None:
        """Subscribe, then pull as many messages as there is room for."""
        sub = next(self._ids)
        self._inboxes[sub] = inbox
        # A source may say more than its kind asks for: a server's own name, where anyone of its topic is meant.
        name = {SourceKind.ONE: source.server, SourceKind.POOLS: source.pool, SourceKind.ALL: source.server}.get(
            source.kind, ""
        )
        inbox.ready(await self._ask("subscribe", sub, source.kind.value, source.exchange, source.topic, name))
        try:
            while True:
                self._tell("pull", sub, await inbox.room())
        finally:
            self._tell("unsubscribe", sub)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, reason: str) -> None:
        """Settle; a rejected message is dropped, as `reject="drop"` says."""
        self._tell("settle", [delivery.tag for delivery in deliveries], outcome.value)

    def close(self) -> None:
        """Drop the socket."""
        if self._writer is not None:
            self._writer.close()

    @property
    def socket(self) -> socket.socket:
        """What the connection stands on; for tests."""
        assert self._writer is not None, "open() comes first"
        found: socket.socket = self._writer.get_extra_info("socket")
        return found

    def cut(self) -> None:
        """Break the connection as a network would, from any thread; for tests."""
        with suppress(OSError):  # it is broken already
            self.socket.shutdown(socket.SHUT_RDWR)
