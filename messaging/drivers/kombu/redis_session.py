"""One life of a connection to redis through kombu: round trips that block, each bounded by a timeout.

kombu connects (host, login, TLS, database), says how messages and bindings look, and where they go; what has to be one
step is a script (redis_scripts.py), and what waits for messages has connections of its own (redis_readers.py).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import kombu
import redis

from messaging.drivers.kombu import names
from messaging.drivers.kombu.messages import Written
from messaging.drivers.kombu.names import Place
from messaging.drivers.kombu.redis_readers import FanoutReader, QueueReader, ReplyReader
from messaging.drivers.kombu.redis_scripts import ACCEPT, GIVE_BACK, INDEX, RENEW, UNACKED
from messaging.drivers.kombu.redis_transport import Transport
from messaging.drivers.kombu.session import Parcel, Reader
from messaging.drivers.kombu.settings import VirtualSettings
from messaging.errors import AuthFailed, ConnectFailed, Delivered, MessagingError, NoRoute, Overloaded, Rejected
from messaging.message import RouteKind, SourceKind
from messaging.url import Host

__all__ = ["RedisSession", "connect"]

_BROKEN: tuple[type[Exception], ...] = (redis.RedisError, OSError)
"""What a round trip raises when the connection is gone, or cannot be used for what it is for."""
_REFUSED = (redis.AuthenticationError, redis.exceptions.AuthorizationError)
_OLDEST = (6, 2)
"""The first redis with BLMOVE."""
_MAILBOX_EXPIRES = 7 * 24 * 3600
"""Seconds after the last message to it for which a mailbox is kept."""


_FULL_FOR = 1.0
"""Seconds for which a queue that had too many messages gets no more, before one is tried again."""


def connect(settings: VirtualSettings, host: Host, login: tuple[str, str] | None) -> RedisSession:
    """Connect to one host; blocks. Raises AuthFailed and ConnectFailed."""
    username, password = login or (host.username or None, host.password or None)
    connection = kombu.Connection(
        hostname=host.name,
        port=host.port,
        userid=username or None,
        password=password or None,
        virtual_host=settings.url.vhost or "0",
        ssl=settings.tls_parameters() or False,
        transport=Transport,
        transport_options={
            "socket_timeout": settings.socket_timeout,
            "socket_connect_timeout": settings.connect_timeout,
            "socket_keepalive": True,
            # Commands are never repeated by the library: it cannot know whether the first one was carried out.
            "retry_on_timeout": False,
            # The connection looks after its health by itself.
            "health_check_interval": 0,
            "max_connections": 10_000,
            # One list for each queue, so that its order and its expiry are those of one key.
            "priority_steps": [0],
            "client_name": "messaging",
        },
    )
    try:
        # Connection.connect() tries again by itself, far beyond its timeout.
        transport = connection.transport
        transport.establish_connection()
        session = RedisSession(settings, transport.create_channel(transport))
        session.check_version()
    except _REFUSED as error:
        raise AuthFailed(f"redis at {host.address} refused the login: {error}") from error
    except (redis.RedisError, OSError, ValueError) as error:
        raise ConnectFailed(f"redis at {host.address} cannot be reached: {error}") from error
    return session


class RedisSession:
    """See messaging.drivers.kombu.session.Session; every round trip is bounded by `socket_timeout`."""

    broken = _BROKEN

    def __init__(self, settings: VirtualSettings, channel: Any) -> None:
        self._settings = settings
        self._channel = channel
        self._client = redis.Redis(connection_pool=channel.pool)
        self._accept = self._client.register_script(ACCEPT)
        self._give_back = self._client.register_script(GIVE_BACK)
        self._renew = self._client.register_script(RENEW)
        prefix = os.urandom(8).hex()
        self._tags = map(f"{prefix}:{{}}:".format, itertools.count())
        self._bound: dict[str, tuple[str, str]] = {}
        """The queues of pools that were read, with exchange and topic."""
        self._full: dict[str, float] = {}
        """Queues that had too many messages, and when the next one is tried."""

    def check_version(self) -> None:
        """Raise ConnectFailed for a redis that lacks what is needed, where it tells its version."""
        try:
            version = str(self._client.info("server").get("redis_version", ""))
        except redis.ResponseError:
            # An account that may not ask.
            return
        if version and tuple(map(int, version.split(".")[:2])) < _OLDEST:
            self.drop()
            raise ConnectFailed(f"redis {version} is too old: 6.2 or later is needed, for BLMOVE", retryable=False)

    # Sending

    def publish(self, parcels: Sequence[Parcel], now: float) -> list[MessagingError | None]:
        """Write messages in one round trip (one more for each topic whose pools are looked up), and say what became of
        each.
        """
        tables: dict[tuple[str, str], list[str]] = {}
        results: list[MessagingError | None] = []
        sent: list[tuple[int, str]] = []
        with self._client.pipeline(transaction=False) as pipeline:
            for position, parcel in enumerate(parcels):
                results.append(self._route(parcel, tables, now))
                expiry = self._expiry_of(parcel)
                for kind, key, payload in self._channel.collected():
                    (pipeline.publish if kind == "PUBLISH" else pipeline.lpush)(key, payload)
                    sent.append((position, key))
                    if expiry:
                        pipeline.pexpire(key, expiry)
                        sent.append((position, ""))
            answers = pipeline.execute(raise_on_error=False) if sent else []
        written: set[int] = set()
        for (position, key), answer in zip(sent, answers, strict=True):
            if isinstance(answer, redis.ConnectionError):
                raise answer
            if isinstance(answer, Exception):
                results[position] = results[position] or _refusal(answer)
            elif key:
                written.add(position)
                if answer > self._settings.max_queue:
                    # It was let in; the next ones are not, for a while.
                    self._full[key] = now + _FULL_FOR
        for position in written:
            if (error := results[position]) is not None:
                # Some pools have it, and others have not.
                error.delivered = Delivered.MAYBE
        return results

    def _expiry_of(self, parcel: Parcel) -> int:
        """Milliseconds after which the queue of a message is gone when nobody uses it; 0: never."""
        if parcel.store:
            return _MAILBOX_EXPIRES * 1000
        if parcel.route.kind in (RouteKind.ONE, RouteKind.REPLY):
            return int(1000 * self._settings.expires)
        return int(1000 * self._settings.topic_expires) if parcel.route.kind is RouteKind.ANY else 0

    def _route(self, parcel: Parcel, tables: dict[tuple[str, str], list[str]], now: float) -> MessagingError | None:
        """Have kombu say what is to be written for one message."""
        route, message, store = parcel
        channel = self._channel
        if route.kind is RouteKind.ALL:
            exchange = names.queue_of(route)
            channel.exchange_declare(exchange, "fanout")
            channel.basic_publish(message.prepared(channel), exchange, "")
            return None
        if route.kind is RouteKind.POOLS:
            topic = (route.exchange, route.topic)
            if topic not in tables:
                tables[topic] = [queue for *_, queue in channel.get_table(names.pools_exchange(*topic))]
            queues = tables[topic]
            if not queues:
                return NoRoute(f"no pool has ever listened to topic {route.topic!r} of exchange {route.exchange!r}")
        elif store:
            queues = [names.mailbox(route.exchange, route.topic, route.server)]
        else:
            queues = [names.queue_of(route)]
        return self._put(queues, message, now)

    def _put(self, queues: list[str], message: Written, now: float) -> MessagingError | None:
        limit = self._settings.max_queue
        for queue in queues:
            if now < self._full.get(queue, 0.0):
                return Overloaded(f"{limit} messages wait in {queue!r} already (option max_queue)")
        for queue in queues:
            # Never by way of the exchange: what comes back from one pool, kombu would give to all of them.
            self._channel.basic_publish(message.prepared(self._channel), "", queue)
        return None

    def bury(self, queue: str, message: Written) -> None:
        """Write a dead letter."""
        self._channel.basic_publish(message.prepared(self._channel), "", queue)
        with self._client.pipeline(transaction=True) as pipeline:
            for _, key, payload in self._channel.collected():
                pipeline.lpush(key, payload)
            # The oldest has been there the longest to be read.
            pipeline.ltrim(queue, 0, self._settings.max_queue - 1)
            pipeline.execute()

    # Receiving

    def reader(self, place: Place, bound_to: tuple[str, str] | None) -> Reader:
        """Begin to read a place; `bound_to`: exchange and topic of a pool, which gets messages from then on."""
        patience = self._settings.heartbeat
        if place.kind is SourceKind.ALL:
            return FanoutReader(self._client, self._channel.fanout_topic(place.queue), self._settings.socket_timeout)
        if bound_to is not None:
            self._bound[place.queue] = bound_to
            self._bind(place.queue)
        if place.kind is SourceKind.REPLY:
            return ReplyReader(self._client, place.queue, patience)
        return QueueReader(self._client, place.queue, patience, self._expiry_at(place), self._tags.__next__)

    def _bind(self, queue: str) -> None:
        exchange = names.pools_exchange(*self._bound[queue])
        self._channel.exchange_declare(exchange, "direct")
        self._channel.queue_bind(queue, exchange, self._bound[queue][1])

    def _expiry_at(self, place: Place) -> int:
        if place.kind is SourceKind.ANY:
            return int(1000 * self._settings.topic_expires)
        if place.kind is SourceKind.ONE:
            return int(1000 * self._settings.expires) if place.own else _MAILBOX_EXPIRES * 1000
        return 0

    def body_of(self, payload: dict[str, Any]) -> bytes:
        """The body of a message, out of what JSON could hold."""
        body = payload["body"]
        found = self._channel.decode_body(body, payload["properties"].get("body_encoding"))
        return found.encode() if isinstance(found, str) else bytes(found)

    # Settling

    def accept(self, tags: Sequence[str]) -> list[bool]:
        """Forget messages that are done with; False: somebody else has it by now, because it was held for too long."""
        return [count == 1 for count in self._accept((UNACKED, INDEX), tags)]

    def give_back(self, tags: Sequence[str]) -> None:
        """Put messages back, to be the next ones out."""
        self._give_back((UNACKED, INDEX), ("", *tags))

    # What has to be done from time to time

    def look_after(self, tags: Iterable[str], queues: Iterable[str]) -> int:
        """Keep what is in hand, and the queues of this process, and give back what others have held for too long.

        Returns how many messages those were.
        """
        held = list(tags)
        for start in range(0, len(held), 1000):
            self._renew((INDEX,), held[start : start + 1000])
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.ping()
            for queue in queues:
                pipeline.pexpire(queue, int(1000 * self._settings.expires))
            pipeline.execute()
        # Somebody may have deleted the bindings of pools, and kombu writes none that it remembers.
        self._channel.state.clear()
        for queue in self._bound:
            self._bind(queue)
        return int(self._give_back((UNACKED, INDEX), (self._settings.visibility_timeout,)))

    def drop(self) -> None:
        """Close every socket, without a word to redis."""
        for pool in (self._channel.pool, self._channel.async_pool):
            pool.disconnect()
        self._channel.connection.cycle.close()


def _refusal(error: Exception) -> MessagingError:
    """What a command that redis has refused means for its message."""
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return Overloaded(f"redis has no memory for more messages: {error}")
    return Rejected(f"redis refused the message: {error}")
