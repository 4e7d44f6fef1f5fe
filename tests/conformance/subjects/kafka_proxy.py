"""A TCP proxy in front of a Kafka broker that knows its clients by name, so that a test can break one connection.

A Kafka client connects to wherever the broker announces itself, several times, and shows its sockets to nobody; but
each of its requests names its `client.id`. What `stalled` does concerns the connections that are there at that moment;
those that come later are not harmed. `cut` goes on for a moment, since a client has several connections and each comes
back by itself: an accident that takes all of them takes them at one time. It begins when the client neither makes nor
gives up connections: one that loses the last while it does does not tell that all are gone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["KafkaProxy"]

_NAME_AT = 14
"""Bytes before the client's name in a request: size 4, kind 2, version 2, correlation id 4, length of the name 2."""

_MOMENT = 0.1
"""Seconds for which a cut goes on."""
_QUIET = 0.05
"""Seconds without a change after which a client has the connections that it wants."""
_WITHIN = 5.0
"""Seconds that a client may take until then."""


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, broker: socket.socket, changed: Callable[[str], bool]) -> None:
        """`changed` is told the name of the client when it is known and when the link has ended, and says whether there
        shall be no link.
        """
        self._changed = changed
        self.client = client
        self.broker = broker
        self.name = ""
        self.moving = threading.Event()
        self.moving.set()
        self.hears = True

    def run(self) -> None:
        # Not select(), which takes no descriptor from 1024 on.
        watched = select.poll()
        sides = {side.fileno(): side for side in (self.client, self.broker)}
        for descriptor in sides:
            watched.register(descriptor, select.POLLIN)
        try:
            while True:
                readable = watched.poll()
                self.moving.wait()
                for side in (sides[descriptor] for descriptor, _ in readable):
                    data = side.recv(262_144)
                    if not data:
                        return
                    if side is self.broker and not self.hears:
                        continue
                    if side is self.client and not self.name:
                        length = int.from_bytes(data[_NAME_AT - 2 : _NAME_AT], "big")
                        self.name = data[_NAME_AT : _NAME_AT + length].decode()
                        if self._changed(self.name):
                            return
                    (self.broker if side is self.client else self.client).sendall(data)
        except OSError:
            return
        finally:
            self.client.close()
            self.broker.close()
            self._changed(self.name)

    def cut(self) -> None:
        for side in (self.client, self.broker):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class KafkaProxy:
    """Listens on `port` and forwards to `broker_port`, both on 127.0.0.1, until `close`."""

    def __init__(self, port: int, broker_port: int) -> None:
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._links: list[_Link] = []
        self._cut_until: dict[str, float] = {}
        self._changed = threading.Condition()
        self._changed_at: dict[str, float] = {}
        threading.Thread(target=self._accept, name="kafka-proxy", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
            except OSError:
                client.close()
                continue
            for side in (client, broker):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, broker, self._note_change)
            self._links = [each for each in self._links if each.client.fileno() >= 0] + [link]
            threading.Thread(target=link.run, name="kafka-proxy-link", daemon=True).start()

    def _note_change(self, name: str) -> bool:
        """A link of a client has begun or ended; return whether the client is to have none just now."""
        now = time.monotonic()
        with self._changed:
            self._changed_at[name] = now
            self._changed.notify_all()
        return now < self._cut_until.get(name, 0.0)

    def _wait_for_quiet(self, name: str) -> None:
        end = time.monotonic() + _WITHIN
        with self._changed:
            while (now := time.monotonic()) < min(end, quiet := self._changed_at.get(name, 0.0) + _QUIET):
                self._changed.wait(quiet - now)

    def _of(self, name: str) -> list[_Link]:
        return [link for link in self._links if link.name == name and link.client.fileno() >= 0]

    def cut(self, name: str) -> None:
        """Break every connection of a client, and those that it makes in the next moment."""
        self._wait_for_quiet(name)
        self._cut_until[name] = time.monotonic() + _MOMENT
        for link in self._of(name):
            link.cut()

    @contextlib.contextmanager
    def stalled(self, name: str) -> Iterator[None]:
        """Let no byte through on the connections that a client has now."""
        links = self._of(name)
        for link in links:
            link.moving.clear()
        try:
            yield
        finally:
            for link in links:
                link.moving.set()

    def lose_answers(self, name: str) -> None:
        """Let nothing that the broker says through on the connections a client has now; it gets what it is told."""
        for link in self._of(name):
            link.hears = False

    def close(self) -> None:
        """Break everything, and listen no more."""
        self._listener.close()
        for link in self._links:
            link.moving.set()
            link.cut()
