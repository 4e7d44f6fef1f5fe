"""Transport URLs: `scheme[+variant]://[user:pass@]host[:port][,host...]/[vhost]?option=value`.

Only the grammar lives here; which options exist is the driver's business. A Url never shows its passwords unless it is
asked for them by name, because URLs end up in logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote

from messaging.errors import InvalidUrl

__all__ = ["Host", "Url", "parse_url"]

_SCHEME = re.compile(r"([a-z][a-z0-9]*)(?:\+([a-z0-9][a-z0-9+.\-]*))?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Host:
    """One of the hosts of a URL, with its own credentials; `port` None means the driver's default."""

    name: str
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """`host:port` as it is written in a URL, without credentials."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed transport URL. `str()` and `repr()` mask the passwords; `unmasked()` does not."""

    scheme: str
    variant: str = ""
    hosts: tuple[Host, ...] = ()
    vhost: str | None = None
    """None when the URL has no path at all; "" for a lone slash; decoded."""
    options: tuple[tuple[str, str], ...] = ()

    def _text(self, reveal: bool) -> str:
        hosts = []
        for host in self.hosts:
            login = ""
            if host.username is not None:
                login = quote(host.username, safe="")
                if host.password is not None:
                    login += ":" + (quote(host.password, safe="") if reveal else "***")
                login += "@"
            hosts.append(login + host.address)
        text = f"{self.scheme}{'+' + self.variant if self.variant else ''}://{','.join(hosts)}"
        if self.vhost is not None:
            # Slashes stay readable: a directory (zmq+local:///run/app) is a vhost too.
            text += "/" + quote(self.vhost, safe="/")
        if self.options:
            pairs = (f"{quote(name, safe='')}={_masked(name, value, reveal)}" for name, value in self.options)
            text += "?" + "&".join(pairs)
        return text

    def unmasked(self) -> str:
        """The URL with its passwords, for handing to a client library; never log it."""
        return self._text(reveal=True)

    def __str__(self) -> str:
        return self._text(reveal=False)

    def __repr__(self) -> str:
        return f"Url({self._text(reveal=False)!r})"


def _masked(name: str, value: str, reveal: bool) -> str:
    secret = not reveal and any(word in name for word in ("password", "secret", "token", "key"))
    return "***" if secret else quote(value, safe="/:,")


def parse_url(text: str) -> Url:
    """Parse a transport URL.

    Raises InvalidUrl, naming the part that is wrong; the message never contains a password.
    """
    if not isinstance(text, str):
        raise InvalidUrl(f"a transport URL is a string, not {type(text).__name__}")
    match = _SCHEME.match(text)
    if match is None:
        start = text.split("@")[-1][:40] if "@" in text else text[:40]
        raise InvalidUrl(f"no scheme in {start!r}; write for example zmq://, rabbit://host/ or memory://")
    rest, _, query = text[match.end() :].partition("?")
    if "#" in query or "#" in rest:
        raise InvalidUrl("a '#' in a transport URL must be written as %23")
    authority, slash, path = rest.partition("/")
    hosts = tuple(_parse_host(part) for part in authority.split(",") if part)
    try:
        options = tuple(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise InvalidUrl("the part behind '?' must be option=value&option=value") from error
    seen: set[str] = set()
    for name, _value in options:
        if name in seen:
            raise InvalidUrl(f"option {name!r} stands twice in the URL")
        seen.add(name)
    return Url(
        scheme=match[1].lower(),
        variant=(match[2] or "").lower(),
        hosts=hosts,
        vhost=unquote(path) if slash else None,
        options=options,
    )


def _parse_host(text: str) -> Host:
    login, at, place = text.rpartition("@")
    username: str | None = None
    password: str | None = None
    if at:
        user, colon, secret = login.partition(":")
        username = unquote(user)
        password = unquote(secret) if colon else None
    if place.startswith("["):
        name, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InvalidUrl(f"an IPv6 host is written [address]:port, not {place!r}")
        port = port[1:]
    else:
        name, _, port = place.partition(":")
        if ":" in port:
            raise InvalidUrl(f"an IPv6 host is written in brackets: [{place}]")
    name = unquote(name)
    if not name:
        raise InvalidUrl(f"a host name is missing before {':' + port if port else 'the port'!r}")
    if not port:
        return Host(name, None, username, password)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidUrl(f"the port of host {name!r} must be a number from 1 to 65535, not {port!r}")
    return Host(name, int(port), username, password)
