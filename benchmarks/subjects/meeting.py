"""Where messaging's clients and servers meet: a URL that nothing else on the machine uses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from benchmarks.subject import Place

TOPIC = "echo"


@contextmanager
def _zmq() -> Iterator[Place]:
    # A directory of our own for discovery, so that services of this user and the benchmark do not see each other.
    with tempfile.TemporaryDirectory() as directory:
        yield Place(f"zmq+local://{directory}")


@contextmanager
def _memory() -> Iterator[Place]:
    yield Place("memory://benchmark")


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {"zmq": _zmq, "memory": _memory}
"""How a meeting place is made, by URL scheme."""
