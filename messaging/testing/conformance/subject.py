"""What is tested: a URL at which every case is alone, and what its author can do to it from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from messaging.drivers.base import Capabilities, Connection, Role
from messaging.testing.conformance.bare import Bare

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A transport to be tested.

    `url`: of the transport, or a function that returns one. It is asked once per scenario, and all transports of that
    scenario use what it returned. A broker's URL may be the same each time, because each scenario uses topics of its
    own.
    `options`: keywords for every transport.

    Hooks; without one, the scenarios that ask for it are reported as "not tried":

    * `disconnect(connection)` breaks the driver's connection as an accident would, without its consent; one that is
      broken already it leaves alone.
    * `unreachable()` returns a URL at which no connection can be made.
    * `limited`: options under which a message of 64 KiB passes, and one of 256 KiB is too large.
    * `block(connection)` is a context manager in which the peer wants nothing more of this connection, or of all;
      it need not want it before something is published.
    * `stall(connection)` is a context manager in which no byte reaches the driver's connection that is there now, and
      no end of it either. New connections are not harmed. `silenced` does it to sockets.
    * `heartbeat`: options under which heartbeats come every second.
    """

    url: str | Callable[[], str]
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    disconnect: Callable[[Connection], None] | None = None
    unreachable: Callable[[], str] | None = None
    limited: Mapping[str, Any] | None = None
    block: Callable[[Connection], AbstractContextManager[object]] | None = None
    stall: Callable[[Connection], AbstractContextManager[object]] | None = None
    heartbeat: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """Its name, or its scheme."""
        return self.name or self.new_url().partition(":")[0]

    def new_url(self) -> str:
        """The URL for one more scenario."""
        return self.url if isinstance(self.url, str) else self.url()

    def has(self, hook: str) -> bool:
        """Whether a hook of this name is given."""
        return getattr(self, hook) is not None

    def capabilities(self) -> Capabilities:
        """What it promises: as declared, narrowed to what its peer can do, for which it connects once."""
        bare = Bare(self.new_url(), Role.NOTIFIER, dict(self.options))
        try:
            bare.connect()
            return bare.events.peer or bare.capabilities
        finally:
            bare.close()
