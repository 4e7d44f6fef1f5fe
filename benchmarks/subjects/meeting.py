"""Where messaging's clients and servers meet: a URL that nothing else on the machine uses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from benchmarks.servers import SERVERS
from benchmarks.subject import Place


def address(place: str) -> tuple[str, str]:
    """The URL and the topic of a place."""
    url, _, topic = place.partition(" ")
    return url, topic


@contextmanager
def meeting(scheme: str, topic: str) -> Iterator[Place]:
    """Where clients and servers of one topic meet. Each subject has a topic of its own: others use the same broker."""
    with PLACES[scheme]() as place:
        yield Place(f"{place.address} {topic}", place.pids)


@contextmanager
def shared(server: str, scheme: str) -> Iterator[Place]:
    """A broker that others use too."""
    yield SERVERS.place(server, scheme)


@contextmanager
def _zmq() -> Iterator[Place]:
    # A directory of our own for discovery, so that services of this user and the benchmark do not see each other.
    with tempfile.TemporaryDirectory() as directory:
        yield Place(f"zmq+local://{directory}")


@contextmanager
def _memory() -> Iterator[Place]:
    yield Place("memory://benchmark")


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "zmq": _zmq,
    "memory": _memory,
    "rabbit": partial(shared, "rabbit", "rabbit"),
    "kombu": partial(shared, "rabbit", "kombu"),
    "kombu+redis": partial(shared, "redis", "kombu+redis"),
    "kafka": partial(shared, "kafka", "kafka"),
    "amqp1": partial(shared, "artemis", "amqp1"),
}
"""How a meeting place is made, by URL scheme."""
