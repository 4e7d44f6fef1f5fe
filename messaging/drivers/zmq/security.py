"""CURVE: keys from options, sockets that use them, and the answer to ZeroMQ's question who may connect.

Without an answer to that question (ZAP) libzmq takes every client that knows the server's public key, which is no
secret: encryption without authentication. So whoever listens with CURVE answers it, and whom nobody has allowed is
refused. ZeroMQ asks over a socket of the same context, which the pump reads like every other: no thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import zmq
from zmq.utils import z85

from messaging.drivers.zmq.options import ZmqSettings
from messaging.drivers.zmq.reading import NOBLOCK, SNDMORE
from messaging.drivers.zmq.waiter import Waiter
from messaging.errors import ConfigError

__all__ = ["Authenticator", "Keys", "load_keys"]

_LENGTH = 40
"""Characters of a key in Z85."""
_DOMAIN = b"messaging"
_ENDPOINT = "inproc://zeromq.zap.01"


class Keys:
    """The CURVE keys of one connection."""

    __slots__ = ("allowed", "public", "secret", "server")

    def __init__(self, secret: bytes, server: bytes | None, allowed: frozenset[bytes] | None) -> None:
        self.secret = secret
        self.public = zmq.curve_public(secret)
        self.server = server or self.public
        """What servers have to prove that they hold."""
        self.allowed = allowed if allowed is not None else frozenset({self.public})
        """Who may connect."""

    def protect_client(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket connect only to who holds the servers' key."""
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.curve_serverkey = self.server

    def protect_server(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket take only connections that the authenticator has agreed to."""
        socket.curve_server = True
        socket.curve_secretkey = self.secret
        socket.zap_domain = _DOMAIN
        # Without a handler for the domain nobody gets in, instead of everybody.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


class Authenticator:
    """Answers who may connect, for the sockets of one context."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Keys,
        waiter: Waiter,
        on_refusal: Callable[[], None],
    ) -> None:
        self._allowed = keys.allowed
        self._waiter = waiter
        self._on_refusal = on_refusal
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(_ENDPOINT)
        waiter.add(self._socket, self._read)

    def _read(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            self._answer(frames)

    def _answer(self, frames: list[bytes]) -> None:
        # identity, empty, version, request id, domain, address, identity of the peer, mechanism, credentials...
        if len(frames) < 8:
            return
        mechanism, credentials = frames[7], frames[8:]
        known = mechanism == b"CURVE" and len(credentials) == 1 and z85.encode(credentials[0]) in self._allowed
        if not known:
            self._on_refusal()
        status = (b"200", b"OK") if known else (b"400", b"this key is not allowed")
        for frame in (frames[0], b"", b"1.0", frames[3], *status, b""):
            self._socket.send(frame, SNDMORE)
        self._socket.send(b"", NOBLOCK)
        self._waiter.touch(self._socket)

    def close(self) -> None:
        """Answer no more."""
        self._waiter.remove(self._socket)
        self._socket.close(0)


def _read_text(option: str, value: str) -> str:
    """The value itself if it looks like keys, or what stands in the file that it names."""
    looks_like_keys = len(value) == _LENGTH or "," in value
    if looks_like_keys and not os.path.exists(value):
        return value
    try:
        return Path(value).read_text("ascii")
    except (OSError, ValueError) as error:
        # Not the value, which may be a key with a character too few.
        why = f"no file of this name can be read ({error.strerror})" if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"{option} must be a key of {_LENGTH} characters of Z85, or the path of a file that holds it; {why}"
        ) from None


def _key(option: str, text: str) -> bytes:
    word = text.strip()
    try:
        if len(word) != _LENGTH or len(z85.decode(word.encode("ascii"))) != 32:
            raise ValueError
    except (ValueError, KeyError, UnicodeError):
        raise ConfigError(
            f"{option} must hold keys of {_LENGTH} characters of Z85, as zmq.curve_keypair() makes them"
        ) from None
    return word.encode("ascii")


def load_keys(settings: ZmqSettings) -> Keys | None:
    """Read the keys that the options name; None without CURVE. Raises ConfigError, which never shows a key."""
    if settings.curve_key is None:
        for option in ("curve_server_key", "curve_allowed"):
            if getattr(settings, option) is not None:
                raise ConfigError(
                    f"{option} needs curve_key, the secret key of this process; nothing is encrypted without"
                )
        return None
    if not zmq.has("curve"):
        raise ConfigError("curve_key is set, but this build of ZeroMQ has no CURVE; install the pyzmq wheel")
    secret = _key("curve_key", _read_text("curve_key", settings.curve_key))
    server = None
    if settings.curve_server_key is not None:
        server = _key("curve_server_key", _read_text("curve_server_key", settings.curve_server_key))
    allowed = None
    if settings.curve_allowed is not None:
        text = _read_text("curve_allowed", settings.curve_allowed)
        allowed = frozenset(_key("curve_allowed", word) for word in re.split(r"[,\s]+", text) if word)
    return Keys(secret, server, allowed)
