"""Where a process listens and what it tells others about it, with what of that is refused and why."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterator

import zmq

from messaging.drivers.zmq.options import ZmqSettings
from messaging.errors import ConfigError, ConnectFailed

__all__ = ["advertised_host", "bind_somewhere", "check_addresses"]

_LOWEST_PORT, _HIGHEST_PORT = 49152, 65535
"""The range that is registered for nobody."""
_ATTEMPTS = 100
"""How many ports are tried: even with half of them taken, one in 10^30 searches fails."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host == "*"


def check_addresses(settings: ZmqSettings, *, spans_machines: bool) -> None:
    """Refuse to listen in the open, and to advertise what leads nowhere. Raises ConfigError."""
    if not _is_loopback(settings.bind) and not settings.curve_key and not settings.insecure:
        raise ConfigError(
            f"bind={settings.bind} lets other machines connect, and without CURVE anybody may call your servers; "
            "set curve_key (and curve_allowed), or insecure=yes if the network itself is trusted"
        )
    host = settings.advertise or settings.bind
    if spans_machines and (_is_loopback(host) or _is_unspecified(host)):
        option = f"advertise={settings.advertise}" if settings.advertise else f"bind={settings.bind}"
        raise ConfigError(
            f"{option} would be written where other machines look for servers, and leads none of them here; "
            "set advertise to an address of this machine that they can reach"
        )
    if settings.advertise and _is_unspecified(settings.advertise):
        raise ConfigError(f"advertise={settings.advertise} is no address that can be connected to; name one")
    _ports(settings)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def advertised_host(settings: ZmqSettings) -> str:
    """What others connect to."""
    if settings.advertise:
        return _bracketed(settings.advertise)
    if _is_unspecified(settings.bind):
        return "[::1]" if ":" in settings.bind else "127.0.0.1"
    return _bracketed(settings.bind)


def _ports(settings: ZmqSettings) -> tuple[int, int] | None:
    if settings.ports is None:
        return None
    low, _, high = settings.ports.partition("-")
    first, last = int(low), int(high or low)
    if not 0 < first <= last <= _HIGHEST_PORT:
        raise ConfigError(f"ports={settings.ports} must be a port or a range of ports between 1 and 65535, low-high")
    return first, last


def _candidates(settings: ZmqSettings, random: Callable[[], float]) -> Iterator[int]:
    """Ports to try: at random, so that processes that start together do not all try the same ones in turn."""
    ports = _ports(settings)
    if ports is None and settings.url.variant == "static":
        # A server that stands in nobody's URL would never be found.
        yield from dict.fromkeys(host.port for host in settings.url.hosts if host.port is not None)
        return
    first, last = ports or (_LOWEST_PORT, _HIGHEST_PORT)
    if last - first < _ATTEMPTS:
        yield from sorted(range(first, last + 1), key=lambda _port: random())
        return
    for _ in range(_ATTEMPTS):
        yield first + int(random() * (last - first + 1))


def bind_somewhere(router: zmq.Socket[bytes], settings: ZmqSettings, random: Callable[[], float]) -> str:
    """Bind a socket and return the endpoint to advertise. Raises ConnectFailed."""
    host = "*" if settings.bind in ("*", "0.0.0.0") else _bracketed(settings.bind)
    router.ipv6 = ":" in settings.bind
    tried = []
    for port in _candidates(settings, random):
        try:
            router.bind(f"tcp://{host}:{port}")
        except zmq.ZMQError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ConnectFailed(f"cannot listen on {settings.bind}:{port}: {error}", retryable=False) from error
            tried.append(port)
        else:
            return f"tcp://{advertised_host(settings)}:{port}"
    listed = ", ".join(map(str, tried[:5])) + (", ..." if len(tried) > 5 else "")
    raise ConnectFailed(f"no free port on {settings.bind} among {listed}; set ports to another range")
