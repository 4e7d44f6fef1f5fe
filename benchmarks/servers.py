"""The brokers that subjects share: the same one for all that use it in a run, so that their figures may be compared.

They are those of the tests, private and on free ports; the variables MESSAGING_TEST_RABBIT_URL and so on name others.
A broker is started when its first subject needs it. One that cannot be started says why to each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.subject import Place
from tests.brokers import Artemis, Kafka, Rabbit, Redis, Server, ServerFailed

__all__ = ["SERVERS", "ServerFailed", "Servers"]

_KINDS: dict[str, Callable[[], Server]] = {"rabbit": Rabbit, "redis": Redis, "kafka": Kafka, "artemis": Artemis}


class Servers:
    """Servers by name, started on demand and closed together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._started: dict[str, Server] = {}
        self._failed: dict[str, ServerFailed] = {}

    def place(self, name: str, scheme: str) -> Place:
        """Where a server is, as a URL with this scheme. Raises ServerFailed with the cure."""
        existing = os.environ.get(f"MESSAGING_TEST_{name.upper()}_URL")
        url = existing or self.started(name).url
        pids = () if existing else (self.started(name).pid,)
        return Place(scheme + url[url.index("://") :], pids)

    def started(self, name: str) -> Server:
        """The server itself. Raises ServerFailed with the cure."""
        if name in self._failed:
            raise self._failed[name]
        if name not in self._started:
            try:
                self._started[name] = self._stack.enter_context(_KINDS[name]())
            except ServerFailed as error:
                self._failed[name] = error
                raise
        return self._started[name]

    def close(self) -> None:
        """End all; the next use starts new ones."""
        self._started.clear()
        self._stack.close()


SERVERS = Servers()
"""Those of this process."""
