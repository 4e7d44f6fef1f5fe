"""messaging's notifications: one notifier, one listener with a worker pool, each in a process of its own.

The settings are the defaults. They are sent through `pipeline()`, which ends when each is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import messaging
from benchmarks.subject import Client, Place, Server, Subject
from benchmarks.subjects.meeting import address, meeting
from messaging import notify

_EVENT = "bench.happened"


class _Endpoint:
    """Counts what it is told. It asks for no type, because its peers check none."""

    def __init__(self, handled: Callable[[], None]) -> None:
        self._handled = handled

    @notify.on(_EVENT)
    def happened(self, event: notify.Event[Any]) -> None:
        """Count one."""
        self._handled()


class _Listener(Server):
    def __init__(self, place: str, handled: Callable[[], None]) -> None:
        url, topic = address(place)
        self._transport = messaging.open_transport(url)
        self._listener = notify.Listener(
            self._transport, [messaging.Target(topic=topic)], [_Endpoint(handled)], pool="bench"
        )
        self._listener.start()

    def stop(self) -> None:
        """Drain and close."""
        self._listener.stop(grace=1)
        self._transport.close()


class _Notifier(Client):
    def __init__(self, place: str) -> None:
        url, topic = address(place)
        self._transport = messaging.open_transport(url)
        self._notifier = notify.Notifier(self._transport, "bench", topics=[topic])

    def notify(self, payload: bytes, count: int) -> None:
        """Notify in a pipeline, which waits until each was confirmed."""
        data = {"data": payload.decode("ascii")}
        with self._notifier.pipeline() as pipeline:
            for _ in range(count):
                pipeline.info(None, _EVENT, data)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


class _Subject(Subject):
    def __init__(self, scheme: str) -> None:
        self.title = f"messaging {scheme}, notifications"
        self._scheme = scheme
        self._topic = f"{scheme}-notifications"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Give both sides a URL."""
        return meeting(self._scheme, self._topic)

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a listener on a transport of its own."""
        return _Listener(place, handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Open a transport."""
        return _Notifier(place)


rabbit = _Subject("rabbit")
kombu = _Subject("kombu")
kombu_redis = _Subject("kombu+redis")
kafka = _Subject("kafka")
