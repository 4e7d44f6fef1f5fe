"""The driver `memory://`: the reference for all others, in one process, with faults on demand.

`memory://name` is one hub for the whole process, until the last connection to it is closed; `memory://` is a hub that
nobody else can reach. It passes the same conformance suite as the drivers of real brokers, so what holds here holds
there.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Collection
from functools import partial
from typing import Annotated, ClassVar

from msgspec import Meta

from messaging.deadline import Clock
from messaging.drivers import base
from messaging.drivers.memory.connection import MemoryConnection
from messaging.drivers.memory.hub import Hub
from messaging.errors import ConfigError, InvalidUrl

__all__ = ["Driver", "Settings", "hub"]

_hubs: weakref.WeakValueDictionary[str, Hub] = weakref.WeakValueDictionary()
_hubs_lock = threading.Lock()


class Settings(base.Settings, frozen=True, kw_only=True):
    """The options of memory://."""

    max_queue: Annotated[
        int, Meta(ge=1, description="Messages that may wait in one queue; beyond that, sending raises Overloaded.")
    ] = 100_000
    max_body: Annotated[int, Meta(ge=1, description="Bytes of the largest message.")] = 128 * 1024 * 1024
    heartbeat: Annotated[
        float, Meta(gt=0, description="Seconds; a hub that a test has silenced is given up after two of them.")
    ] = 1.0


class Driver:
    """The driver of memory://."""

    schemes: ClassVar[Collection[str]] = ("memory",)
    options = Settings

    def capabilities(self, settings: Settings) -> base.Capabilities:
        """What a hub can do: what a good broker can. Raises InvalidUrl for more than a name in the URL."""
        _hub_name(settings)
        return base.Capabilities(
            fanout="live",
            pools=True,
            storage=True,
            confirms=True,
            no_route="consumer",
            redelivers="on_loss",
            requeue="later",
            reject="dead_letter",
            ordering="queue",
            ttl=True,
            stable_reply_address=True,
            max_body=settings.max_body,
            threadsafe_publish=True,
            flow_control=True,
            shared_roles=True,
        )

    def connect(
        self, settings: Settings, role: base.Role, events: base.ConnectionEvents, services: base.Services
    ) -> MemoryConnection:
        """Make a connection to the hub that the URL names, or to one of its own. Raises ConfigError (see `hub`)."""
        name = _hub_name(settings)
        hub = _join(name, services.clock) if name else Hub("", services.clock)
        return MemoryConnection(
            hub,
            events=events,
            services=services,
            leave=partial(_leave, hub),
            max_queue=settings.max_queue,
            max_body=settings.max_body,
            heartbeat=settings.heartbeat,
        )


def hub(name: str, clock: Clock = time.monotonic) -> Hub:
    """Return the hub of a name in this process, made when it is not there. Thread-safe.

    It lives while the result is held, and from the first connection until the last one is closed; then its name, and
    all that it has stored, are free. Tests get at `hub(name).faults`. Raises ConfigError when it runs on another clock.
    """
    with _hubs_lock:
        return _find(name, clock)


def _find(name: str, clock: Clock) -> Hub:
    found = _hubs.get(name)
    if found is None:
        found = _hubs[name] = Hub(name, clock)
    if found.clock is not clock:
        raise ConfigError(f"memory://{name} runs on another clock already: give all its transports the same one")
    return found


def _join(name: str, clock: Clock) -> Hub:
    with _hubs_lock:
        found = _find(name, clock)
        found.users += 1
        return found


def _leave(hub: Hub) -> None:
    # Weak references alone would keep a hub, and what it has stored, until the garbage collector comes round.
    with _hubs_lock:
        hub.users -= 1
        if hub.users <= 0 and _hubs.get(hub.name) is hub:
            del _hubs[hub.name]


def _hub_name(settings: Settings) -> str:
    url = settings.url
    if url.variant:
        raise InvalidUrl(f"memory:// has no variants; {url.variant!r} is none")
    if len(url.hosts) > 1 or any(host.port is not None or host.username is not None for host in url.hosts):
        raise InvalidUrl("memory:// has neither hosts nor ports nor logins: write memory:// or memory://NAME")
    if url.hosts and url.vhost:
        raise InvalidUrl(f"the hub of memory:// has one name: {url.hosts[0].name!r} or {url.vhost!r}")
    return url.hosts[0].name if url.hosts else url.vhost or ""


def _forget_hubs() -> None:
    # A forked child has the parent's hubs without their threads, and perhaps with their locks held: it starts with
    # none.
    global _hubs, _hubs_lock
    _hubs = weakref.WeakValueDictionary()
    _hubs_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_hubs)
