"""oslo.messaging's notifications, over RabbitMQ and over Kafka, one after the other, by its driver "messagingv2".

Over RabbitMQ each is confirmed. Its Kafka driver asks for no confirmation: there, sent means buffered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.subject import Client, Place, Server, Subject
from benchmarks.subjects.kafka_topics import create
from benchmarks.subjects.meeting import shared
from benchmarks.subjects.oslo_settings import configuration, oslo_messaging

_TOPIC = "oslo-notifications"
_WITHIN = 30.0  # seconds


class _Endpoint:
    """Counts what it is told."""

    def __init__(self, handled: Callable[[], None]) -> None:
        self._handled = handled
        self.listening = threading.Event()

    def info(self, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        """Count one, unless it only asks whether somebody listens."""
        if payload:
            self._handled()
        else:
            self.listening.set()


class _Listener(Server):
    def __init__(self, url: str, handled: Callable[[], None]) -> None:
        if url.startswith("kafka"):
            create(url, _TOPIC)
        endpoint = _Endpoint(handled)
        self._transport = oslo_messaging.get_notification_transport(configuration(), url=url)
        self._listener = oslo_messaging.get_notification_listener(
            self._transport, [oslo_messaging.Target(topic=_TOPIC)], [endpoint], executor="threading"
        )
        self._listener.start()
        # Over Kafka it returns before it has a partition, and starts with what comes after that.
        asking = _Notifier(url)
        end = time.monotonic() + _WITHIN
        while not endpoint.listening.wait(0.2):
            asking.ask()
            if time.monotonic() > end:
                raise OSError(f"nothing was heard within {_WITHIN:g} s")

    def stop(self) -> None:
        """Stop as its documentation says."""
        self._listener.stop()
        self._listener.wait()
        self._transport.cleanup()


class _Notifier(Client):
    def __init__(self, url: str) -> None:
        self._transport = oslo_messaging.get_notification_transport(configuration(), url=url)
        self._notifier = oslo_messaging.Notifier(self._transport, "bench", driver="messagingv2", topics=[_TOPIC])

    def notify(self, payload: bytes, count: int) -> None:
        """Notify; each returns when its driver calls it sent."""
        data = {"data": payload.decode("ascii")}
        for _ in range(count):
            self._notifier.info({}, "bench.happened", data)

    def ask(self) -> None:
        """Send one that is not counted."""
        self._notifier.info({}, "bench.happened", {})

    def close(self) -> None:
        """Close the transport."""
        self._transport.cleanup()


class _Subject(Subject):
    def __init__(self, server: str) -> None:
        self.title = f"oslo.messaging {server}, notifications"
        self._server = server

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return shared(self._server, self._server)

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a listener with the threading executor."""
        return _Listener(place, handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Open a transport."""
        return _Notifier(place)


rabbit = _Subject("rabbit")
kafka = _Subject("kafka")
