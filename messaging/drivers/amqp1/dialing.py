"""Reaching a host: which one is next, its name, its addresses, TCP and TLS, and who we are there. Nothing of AMQP.

A name is looked up, and credentials asked for, by the owner's pool, because that blocks; what comes back is noted down
and taken by the next pump. Of the addresses of a name each is tried before the host counts as failed; the one at which
the time ran out is tried last the next time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from messaging.drivers.amqp1.options import DEFAULT_PORT, DEFAULT_TLS_PORT, Amqp1Settings
from messaging.drivers.base import Services
from messaging.drivers.hosts import Hosts
from messaging.drivers.stream import Place, Stream
from messaging.drivers.tls import tls_of
from messaging.errors import ConnectFailed

__all__ = ["Dialing", "reason"]


class Dialing:
    """The way to a peer, for one connection; belongs to its owner."""

    def __init__(self, settings: Amqp1Settings, services: Services, stream: Stream) -> None:
        self._settings = settings
        self._services = services
        self._stream = stream
        self._context = tls_of(settings)
        self._hosts = Hosts(settings.url.hosts, services.random)
        self.host = settings.url.hosts[0]
        self.login: tuple[str, str] | None = None
        """What credentials= gave for this attempt; None: there is no such function."""
        self._places: list[Place] = []
        self._place: Place | None = None
        """The address that is tried, or in use."""
        self._found: list[tuple[int, Any, BaseException | None]] = []
        self._attempt = 0
        self.delay = self._hosts.delay
        self.whole_again = self._hosts.whole_again

    def begin(self) -> None:
        """Begin with the next host; `has_news` when its name is resolved, and it is known who we are."""
        self._attempt += 1
        self._place = None
        self.host = host = self._hosts.next()
        port = host.port or (DEFAULT_TLS_PORT if self._context is not None else DEFAULT_PORT)
        attempt = self._attempt
        credentials = self._settings.credentials

        def ask() -> tuple[Sequence[Place], tuple[str, str] | None]:
            places = socket.getaddrinfo(host.name, port, type=socket.SOCK_STREAM)
            return places, _asked(credentials) if credentials is not None else None

        def answered(result: Any, error: BaseException | None) -> None:
            self._found.append((attempt, result, error))
            self._stream.wake()

        if credentials is None and _is_address(host.name):
            # Nothing that blocks: nobody is asked.
            answered(ask(), None)
        else:
            self._services.offload(ask, answered)

    @property
    def has_news(self) -> bool:
        """Whether a name was looked up, and credentials were asked for."""
        return bool(self._found)

    def connect(self) -> bool:
        """Begin to connect to what was found; False: those were answers to earlier questions. Raises ConnectFailed,
        and OSError.
        """
        while self._found:
            attempt, result, error = self._found.pop(0)
            if attempt == self._attempt:
                break
        else:
            return False
        if isinstance(error, ConnectFailed):
            raise error
        if error is not None:
            raise ConnectFailed(f"the name {self.host.name} cannot be resolved: {error}")
        places, self.login = result
        self._places = self._hosts.in_turn(places)
        return self.try_next()

    def try_next(self) -> bool:
        """Try the next address of the name, and those behind it while they fail at once; False: there is none. Raises
        the OSError of the last one.
        """
        failure: OSError | None = None
        while self._places:
            place = self._place = self._places.pop(0)
            try:
                self._stream.connect(place, self._context, self._settings.tls_server_name or self.host.name)
            except OSError as error:
                failure = error
            else:
                return True
        if failure is not None:
            raise failure
        return False

    def give_up(self) -> None:
        """The time for this host has run out."""
        if self._place is not None:
            self._hosts.silent(self._place)


def _asked(credentials: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """What the user's function says. Raises ConnectFailed, because it may succeed the next time."""
    try:
        user, password = credentials()
    except Exception as error:
        raise ConnectFailed(f"credentials= has failed: {str(error) or type(error).__name__}") from error
    return user, password


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def reason(error: BaseException) -> str:
    """Say for people why a connection was not made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message} (tls_ca, tls_server_name)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}; does it speak TLS on this port?"
    return str(error) or type(error).__name__
