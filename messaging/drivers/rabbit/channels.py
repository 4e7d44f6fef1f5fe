"""The channels of one life of a connection: who owns which, and how messages and settlements get onto the wire.

An owner (a subscription, a publisher, the declarations) opens a channel and is told of what happens on it, and nobody
else is: so an error on one of them ends with its owner. Here is also the one place that knows whether the frames of
messages are written by our own codec or by the client library.
"""

from __future__ import annotations

from collections.abc import Callable

from messaging.drivers.rabbit.client import Client
from messaging.drivers.rabbit.frames import FrameWriter
from messaging.drivers.rabbit.methods import Answer, Method
from messaging.drivers.rabbit.properties import Properties

__all__ = ["ChannelOwner", "Channels"]


class ChannelOwner:
    """Whoever opens a channel; what it does not expect, it need not handle. Called from inside `pump`."""

    __slots__ = ()

    def on_channel_open(self) -> None:
        """The channel that was asked for is open."""

    def on_channel_closed(self, code: int, text: str) -> None:
        """The broker has closed it."""

    def on_cancelled(self, consumer: str) -> None:
        """The broker has cancelled a consumer."""

    def on_message(self, consumer: str, tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
        """A message was delivered."""

    def on_unreadable(self, tag: int) -> None:
        """A message was delivered that cannot be read."""

    def on_returned(self, text: str, properties: Properties) -> None:
        """A mandatory message came back."""

    def on_confirmed(self, tag: int, multiple: bool, positive: bool) -> None:
        """Messages were confirmed or refused."""


class Channels:
    """All of one life. Without a client (between two lives) nothing may be asked but `alive`."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._traffic: Client | FrameWriter | None = None
        self._owners: dict[int, ChannelOwner] = {}

    @property
    def alive(self) -> bool:
        """Whether channels can be opened now."""
        return self._client is not None

    def begin(self, client: Client, writer: FrameWriter | None) -> None:
        """A connection is open. `writer`: what writes the frames of messages; None: the client does."""
        self._client = client
        self._traffic = writer if writer is not None else client

    def end(self) -> None:
        """It is gone; its owners are told by whoever owns them."""
        self._client = self._traffic = None
        self._owners.clear()

    def open(self, owner: ChannelOwner) -> int:
        """Open a channel and return its number; the owner is told when it may be used."""
        client = self._alive()
        number = 0

        def opened() -> None:
            if self._owners.get(number) is owner:
                owner.on_channel_open()

        number = client.open_channel(opened)
        self._owners[number] = owner
        return number

    def close(self, channel: int) -> None:
        """Close a channel; its owner hears no more of it."""
        if self._owners.pop(channel, None) is not None and self._client is not None:
            self._client.close_channel(channel)

    def request(self, channel: int, method: Method, done: Callable[[Answer], None]) -> None:
        """Ask for something on an open channel; `done` is not called when the channel is gone by then."""
        owner = self._owners[channel]

        def answered(answer: Answer) -> None:
            if self._owners.get(channel) is owner:
                done(answer)

        self._alive().request(channel, method, answered)

    @property
    def traffic(self) -> Client | FrameWriter:
        """What writes messages and settlements."""
        if self._traffic is None:
            raise RuntimeError("there is no connection now; ask `alive` before")
        return self._traffic

    # From the client, and from the reader of frames

    def on_channel_closed(self, channel: int, code: int, text: str) -> None:
        """See ClientEvents."""
        owner = self._owners.pop(channel, None)
        if owner is not None:
            owner.on_channel_closed(code, text)

    def on_cancelled(self, channel: int, tag: str) -> None:
        """See ClientEvents."""
        owner = self._owners.get(channel)
        if owner is not None:
            owner.on_cancelled(tag)

    def on_message(
        self, channel: int, consumer: str, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> None:
        """See ClientEvents."""
        owner = self._owners.get(channel)
        if owner is not None:
            owner.on_message(consumer, tag, redelivered, properties, body)

    def on_unreadable(self, channel: int, consumer: str, tag: int) -> None:
        """See FrameSink."""
        owner = self._owners.get(channel)
        if owner is not None:
            owner.on_unreadable(tag)

    def on_returned(self, channel: int, code: int, text: str, properties: Properties) -> None:
        """See ClientEvents."""
        owner = self._owners.get(channel)
        if owner is not None:
            owner.on_returned(text, properties)

    def on_confirmed(self, channel: int, tag: int, multiple: bool, positive: bool) -> None:
        """See ClientEvents."""
        owner = self._owners.get(channel)
        if owner is not None:
            owner.on_confirmed(tag, multiple, positive)

    def _alive(self) -> Client:
        if self._client is None:
            raise RuntimeError("there is no connection now; ask `alive` before")
        return self._client
