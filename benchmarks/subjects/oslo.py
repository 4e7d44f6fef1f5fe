"""oslo.messaging's RPC over RabbitMQ: calls, and casts one after the other, since it has nothing like a pipeline.

Its driver asks the broker to confirm each message, as ours does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.subject import Call, Client, Place, Server, Subject
from benchmarks.subjects.meeting import address, meeting
from benchmarks.subjects.oslo_settings import configuration, oslo_messaging


class _Echo:
    """What the servers offer."""

    def __init__(self, handled: Callable[[], None]) -> None:
        self._handled = handled

    def echo(self, ctxt: Any, data: str) -> str:
        """Answer with the payload."""
        return data

    def note(self, ctxt: Any, data: str) -> None:
        """Count a message that wants no answer."""
        self._handled()


class _EchoServer(Server):
    def __init__(self, place: str, index: int, handled: Callable[[], None]) -> None:
        url, topic = address(place)
        self._transport = oslo_messaging.get_rpc_transport(configuration(), url=url)
        target = oslo_messaging.Target(topic=topic, server=f"server-{index}")
        self._server = oslo_messaging.get_rpc_server(
            self._transport,
            target,
            [_Echo(handled)],
            executor="threading",
            access_policy=oslo_messaging.DefaultRPCAccessPolicy,
        )
        self._server.start()

    def stop(self) -> None:
        """Stop as its documentation says."""
        self._server.stop()
        self._server.wait()
        self._transport.cleanup()


class _Client(Client):
    def __init__(self, place: str) -> None:
        url, topic = address(place)
        self._transport = oslo_messaging.get_rpc_transport(configuration(), url=url)
        self._client = oslo_messaging.get_rpc_client(self._transport, oslo_messaging.Target(topic=topic))

    def caller(self) -> Call:
        """Return a call by name; the client is thread-safe."""
        call = self._client.call

        def echo(payload: bytes) -> bytes:
            answer: str = call({}, "echo", data=payload.decode("ascii"))
            return answer.encode("ascii")

        return echo

    def cast(self, payload: bytes, count: int) -> None:
        """Cast; each returns when the broker has confirmed it."""
        data = payload.decode("ascii")
        for _ in range(count):
            self._client.cast({}, "note", data=data)

    def close(self) -> None:
        """Close the transport; what its threads still wait for does not keep the process."""
        closing = threading.Thread(target=self._transport.cleanup, daemon=True)
        closing.start()
        closing.join(5)


class _Subject(Subject):
    title = "oslo.messaging"

    def infrastructure(self) -> AbstractContextManager[Place]:
        """Use the broker that messaging uses."""
        return meeting("rabbit", "oslo")

    def serve(self, place: str, index: int, handled: Callable[[], None]) -> Server:
        """Start a server with the threading executor."""
        return _EchoServer(place, index, handled)

    def connect(self, place: str, servers: Sequence[str]) -> Client:
        """Open a transport."""
        return _Client(place)


rabbit = _Subject()
