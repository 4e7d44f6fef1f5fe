"""Which driver serves a URL scheme: a table of our own, entry points of others, and drivers that a program brings
itself.

It imports no driver before a URL asks for it, and so no client library: `import messaging` stays quick, and an extra
that is not installed only matters to whoever uses it. It is the only place that knows drivers by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from messaging.drivers.base import Driver
from messaging.errors import ConfigError, DriverNotInstalled, UnknownDriver
from messaging.options import nearest

__all__ = ["ENTRY_POINTS", "known_schemes", "load_driver", "register_driver"]

ENTRY_POINTS = "messaging.drivers"
"""The group of entry points in which a distribution names its drivers: `scheme = "package.module:Driver"`."""


class _BuiltIn(NamedTuple):
    place: str
    extra: str = ""
    libraries: frozenset[str] = frozenset()
    """The top-level modules whose absence the extra cures."""


_KOMBU = frozenset({"amqp", "kombu", "vine"})
_BUILT_IN = {
    "amqp1": _BuiltIn("messaging.drivers.amqp1:Driver", "amqp1", frozenset({"cproton", "cproton_ffi"})),
    "kafka": _BuiltIn("messaging.drivers.kafka:Driver", "kafka", frozenset({"confluent_kafka"})),
    "kombu": _BuiltIn("messaging.drivers.rabbit.kombu:Driver", "kombu", _KOMBU),
    "kombu+redis": _BuiltIn("messaging.drivers.kombu:Driver", "kombu,redis", _KOMBU | {"redis", "packaging"}),
    "memory": _BuiltIn("messaging.drivers.memory:Driver"),
    "rabbit": _BuiltIn("messaging.drivers.rabbit.pika:Driver", "rabbit", frozenset({"pika"})),
    "zmq": _BuiltIn("messaging.drivers.zmq:Driver", "zmq", frozenset({"zmq"})),
}
_OTHER_VARIANTS = {"kombu": "kombu+redis"}
"""Who serves the variants of a scheme that have no entry of their own, or says why nobody does."""
_registered: dict[str, Driver] = {}


def register_driver(scheme: str, driver: Driver | Callable[[], Driver]) -> Callable[[], None]:
    """Serve a URL scheme in this process by a driver that no distribution names; returns a function that takes it back.

    It goes before entry points. Raises ConfigError for a scheme that is built in, or that another driver has already.
    """
    if scheme in _BUILT_IN:
        raise ConfigError(f"the scheme {scheme!r} is built in; choose another name for your driver")
    # setdefault decides between two threads that register the same scheme.
    found = _as_driver(driver, f"the driver registered for {scheme!r}")
    if _registered.setdefault(scheme, found) is not found:
        raise ConfigError(
            f"the scheme {scheme!r} is registered already, for {_registered[scheme]!r}; take that back first"
        )

    def unregister() -> None:
        if _registered.get(scheme) is found:
            del _registered[scheme]

    return unregister


def known_schemes() -> list[str]:
    """The schemes for which there is a driver, sorted; installed or not."""
    return sorted({*_BUILT_IN, *_registered, *(point.name for point in _entry_points())})


def load_driver(scheme: str, variant: str = "") -> Driver:
    """Return the driver for `scheme[+variant]://`.

    A variant may have a driver of its own, registered or named as an entry point under "scheme+variant"; else the
    scheme's driver gets it in the Url. Raises UnknownDriver, which names the known schemes, and DriverNotInstalled,
    which is the pip line that cures it. Whatever else goes wrong while a driver is imported is raised as it is.
    """
    names = (f"{scheme}+{variant}", scheme) if variant else (scheme,)
    for name in (names[0], _OTHER_VARIANTS.get(scheme, "") if variant else "", scheme):
        if name in _BUILT_IN:
            return _load_built_in(names[0], _BUILT_IN[name])
    for name in names:
        if name in _registered:
            return _registered[name]
    points = {point.name: point for point in _entry_points()}
    for name in names:
        if name in points:
            return _load_entry_point(points[name])
    known = known_schemes()
    listed = ", ".join(f"{name}://" for name in known)
    raise UnknownDriver(f"no driver for {scheme}://{nearest(scheme, known)}; known are {listed}")


def _load_built_in(scheme: str, entry: _BuiltIn) -> Driver:
    module, _, attribute = entry.place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        # Only the absence of the client library itself is cured by pip; a broken one has to show its own error.
        if not isinstance(error, ModuleNotFoundError) or error.name not in entry.libraries:
            raise
        raise DriverNotInstalled(
            f"{scheme}:// needs the Python package {error.name!r}: pip install 'messaging-rpc[{entry.extra}]'"
        ) from error
    return _as_driver(found, entry.place)


def _entry_points() -> Any:
    # Imported here: importlib.metadata takes 15 ms, and who uses a built-in driver never needs it.
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS)


def _load_entry_point(point: Any) -> Driver:
    try:
        found = point.load()
    except Exception as error:
        error.add_note(f"while loading the driver for {point.name}:// from the entry point {point.value!r}")
        raise
    return _as_driver(found, f"the entry point {point.value!r}")


def _as_driver(found: Any, where: str) -> Driver:
    driver = found() if isinstance(found, type) else found
    missing = [name for name in ("schemes", "options", "capabilities", "connect") if not hasattr(driver, name)]
    if missing:
        raise ConfigError(f"{where} is no driver: it lacks {', '.join(missing)}; see messaging.drivers.base.Driver")
    return driver  # type: ignore[no-any-return]
