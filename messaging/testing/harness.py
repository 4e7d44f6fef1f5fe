"""What tests of a service need: a running service and a client in one line, recorded notifications, faults on demand.

    with testing.serve(Inventory(), topic="inventory") as client:
        assert client.call({}, "reserve", sku="A1", count=2) == 2

    with testing.record(client.transport, "notifications") as recorded:
        client.call({}, "reserve", sku="A1", count=1)
        assert recorded.wait(1)[0].event_type == "inventory.reserved"

    with testing.fault(client.transport, "lose_reply"):
        with pytest.raises(messaging.DeadlineExceeded):
            client.prepare(timeout=0.2).call({}, "reserve", sku="A1", count=1)

Everything here is the real library over memory://: real messages, real threads, and bytes in between.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from messaging import notify, rpc
from messaging.codec import Serializer
from messaging.errors import ConfigError
from messaging.target import Target
from messaging.transport import BaseTransport, Transport, open_transport

__all__ = ["Recorded", "ServedClient", "record", "serve"]


class ServedClient(rpc.Client):
    """A client of the served endpoints; `prepare` and the verbs are those of any client.

    `server` is the running server, `transport` the client's transport: a connection of its own to the same hub.
    """

    server: rpc.Server


@contextmanager
def serve(
    *endpoints: Any,
    topic: str = "test",
    server: str = "test",
    timeout: float = 5.0,
    exceptions: Sequence[type[BaseException]] = (),
    serializer: Serializer | None = None,
    **options: Any,
) -> Iterator[ServedClient]:
    """Serve endpoints on a private hub, and give a client for them. Use it in a `with` block.

    The client speaks to the namespace and version of the first endpoint; `timeout` (seconds) and `exceptions` are the
    client's, other options the server's. Raises what building and starting a server raises.
    """
    first = getattr(endpoints[0], "target", None) if endpoints else None
    interface = first if isinstance(first, Target) else Target()
    url = f"memory://served-{secrets.token_hex(8)}"
    with ExitStack() as stack:
        serving = stack.enter_context(open_transport(url))
        calling = stack.enter_context(open_transport(url))
        running = rpc.Server(
            serving, Target(topic=topic, server=server), list(endpoints), serializer=serializer, **options
        )
        running.start()
        stack.callback(running.stop, 1.0)
        client = ServedClient(
            calling,
            Target(topic=topic, namespace=interface.namespace, version=interface.version),
            timeout=timeout,
            exceptions=exceptions,
            serializer=serializer,
        )
        client.server = running
        yield client


class Recorded:
    """The notifications that came since the recording began. Thread-safe."""

    def __init__(self) -> None:
        self._events: list[notify.Event[Any]] = []
        self._changed = threading.Condition()

    def add(self, event: notify.Event[Any]) -> None:
        """Record one more."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def events(self) -> list[notify.Event[Any]]:
        """Everything so far, in the order of its arrival."""
        with self._changed:
            return list(self._events)

    def wait(self, count: int, timeout: float = 5.0) -> list[notify.Event[Any]]:
        """Wait until there are `count` notifications, and return all. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._events) >= count, timeout):
                types = ", ".join(event.event_type for event in self._events) or "none"
                raise TimeoutError(f"{len(self._events)} of {count} notifications came within {timeout:g} s: {types}")
            return list(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[notify.Event[Any]]:
        return iter(self.events)


class _Endpoint:
    """What the listener calls; apart from Recorded, whose public methods are for tests."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    @notify.on("*")
    def arrived(self, event: notify.Event[Any]) -> None:
        self._recorded.add(event)


@contextmanager
def record(
    transport: BaseTransport, topic: str = "notifications", pool: str | None = None, exchange: str | None = None
) -> Iterator[Recorded]:
    """Record the notifications of a topic, from now to the end of the `with` block, without taking them from anybody.

    They are recorded in a pool of their own, unless `pool` names one to share. Raises ConfigError for a transport of
    the asyncio face, Unsupported where the transport has no pools, and what starting a listener raises.
    """
    if not isinstance(transport, Transport):
        raise ConfigError(
            "record() takes a blocking transport; open a second one at the same URL, for example "
            'messaging.open_transport("memory://name")'
        )
    recorded = Recorded()
    name = pool if pool is not None else f"recorded-{secrets.token_hex(8)}"
    listener = notify.Listener(
        transport, [Target(exchange=exchange, topic=topic)], [_Endpoint(recorded)], pool=name, slots=1
    )
    listener.start()
    try:
        yield recorded
    finally:
        listener.stop(1.0)
