"""What a subject must be able to do so that every load can be put on it. It knows no subject and measures nothing.

Servers are built in a process of their own and clients in another one, from the same subject; what they need to find
each other travels as two strings: the *place*, which the infrastructure gives (a broker's URL, a directory), and the
addresses that the servers give.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

Call = Callable[[bytes], bytes]
"""Sends a payload and returns what came back; for the thread that asked for it only."""


@dataclass(frozen=True)
class Place:
    """Where servers and clients meet, and the processes beside theirs that do work for them."""

    address: str = ""
    pids: tuple[int, ...] = ()


class NotOffered(LookupError):
    """The subject has no such thing; rows do not ask for it."""


class Server(ABC):
    """A running server that answers calls with their payload, and reports every cast and fanout that it handles."""

    address = ""

    @abstractmethod
    def stop(self) -> None:
        """Stop; returns when its threads are gone."""


class Client(ABC):
    """A client for threads."""

    def caller(self) -> Call:
        """Return what the calling thread calls with; a subject whose sockets belong to threads makes one here."""
        raise NotOffered("calls")

    def cast(self, payload: bytes, count: int) -> None:
        """Send this many one-way messages and return when the subject's own interface calls them sent."""
        raise NotOffered("casts")

    def fanout(self, payload: bytes, count: int) -> None:
        """Send this many messages to every server, likewise."""
        raise NotOffered("fanouts")

    def notify(self, payload: bytes, count: int) -> None:
        """Send this many notifications, likewise."""
        raise NotOffered("notifications")

    @abstractmethod
    def close(self) -> None:
        """Close; nothing is called afterwards."""


class AsyncClient(ABC):
    """A client for one event loop."""

    @abstractmethod
    async def call(self, payload: bytes) -> bytes:
        """Send a payload and return what came back."""

    async def cast(self, payload: bytes, count: int) -> None:
        """Send this many one-way messages and return when the subject's own interface calls them sent."""
        raise NotOffered("casts")

    async def fanout(self, payload: bytes, count: int) -> None:
        """Send this many messages to every server, likewise."""
        raise NotOffered("fanouts")

    @abstractmethod
    async def close(self) -> None:
        """Close; nothing is called afterwards."""


class Subject(ABC):
    """One way to send messages. `asyncio` says which of the two kinds of client it has."""

    title: str
    asyncio = False
    one_process = False
    """Servers and client live in the same process, because the subject does not cross processes."""

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Run what servers and clients need besides each other; nothing, unless a subject says otherwise."""
        return nullcontext(Place())

    @abstractmethod
    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start server number `index`; returns when it can be reached. `handled` is called for each cast and fanout."""

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Open a client for threads."""
        raise NotOffered("a client for threads")

    async def connect_async(self, place: str, servers: Sequence[str]) -> AsyncClient:
        """Open a client for the running loop."""
        raise NotOffered("a client for asyncio")


_SUBJECTS = {
    "zmq": "messaging_rpc:zmq_pool",
    "zmq-inline": "messaging_rpc:zmq_inline",
    "zmq-aio": "messaging_aio:zmq",
    "zmq-aio-inline": "messaging_aio:zmq_inline",
    "memory": "messaging_rpc:memory_pool",
    "memory-inline": "messaging_rpc:memory_inline",
    "memory-aio": "messaging_aio:memory",
    "pyzmq": "bare_pyzmq:with_threads",
    "pyzmq-aio": "bare_pyzmq:with_asyncio",
    "grpc": "grpc_threads:subject",
    "grpc-aio": "grpc_aio:subject",
    "nats": "nats_py:subject",
    "rabbit": "messaging_rpc:rabbit_pool",
    "rabbit-inline": "messaging_rpc:rabbit_inline",
    "rabbit-aio": "messaging_aio:rabbit",
    "rabbit-notify": "messaging_notify:rabbit",
    "kombu": "messaging_rpc:kombu_pool",
    "kombu-aio": "messaging_aio:kombu",
    "kombu-notify": "messaging_notify:kombu",
    "kombu-redis": "messaging_rpc:kombu_redis_pool",
    "kombu-redis-notify": "messaging_notify:kombu_redis",
    "oslo": "oslo:rabbit",
    "oslo-notify": "oslo_notify:rabbit",
    "pika": "bare_pika:subject",
    "aio-pika": "aio_pika_rpc:subject",
    "kafka": "messaging_notify:kafka",
    "confluent-kafka": "bare_kafka:subject",
    "oslo-kafka": "oslo_notify:kafka",
    "amqp1": "messaging_rpc:amqp1_pool",
    "proton": "bare_proton:subject",
    "proton-blocking": "proton_blocking:subject",
}

SUBJECTS = tuple(_SUBJECTS)
"""Every subject by name, in the order of the table."""


def load(name: str) -> Subject:
    """Import the subject of this name; ImportError says which library it lacks."""
    module, _, attribute = _SUBJECTS[name].partition(":")
    return cast(Subject, getattr(importlib.import_module(f"benchmarks.subjects.{module}"), attribute))
