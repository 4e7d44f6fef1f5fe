"""Faults for tests of a service: what networks and brokers do to messages, done to memory:// on request.

It finds the hub that a transport is connected to, and asks it; the hub does the rest. No other driver can be asked,
because only there is the wire ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from messaging.drivers.base import Role
from messaging.errors import ConfigError
from messaging.message import SourceKind
from messaging.options import nearest
from messaging.transport import BaseTransport

__all__ = ["FAULTS", "Fault", "fault"]


class _Kind(NamedTuple):
    """How a fault begins and ends at a hub, and which of its connections are meant."""

    begin: str
    sources: tuple[SourceKind, ...] = ()
    """The queues whose messages it is about; empty: all."""
    end: str = ""
    """What ends it; empty: it is over by itself."""
    on_connection: bool = False
    """It is about the transport's own connection, not about messages or the whole hub."""


_REQUESTS = (SourceKind.ANY, SourceKind.ONE, SourceKind.ALL)
_KINDS = {
    "lose": _Kind("lose"),
    "lose_reply": _Kind("lose", (SourceKind.REPLY,)),
    "lose_request": _Kind("lose", _REQUESTS),
    "delay": _Kind("delay"),
    "delay_reply": _Kind("delay", (SourceKind.REPLY,)),
    "delay_request": _Kind("delay", _REQUESTS),
    "reorder": _Kind("reorder"),
    "duplicate": _Kind("duplicate"),
    "disconnect": _Kind("disconnect", on_connection=True),
    "refuse": _Kind("refuse_connections", end="accept_connections"),
    "block": _Kind("block", end="unblock", on_connection=True),
    "silence": _Kind("silence", end="resume", on_connection=True),
    "withhold_confirms": _Kind("withhold_confirms", end="release_confirms"),
    "lose_settlement": _Kind("lose_settlements"),
}
FAULTS = tuple(sorted(_KINDS))
"""The names of all faults."""


class Fault:
    """A fault that is active; what `fault` gives. `hits` is for faults of messages."""

    def __init__(self, name: str, rule: Any) -> None:
        self.name = name
        self._rule = rule

    @property
    def hits(self) -> int:
        """To how many messages it has happened so far; 0 for a fault that is not about messages."""
        return self._rule.hits if self._rule is not None else 0


@contextmanager
def fault(transport: BaseTransport, name: str, **options: Any) -> Iterator[Fault]:
    """Let something go wrong for the time of a `with` block.

    Messages, of every connection to the hub: `lose`, `lose_reply`, `lose_request`; `delay`, `delay_reply`,
    `delay_request` with `seconds`; `reorder` with `within` (seconds); `duplicate`. They take `topic`, `probability`
    (0 to 1) and `count`, after which they are spent.

    The transport's connection: `disconnect` cuts it now, it comes back by itself; `block` asks it to publish nothing;
    `silence` lets it hear nothing, as a broken network does. The hub: `refuse` connections, `withhold_confirms`,
    `lose_settlement` (`count`).

    Raises ConfigError for another transport than memory://, an unknown name or a wrong option.
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise ConfigError(f"no fault {name!r}{nearest(name, list(FAULTS))}; faults are {', '.join(FAULTS)}")
    if transport.url.scheme != "memory":
        raise ConfigError(
            f"faults are made by memory:// alone, and this transport is {transport.url.kind}://; run the test over "
            "memory://, or break the real connection from outside"
        )
    connection = _connection(transport)
    faults = connection.hub.faults
    begin = getattr(faults, kind.begin)
    arguments = (connection.address,) if kind.on_connection else ()
    rule = _begin(name, begin, arguments, kind, options)
    try:
        yield Fault(name, rule)
    finally:
        if kind.end:
            getattr(faults, kind.end)(*arguments)
        elif rule is not None:
            faults.remove(rule)


def _begin(name: str, begin: Callable[..., Any], arguments: tuple[Any, ...], kind: _Kind, options: Any) -> Any:
    """Begin a fault; what its options may be, the hub's own method says."""
    parameters = inspect.signature(begin).parameters
    known = [key for key in parameters if key not in ("kinds", "address")]
    unknown = [key for key in options if key not in known]
    missing = [key for key in known if parameters[key].default is inspect.Parameter.empty and key not in options]
    if unknown or missing:
        wrong = f"has no option {unknown[0]!r}" if unknown else f"needs {missing[0]}="
        raise ConfigError(f"the fault {name!r} {wrong}; its options are {', '.join(known) or 'none'}")
    # Its own measure stands before the kinds of queues, which are positional.
    measures = [options.pop(key) for key in ("seconds", "within") if key in options]
    return begin(*arguments, *measures, *kind.sources, **options)


def _connection(transport: BaseTransport) -> Any:
    """The transport's one connection to its hub; made now where nobody has used it yet."""
    reactors = transport._reactors()
    reactor = reactors[0] if reactors else transport.operations(Role.ALL).reactor
    return reactor._connection
