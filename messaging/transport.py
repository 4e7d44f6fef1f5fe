"""A transport: one URL, its driver, and the connections that it needs, made when they are first used.

It joins what stands below (drivers, reactors) for what stands above (RPC, notifications) and refuses early what the
driver cannot do. It knows nothing of calls and notifications beyond their roles.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from messaging.counters import Counters
from messaging.drivers import load_driver
from messaging.drivers.base import Capabilities, Connection, ConnectionEvents, Driver, Role, Services, State
from messaging.errors import Closed, ConfigError
from messaging.operations import Operations
from messaging.options import build_settings
from messaging.reactor import Reactor
from messaging.thread_reactor import ThreadReactor
from messaging.url import Url, parse_url
from messaging.wire.base import Wire
from messaging.wire.choice import wire_of

__all__ = ["BaseTransport", "Transport", "check_transport", "open_transport"]

_alive: weakref.WeakSet[BaseTransport] = weakref.WeakSet()


class BaseTransport:
    """What the blocking and the asyncio transport have in common. Thread-safe."""

    _operations: dict[Role, Operations]
    _closed = True
    """Until it is made."""

    def __init__(
        self,
        url: str | Url,
        *,
        environment: Mapping[str, Any] | None = None,
        file: Mapping[str, Any] | None = None,
        credentials: Callable[[], tuple[str, str]] | None = None,
        **options: Any,
    ) -> None:
        self.url = url if isinstance(url, Url) else parse_url(url)
        self._driver: Driver = load_driver(self.url.scheme, self.url.variant)
        layers = [
            ("configuration file", file or {}),
            ("environment", environment or {}),
            ("URL", dict(self.url.options)),
            ("keyword", options),
        ]
        self._settings = build_settings(self._driver.options, layers, url=self.url, credentials=credentials)
        self.capabilities: Capabilities = self._driver.capabilities(self._settings)
        """The most that this transport can do; see the capability matrix in the documentation."""
        self.wire: Wire = wire_of(self._settings)
        """How its messages become bytes: `wire=` of the URL."""
        self.counters = Counters()
        self._operations = {}
        self._owners: tuple[Callable[[], bool], ...] = ()
        self._closed = False
        self.epoch = 0
        """Raised by a fork: what was looked up before belongs to the parent."""
        self._lock = threading.RLock()
        _alive.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    def __del__(self) -> None:
        self._warn_unclosed()

    def _warn_unclosed(self, warn: Callable[..., None] = warnings.warn) -> None:
        """Warn of connections that nobody can close any more, as sockets and asyncio do; it may run in any thread, so
        it does no more. A thread that owns a connection keeps its transport: then the end of the process is the moment.
        """
        if not self._closed and self._operations:
            self._closed = True
            warn(f"{self!r} was never closed; use it in a with block, or close it", ResourceWarning, source=self)

    def why_no_rpc(self) -> str:
        """Say that this transport carries notifications only, and why, where its driver tells that."""
        reason: str = getattr(self._driver, "why_no_rpc", "")
        told = f", because {reason}" if reason else ""
        return f"{self.url.kind}:// carries notifications only{told}; use another transport for RPC"

    def operations(self, role: Role) -> Operations:
        """Return the operations of the connection for a role; the connection is made at the first request. Raises
        Closed.
        """
        found = self._operations.get(role)
        return found if found is not None else self._open(role)

    def attached(self, role: Role, kind: type[Any]) -> Any:
        """Return the one object of `kind` that goes with a role's connection."""
        operations = self.operations(role)
        with self._lock:
            return operations.attach(kind, kind)

    def _open(self, role: Role) -> Operations:
        with self._lock:
            if self._closed:
                raise Closed(f"{self!r} was closed")
            found = self._operations.get(role)
            if found is not None:
                return found
            if self.capabilities.shared_roles and self._operations:
                operations = next(iter(self._operations.values()))
            else:
                on_connection = Role.ALL if self.capabilities.shared_roles else role
                reactor = self._reactor(
                    lambda events, services: self._connect(on_connection, events, services), on_connection
                )
                operations = Operations(reactor, self.counters, self.wire)
                self._owners = (*self._owners, reactor.is_owner)
            self._operations[role] = operations
            return operations

    def is_owner(self) -> bool:
        """Whether the calling thread does the I/O of one of the connections: then it may not wait for another one,
        whose peer may be waiting for it.
        """
        for owns in self._owners:  # noqa: SIM110 - a generator costs four times as much, once per call
            if owns():
                return True
        return False

    def _connect(self, role: Role, events: ConnectionEvents, services: Services) -> Connection:
        return self._driver.connect(self._settings, role, events, services)

    def _reactor(self, connect: Callable[[ConnectionEvents, Services], Connection], role: Role) -> Reactor:
        raise TypeError("a transport says who owns its connections")

    def _name(self, role: Role) -> str:
        hosts = ",".join(host.address for host in self.url.hosts)
        place = f"{self.url.kind}://{hosts}"
        return place if role is Role.ALL else f"{place} ({role.value})"

    def _reactors(self) -> list[Reactor]:
        with self._lock:
            return list({id(operations): operations.reactor for operations in self._operations.values()}.values())

    def stats(self) -> dict[str, int]:
        """Counts since the transport was opened, by name.

        For each kind of operation, `KIND.sent` equals the sum of its outcomes (see messaging.counters.OUTCOMES) plus
        `KIND.in_flight`. `driver.*` are the driver's own.
        """
        counts = self.counters.snapshot()
        for operations in {id(found): found for found in list(self._operations.values())}.values():
            for operation in operations.pending.everything():
                name = f"{operation.kind}.in_flight"
                counts[name] = counts.get(name, 0) + 1
            for name, value in operations.reactor.counts().items():
                counts[f"driver.{name}"] = counts.get(f"driver.{name}", 0) + value
        return counts

    def health(self) -> dict[str, Any]:
        """Whether the transport is alive (not closed) and connected, and for each connection its state and the last
        trouble.
        """
        reactors = self._reactors()
        return {
            "alive": not self._closed,
            "connected": all(reactor.state in (State.READY, State.BLOCKED) for reactor in reactors),
            "connections": {
                reactor.name: {
                    "state": reactor.state.value,
                    "held": len(reactor.holding),
                    "trouble": str(reactor.holding.cause) if reactor.holding.cause is not None else None,
                }
                for reactor in reactors
            },
        }

    def _begin_close(self) -> list[Reactor]:
        with self._lock:
            self._closed = True
            return self._reactors()

    def _forked(self) -> None:
        """In a forked child: give up what belongs to the parent, without touching its sockets or locks, and start
        afresh when used.
        """
        self._lock = threading.RLock()
        self.epoch += 1
        operations = {id(found): found for found in self._operations.values()}
        # The old objects stay referenced: collecting them would run destructors on sockets that the parent still uses.
        self._inherited = operations
        self._operations = {}
        self._owners = ()
        self.counters = Counters()
        for found in operations.values():
            found.forked()


class Transport(BaseTransport):
    """A transport for blocking callers: a thread of ours owns each connection. Open it with `open_transport`;
    thread-safe.
    """

    def _reactor(self, connect: Callable[[ConnectionEvents, Services], Connection], role: Role) -> Reactor:
        return ThreadReactor(connect, self.capabilities, name=self._name(role))

    def close(self, grace: float = 5.0) -> None:
        """Flush and close all connections within `grace` seconds; whatever still waits ends with Closed. Idempotent."""
        reactors = self._begin_close()
        until = time.monotonic() + grace
        for reactor in reactors:
            reactor.start_close(grace)
        for reactor in reactors:
            reactor.close(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_transport(url: str, **options: Any) -> Transport:
    """Open a transport by its URL; nothing is connected before it is needed.

    Every option of the driver may be given in the URL or as a keyword; the keyword wins. `credentials` may be a
    function that returns (user, password), asked at each connect. Raises InvalidUrl, UnknownDriver, DriverNotInstalled
    or ConfigError.
    """
    return Transport(url, **options)


def check_transport(given: object, wanted: type[BaseTransport]) -> None:
    """Refuse what is no open transport, and one of the other face, whose waiting would stop the loop or never end.

    Raises ConfigError.
    """
    if isinstance(given, wanted):
        return
    cure = "open it with messaging.open_transport(url)"
    if isinstance(given, BaseTransport) and isinstance(given, Transport):
        cure = "it is the blocking one; open it with messaging.aio.open_transport(url), or import rpc from messaging"
    elif isinstance(given, BaseTransport):
        cure = "it is the one for asyncio; open it with messaging.open_transport(url), or import rpc from messaging.aio"
    raise ConfigError(f"{given!r} is no transport that can be used here: {cure}")


def _after_fork_in_child() -> None:
    for transport in list(_alive):
        transport._forked()


def _at_exit() -> None:
    for transport in list(_alive):
        transport._warn_unclosed()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
