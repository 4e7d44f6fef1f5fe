"""What the driver asks of an AMQP 0-9-1 client library: a protocol engine without a socket.

The driver owns the socket (see stream.py): connecting, TLS, waiting, heartbeats and the coalescing of writes are the
same whatever library is used, so they are written once. A library is handed the bytes that were read and hands over
the bytes that are to be written; it does the greeting, the login, the channels with their requests, and the tables.
So it needs no thread, no loop and no wake-up of its own, and it cannot block.

Messages and their settlements are the traffic that speed depends on. A client has to be able to carry them (`publish`,
`ack`, `reject`, and `on_message` and its like), but where the option `codec` is "own", the driver reads and writes
these frames by itself (frames.py), and a client sees neither.

Nothing here may raise for what the peer does: what goes wrong is told through `ClientEvents`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from messaging.drivers.rabbit.methods import Answer, Method
from messaging.drivers.rabbit.properties import Properties

__all__ = ["Client", "ClientEvents", "Login", "MakeClient"]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection introduces itself. `username` and `password` are not asked for where `mechanism` is EXTERNAL."""

    mechanism: str
    """PLAIN or EXTERNAL."""
    username: str
    password: str
    vhost: str
    heartbeat: int
    """Seconds; what is told to the broker. The driver itself sends heartbeats and watches for them."""
    frame_max: int
    """Bytes of the largest frame that this side takes; the smaller of both sides' is used."""
    client_properties: Mapping[str, Any]
    """Shown by the broker's management pages. The capabilities are the client's own business: at least
    publisher_confirms, basic.nack, consumer_cancel_notify, connection.blocked and authentication_failure_close."""

    def __repr__(self) -> str:
        return f"Login({self.mechanism} {self.username!r} at {self.vhost!r})"


class ClientEvents(Protocol):
    """What a client tells, from inside `feed`; the driver only notes it down, and may call the client again."""

    def on_open(self, server_properties: Mapping[str, Any]) -> None:
        """The login was accepted and the vhost opened: channels may be opened."""

    def on_closed(self, code: int, text: str) -> None:
        """The broker has closed the connection, or refused it, and says why (reply code and text, as they came).

        403 before `on_open` is a refused login. The connection is over; the driver drops the socket.
        """

    def on_close_ok(self) -> None:
        """The broker has agreed to `close`."""

    def on_broken(self, error: Exception) -> None:
        """What came is no AMQP 0-9-1, or nothing that this client can speak (another version, no common mechanism)."""

    def on_blocked(self, reason: str) -> None:
        """The broker takes no messages for now (memory or disk alarm)."""

    def on_unblocked(self) -> None:
        """It does again."""

    def on_channel_closed(self, channel: int, code: int, text: str) -> None:
        """The broker has closed a channel; the client has answered close-ok. Requests under way on it end here."""

    def on_cancelled(self, channel: int, tag: str) -> None:
        """The broker has cancelled a consumer (its queue was deleted, or moved)."""

    def on_message(
        self,
        channel: int,
        consumer: str,
        tag: int,
        redelivered: bool,
        properties: Properties,
        body: bytes,
    ) -> None:
        """A delivery; only where the client reads these frames."""

    def on_returned(self, channel: int, code: int, text: str, properties: Properties) -> None:
        """A mandatory message came back (312: no route); only where the client reads these frames."""

    def on_confirmed(self, channel: int, tag: int, multiple: bool, positive: bool) -> None:
        """Messages were confirmed, or refused; only where the client reads these frames."""


class Client(Protocol):
    """One life of one connection. It is thrown away with its socket.

    Bytes that are to be written are handed to the `write` with which it was made, whole frames at a time.
    """

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame, as agreed; valid from `on_open` on."""

    def start(self) -> None:
        """The socket is connected (and TLS is up): write the protocol header."""

    def feed(self, data: bytes) -> None:
        """Take what was read. With codec=own these are whole frames without those of messages and confirmations."""

    def open_channel(self, done: Callable[[], None]) -> int:
        """Open one more channel and return its number; `done` is called when it is open."""

    def close_channel(self, channel: int) -> None:
        """Close a channel; nothing more is told of it, and its number is used again when the broker has agreed."""

    def request(self, channel: int, method: Method, done: Callable[[Answer], None]) -> None:
        """Ask for something on an open channel; requests of a channel are carried out in order.

        Exactly one of these happens: `done(answer)`, or the end of the channel or of the connection.
        """

    def publish(
        self, channel: int, exchange: str, key: str, mandatory: bool, properties: Properties, body: bytes
    ) -> None:
        """Write a message; only where the client writes these frames."""

    def ack(self, channel: int, tag: int, multiple: bool) -> None:
        """Settle a delivery, or all up to it, as done; only where the client writes these frames."""

    def reject(self, channel: int, tag: int, requeue: bool) -> None:
        """Settle a delivery as not done; only where the client writes these frames."""

    def heartbeat(self) -> None:
        """Write a heartbeat."""

    def close(self) -> None:
        """Begin an orderly close; ends with `on_close_ok`, `on_closed`, or the socket."""


MakeClient = Callable[[Login, ClientEvents, Callable[[bytes], None]], Client]
"""(login, events, write) -> a client that has not started."""
