"""The login of AMQP 1.0 (SASL): ANONYMOUS, PLAIN, EXTERNAL and SCRAM, bytes in and bytes out. Pure.

Not proton's, because what that can do depends on how it was built and on what else the machine has. Without Cyrus SASL
it has no SCRAM; with it, it refuses EXTERNAL over a TLS that is not its own, and where Cyrus's modules are missing it
cannot even be anonymous, and says that the peer offers no mechanism.

    header both ways, then: mechanisms ->, <- init, -> challenge, <- response, ..., -> outcome
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
import unicodedata
from collections.abc import Sequence

from messaging.drivers.amqp1.types import encode_string, encode_symbol, encode_value, read_fields, read_value

__all__ = ["MECHANISMS", "SCRAM", "Login", "LoginFailed", "NotSasl"]

_HEADER = b"AMQP\x03\x01\x00\x00"
_OLDER = b"AMQP\x00\x00\x09"
_MECHANISMS, _INIT, _CHALLENGE, _RESPONSE, _OUTCOME = range(0x40, 0x45)
_LARGEST = 65_536
"""Bytes of a frame; the peer is not trusted yet."""
_MOST_ROUNDS = 1_000_000
"""Of hashing that a peer may ask for: 4,096, the usual number, take 2 ms, in which the connection does nothing else."""
_HASHES = {"SCRAM-SHA-512": "sha512", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
SCRAM = tuple(_HASHES)
"""Best first."""
MECHANISMS = (*SCRAM, "PLAIN", "EXTERNAL", "ANONYMOUS")


class NotSasl(Exception):
    """What has come is not the login of AMQP 1.0. `older`: it is AMQP 0-9-1."""

    def __init__(self, told: str, *, older: bool = False) -> None:
        super().__init__(told)
        self.older = older


class LoginFailed(Exception):
    """The login has failed. `later`: it may succeed another time."""

    def __init__(self, text: str, *, later: bool = False) -> None:
        super().__init__(text)
        self.later = later


class Login:
    """One login. Make it, write what `output` has, hand over what comes, until it is `done`.

    `allowed`: mechanisms, the best first. `nonce`: for a test that wants the same bytes each time.
    """

    def __init__(
        self, allowed: Sequence[str], user: str = "", password: str = "", hostname: str | None = None, nonce: str = ""
    ) -> None:
        self._allowed = allowed
        self._user = user
        self._password = password
        self._hostname = hostname
        self._nonce = nonce or secrets.token_urlsafe(24)
        self._input = b""
        self._greeted = False
        self._scram: _Scram | None = None
        self.output = _HEADER
        """To be written; whoever writes it takes it away."""
        self.mechanism = ""
        """Which one is used, once the peer has said what it offers."""
        self.done = False

    def receive(self, data: bytes) -> bytes:
        """Take what has come; returns what follows the login. Raises LoginFailed and NotSasl."""
        self._input += data
        if not self._greeted:
            if self._input[: len(_HEADER)] != _HEADER[: len(self._input)]:
                raise NotSasl(f"it answers {self._input[:8]!r}", older=self._input.startswith(_OLDER))
            if len(self._input) < len(_HEADER):
                return b""
            self._greeted = True
            self._input = self._input[len(_HEADER) :]
        while not self.done and len(self._input) >= 8:
            size = int.from_bytes(self._input[:4])
            begin = 4 * self._input[4]
            if not 8 <= begin <= size <= _LARGEST or self._input[5] != 1:
                raise NotSasl(f"it sends {self._input[:8]!r}")
            if len(self._input) < size:
                break
            body, self._input = self._input[begin:size], self._input[size:]
            try:
                self._take(body)
            except (ValueError, IndexError, TypeError, struct.error) as error:
                raise NotSasl(f"its login cannot be read: {error}") from error
        if not self.done:
            return b""
        rest, self._input = self._input, b""
        return rest

    def _take(self, body: bytes) -> None:
        if body[:1] != b"\x00":
            raise ValueError("it is no performative")
        code, at = read_value(body, 1)
        fields, _ = read_fields(body, at)
        if code == _MECHANISMS and not self.mechanism:
            offered = fields[0] if isinstance(fields[0], list) else [fields[0]]
            self._begin([str(name) for name in offered])
        elif code == _CHALLENGE and self._scram is not None:
            self._say(_RESPONSE, encode_value(self._scram.answer(fields[0])))
        elif code == _OUTCOME and self.mechanism:
            self._end(fields[0], fields[1] if len(fields) > 1 else None)
        else:
            raise ValueError(f"{code!r} was not expected")

    def _begin(self, offered: list[str]) -> None:
        chosen = next((name for name in self._allowed if name in offered), None)
        if chosen is None:
            raise LoginFailed(f"it offers {', '.join(offered) or 'nothing'}")
        self.mechanism = chosen
        if chosen in _HASHES:
            self._scram = _Scram(_HASHES[chosen], self._user, self._password, self._nonce)
            first = self._scram.first()
        elif chosen == "PLAIN":
            first = f"\x00{self._user}\x00{self._password}".encode()
        else:
            # Of an anonymous user it is a trace for the peer's log; of an external one, the certificate says who it is.
            first = b"anonymous" if chosen == "ANONYMOUS" else b""
        hostname = encode_string(self._hostname) if self._hostname else b"\x40"
        self._say(_INIT, encode_symbol(chosen), encode_value(first), hostname)

    def _end(self, code: object, told: object) -> None:
        if code in (2, 4):
            raise LoginFailed("it could not check the login for now", later=True)
        if code != 0:
            raise LoginFailed("")
        if self._scram is not None:
            if told is not None:
                self._scram.answer(told)
            if not self._scram.proven:
                raise LoginFailed("it did not prove that it knows the password")
        self.done = True

    def _say(self, performative: int, *fields: bytes) -> None:
        content = b"".join(fields)
        body = b"\x00\x53%c\xd0%b%b" % (
            performative,
            struct.pack(">II", len(content) + 4, len(fields)),
            content,
        )
        self.output += struct.pack(">IBBH", len(body) + 8, 2, 1, 0) + body


class _Scram:
    """SCRAM (RFC 5802 and 7677) without channel binding: both sides prove that they know the password."""

    def __init__(self, hash_name: str, user: str, password: str, nonce: str) -> None:
        self._hash = hash_name
        self._password = unicodedata.normalize("NFKC", password).encode()
        self._nonce = nonce
        name = unicodedata.normalize("NFKC", user).replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={self._nonce}"
        self._signature: bytes | None = None
        self.proven = False
        """Whether the peer has."""

    def first(self) -> bytes:
        """The first message."""
        return f"n,,{self._bare}".encode()

    def answer(self, message: object) -> bytes:
        """Answer the peer's next message. Raises LoginFailed, ValueError and TypeError."""
        if not isinstance(message, bytes):
            raise TypeError("a challenge is not binary")
        text = message.decode()
        if self._signature is None:
            return self._prove(text)
        found = _attributes(text)
        if "e" in found:
            raise LoginFailed(found["e"])
        if not hmac.compare_digest(base64.b64decode(found.get("v", "")), self._signature):
            raise LoginFailed("it did not prove that it knows the password")
        self.proven = True
        return b""

    def _prove(self, text: str) -> bytes:
        found = _attributes(text)
        nonce, rounds = found.get("r", ""), int(found.get("i", "0"))
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise LoginFailed("its challenge is not for this login")
        if not 0 < rounds <= _MOST_ROUNDS:
            raise LoginFailed(f"it asks for {rounds} rounds of hashing, at most {_MOST_ROUNDS} are done")
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, base64.b64decode(found.get("s", "")), rounds)
        key = self._keyed(salted, b"Client Key")
        final = f"c=biws,r={nonce}"
        signed = f"{self._bare},{text},{final}".encode()
        signature = self._keyed(hashlib.new(self._hash, key).digest(), signed)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        self._signature = self._keyed(self._keyed(salted, b"Server Key"), signed)
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def _keyed(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._hash)


def _attributes(text: str) -> dict[str, str]:
    return {part[0]: part[2:] for part in text.split(",") if part[1:2] == "="}
