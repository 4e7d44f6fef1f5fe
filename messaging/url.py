"""Transport URLs: `scheme[+variant]://[user:pass@]host[:port][,host...]/[vhost]?option=value`.

Only the grammar lives here; which options exist is the driver's business. A Url never shows its passwords unless it is
asked for them by name, because URLs end up in logs.

`urllib.parse` is imported where it is used: it brings 3 ms into `import messaging`, which needs no URL yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from messaging.errors import InvalidUrl
from messaging.options import is_secret

__all__ = ["Host", "Url", "parse_url"]

_LOGIN_IN_VALUE = re.compile(r"(//[^/@]*?:)[^/]*@")
"""A password in a URL that is itself the value of an option."""
_START = re.compile(r"[A-Za-z0-9+._-]{1,30}")
_ENCODE = "write / ? # @ : , and % in a login as %2F %3F %23 %40 %3A %2C %25"
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
        """`host:port`, an IPv6 address in brackets, without credentials."""
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

    @property
    def kind(self) -> str:
        """The scheme, with its variant."""
        return f"{self.scheme}+{self.variant}" if self.variant else self.scheme

    def _text(self, reveal: bool) -> str:
        from urllib.parse import quote

        hosts = []
        for host in self.hosts:
            login = ""
            if host.username is not None:
                login = quote(host.username, safe="")
                if host.password is not None:
                    login += ":" + (quote(host.password, safe="") if reveal else "***")
                login += "@"
            name = quote(host.name, safe=":*~")
            name = f"[{name}]" if ":" in name else name
            hosts.append(login + (name if host.port is None else f"{name}:{host.port}"))
        text = f"{self.kind}://{','.join(hosts)}"
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
    from urllib.parse import quote

    if reveal:
        return quote(value, safe="/:,")
    return "***" if is_secret(name) else quote(_LOGIN_IN_VALUE.sub(r"\1***@", value), safe="/:,*")


def parse_url(text: str) -> Url:
    """Parse a transport URL.

    Raises InvalidUrl, naming the part that is wrong; neither the message nor its causes contain a password.
    """
    if not isinstance(text, str):
        raise InvalidUrl(f"a transport URL is a string, not {type(text).__name__}")
    match = _SCHEME.match(text)
    if match is None:
        raise InvalidUrl(f"no scheme{_start(text)}; write for example zmq://, zmq+static://host:5555/ or memory://")
    if not all(char.isprintable() and char != " " for char in text):
        raise InvalidUrl("a transport URL has no blanks, line ends or control characters; write a blank as %20")
    rest, _, query = text[match.end() :].partition("?")
    if "#" in query or "#" in rest:
        raise InvalidUrl("a '#' in a transport URL must be written as %23")
    authority, slash, path = rest.partition("/")
    if "@" in path or "@" in query:
        # Most likely the rest of a password; taken at its word it would show up as a host, a path or an option.
        raise InvalidUrl(f"there is a '@' behind the hosts; {_ENCODE}, and a '@' elsewhere as %40")
    return Url(
        scheme=match[1].lower(),
        variant=(match[2] or "").lower(),
        hosts=_parse_hosts(authority),
        vhost=_decoded(path, "the path") if slash else None,
        options=_parse_options(query),
    )


def _start(text: str) -> str:
    """What may be shown of something that is no URL: not what stands before a '@', which may be a password."""
    found = _START.match(text)
    return f" in {found[0]!r}" if found and "@" not in text else ""


def _decoded(text: str, part: str) -> str:
    from urllib.parse import unquote

    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        # Its cause would show the bytes.
        raise InvalidUrl(f"the %-encoded bytes of {part} are not UTF-8") from None


def _parse_options(query: str) -> tuple[tuple[str, str], ...]:
    from urllib.parse import parse_qsl

    try:
        options = tuple(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict"))
    except ValueError:
        # Its cause would show the value.
        raise InvalidUrl("the part behind '?' must be option=value&option=value, %-encoded as UTF-8") from None
    seen: set[str] = set()
    for name, _value in options:
        if name in seen:
            raise InvalidUrl(f"option {name!r} stands twice in the URL")
        seen.add(name)
    return options


def _parse_hosts(authority: str) -> tuple[Host, ...]:
    parts = [part for part in authority.split(",") if part]
    if "@" in authority and "@" not in parts[0]:
        # Most likely a password with a comma, of which the first part would be taken for a host.
        raise InvalidUrl(f"the first host has no login, but a later one has; {_ENCODE}")
    return tuple(_parse_host(part, hide="@" in authority) for part in parts)


def _parse_host(text: str, hide: bool) -> Host:
    """Parse one host. `hide`: the URL has logins, so that what looks like a bad port may be a part of one."""
    login, at, place = text.rpartition("@")
    username: str | None = None
    password: str | None = None
    if at:
        user, colon, secret = login.partition(":")
        username = _decoded(user, "a user name")
        password = _decoded(secret, "a password") if colon else None
    if place.startswith("["):
        name, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InvalidUrl(f"an IPv6 host is written [address]:port{_shown(place, hide)}")
        port = port[1:]
    else:
        name, _, port = place.partition(":")
        if ":" in port:
            raise InvalidUrl(f"an IPv6 host is written in brackets, [address]:port{_shown(place, hide)}")
    name = _decoded(name, "a host name")
    if not name:
        raise InvalidUrl(f"a host has no name{_shown(place, hide)}")
    if not port:
        return Host(name, None, username, password)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidUrl(f"the port of a host is a number from 1 to 65535{_shown(place, hide)}")
    return Host(name, int(port), username, password)


def _shown(place: str, hide: bool) -> str:
    return f"; {_ENCODE}" if hide else f", not {place!r}"
