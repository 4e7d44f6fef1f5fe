"""One life of a connection over any of kombu's virtual transports, by nothing but the interface that all of them have.

Plain queues, published to by name and asked for messages at intervals: what a transport can do beyond that differs, and
is not promised. None of these transports is tested here; see variants.py for those that are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import kombu
from kombu.exceptions import OperationalError

from messaging.drivers.kombu import names
from messaging.drivers.kombu.messages import Written
from messaging.drivers.kombu.names import Place
from messaging.drivers.kombu.session import Parcel, Raw, Reader
from messaging.drivers.kombu.settings import VirtualSettings
from messaging.errors import ConnectFailed, MessagingError, Rejected
from messaging.message import SourceKind
from messaging.url import Host

__all__ = ["STALL", "PlainSession", "connect"]

STALL = 30.0
"""Seconds for which a pump may block: a guess, because these libraries do not say."""
_INTERVAL = 0.02
"""Seconds between two questions whether there is a message."""
_MOST = 16
"""Messages that are read at once."""


def connect(settings: VirtualSettings, host: Host, login: tuple[str, str] | None) -> PlainSession:
    """Connect; blocks for as long as the library does. Raises ConnectFailed."""
    username, password = login or (host.username or None, host.password or None)
    connection = kombu.Connection(
        hostname=host.name or None,
        port=host.port,
        userid=username or None,
        password=password or None,
        virtual_host=settings.url.vhost or None,
        ssl=settings.tls,
        transport=settings.url.variant,
        connect_timeout=settings.connect_timeout,
    )
    try:
        transport = connection.transport
        transport.establish_connection()
        channel = transport.create_channel(transport)
    except ImportError as error:
        raise ConnectFailed(f"kombu lacks a package for {settings.url.variant}: {error}", retryable=False) from error
    except Exception as error:
        # Each transport has exceptions of its own, of libraries that may be any.
        raise ConnectFailed(f"kombu cannot connect to {host.address} by {settings.url.variant}: {error}") from error
    broken = (*transport.connection_errors, OperationalError, OSError)
    return PlainSession(channel, tuple(broken), tuple(transport.channel_errors))


class _PolledReader:
    """Asks a queue for messages from time to time."""

    descriptor = None
    overdue = math.inf
    lossy = 0

    def __init__(self, channel: Any, queue: str, settled: bool) -> None:
        self._channel = channel
        self._queue = queue
        self._settled = settled
        self.due = -math.inf
        channel.queue_declare(queue)

    def arm(self, room: int, now: float) -> None:
        """See Reader; nobody waits at the server."""

    def read(self, room: int, now: float) -> list[Raw]:
        """See Reader."""
        found: list[Raw] = []
        while len(found) < min(room, _MOST):
            message = self._channel.basic_get(self._queue, no_ack=not self._settled)
            if message is None:
                self.due = now + _INTERVAL
                break
            found.append(Raw(message._raw, message.delivery_tag if self._settled else None))
        return found

    def close(self) -> None:
        """See Reader."""


class PlainSession:
    """See messaging.drivers.kombu.session.Session."""

    def __init__(self, channel: Any, broken: tuple[type[Exception], ...], refused: tuple[type[Exception], ...]) -> None:
        self.broken = broken
        self._refused = refused
        self._channel = channel

    def publish(self, parcels: Sequence[Parcel], now: float) -> list[MessagingError | None]:
        """See Session."""
        results: list[MessagingError | None] = []
        for parcel in parcels:
            try:
                self._put(names.queue_of(parcel.route), parcel.message)
            except self._refused as error:
                results.append(Rejected(f"the server refused the message: {error}"))
            else:
                results.append(None)
        return results

    def _put(self, queue: str, message: Written) -> None:
        self._channel.queue_declare(queue)
        self._channel.basic_publish(message.prepared(self._channel), "", queue)

    def bury(self, queue: str, message: Written) -> None:
        """See Session."""
        self._put(queue, message)

    def reader(self, place: Place, bound_to: tuple[str, str] | None) -> Reader:
        """See Session."""
        return _PolledReader(self._channel, place.queue, place.kind is not SourceKind.REPLY)

    def body_of(self, payload: dict[str, Any]) -> bytes:
        """See Session."""
        found = self._channel.decode_body(payload["body"], payload["properties"].get("body_encoding"))
        return found.encode() if isinstance(found, str) else bytes(found)

    def accept(self, tags: Sequence[Any]) -> list[bool]:
        """See Session."""
        for tag in tags:
            self._channel.basic_ack(tag)
        return [True] * len(tags)

    def give_back(self, tags: Sequence[Any]) -> None:
        """See Session."""
        for tag in tags:
            self._channel.basic_reject(tag, requeue=True)

    def look_after(self, tags: Iterable[Any], queues: Iterable[str]) -> int:
        """See Session; there is nothing that all of them could be asked."""
        return 0

    def drop(self) -> None:
        """See Session. The library hands back what is unsettled, as far as it can."""
        try:
            self._channel.connection.close_connection(self._channel.connection)
        except self.broken:
            # It is gone already.
            return
