"""Where an operation goes or what a server offers: the predecessor's Target, made a value.

It knows nothing of drivers: names and versions only. Frozen, comparable and hashable, so that it can be a key and be
shared by threads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from messaging.errors import InvalidTarget

__all__ = ["DEFAULT_EXCHANGE", "Target", "check_name", "check_target", "version_compatible"]

DEFAULT_EXCHANGE = "messaging"
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?\Z")
_NAME_LIMIT = 200
"""Longest name, in characters: brokers limit a queue name to 255 bytes and we join several names in one."""


def check_name(what: str, value: Any) -> None:
    """Refuse what is no name; None is none given. Raises InvalidTarget, which says of what it is."""
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidTarget(f"{what} must be a string, not {type(value).__name__}")
    if not value or len(value) > _NAME_LIMIT or any(ord(char) < 32 for char in value):
        raise InvalidTarget(f"{what} must have 1 to {_NAME_LIMIT} characters and no control characters, not {value!r}")


def _check_version(what: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _VERSION.match(value)):
        raise InvalidTarget(f'{what} must be a string "MAJOR.MINOR", for example "1.3", not {value!r}')


@dataclass(frozen=True, slots=True)
class Target:
    """An address (exchange, topic, server, fanout) and an interface (namespace, version).

    A server needs `topic` and `server`; an endpoint `namespace` and `version`; a client `topic`. `legacy_namespaces`
    are further namespaces that an endpoint answers to. Raises InvalidTarget for malformed names and versions.
    """

    exchange: str | None = None
    topic: str | None = None
    namespace: str | None = None
    version: str | None = None
    server: str | None = None
    fanout: bool | None = None
    legacy_namespaces: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("exchange", "topic", "namespace", "server"):
            check_name(name, getattr(self, name))
        _check_version("version", self.version)
        object.__setattr__(self, "legacy_namespaces", tuple(self.legacy_namespaces or ()))
        for namespace in self.legacy_namespaces:
            check_name("legacy_namespaces", namespace)

    def __call__(self, **changes: Any) -> Target:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    @property
    def accepted_namespaces(self) -> tuple[str | None, ...]:
        """The namespace and the legacy ones, in this order."""
        return (self.namespace, *self.legacy_namespaces)

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self.__slots__)
        return f"Target({', '.join(f'{name}={value!r}' for name, value in shown if value)})"


def check_target(given: object) -> None:
    """Refuse what is no Target, a bare topic above all. Raises InvalidTarget."""
    if not isinstance(given, Target):
        raise InvalidTarget(f'a target is written messaging.Target(topic="inventory"), not {given!r}')


def version_compatible(offered: str, wanted: str) -> bool:
    """Tell whether an interface of version `offered` serves a request of version `wanted`.

    The majors are equal and the offered minor is not smaller; with equal minors the offered third part is not smaller.
    This is the predecessor's rule.
    """
    have = [int(part) for part in offered.split(".")]
    want = [int(part) for part in wanted.split(".")]
    return have[0] == want[0] and (*have[1:], 0)[:2] >= (*want[1:], 0)[:2]
