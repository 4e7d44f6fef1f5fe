"""The login of AMQP 1.0: the examples of the standards, peers that say no, and peers that make no sense. Real peers are
asked in test_amqp1_logins.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from messaging.drivers.amqp1.sasl import MECHANISMS, SCRAM, Login, LoginFailed, NotSasl
from messaging.drivers.amqp1.types import encode_symbol, encode_value

_HEADER = b"AMQP\x03\x01\x00\x00"
_OK, _AUTH, _SYS, _PERMANENT, _TEMPORARY = range(5)


def frame(code: int, *fields: bytes) -> bytes:
    """A frame of SASL."""
    content = b"".join(fields)
    body = b"\x00\x53%c\xc0%c%c%b" % (code, len(content) + 1, len(fields), content)
    return (len(body) + 8).to_bytes(4) + b"\x02\x01\x00\x00" + body


def offer(*names: str) -> bytes:
    """What a peer opens with."""
    symbols = b"".join(encode_symbol(name)[1:] for name in names)
    return _HEADER + frame(0x40, b"\xe0%c%c\xa3%b" % (len(symbols) + 2, len(names), symbols))


def challenge(text: str) -> bytes:
    """A challenge."""
    return frame(0x42, encode_value(text.encode()))


def outcome(code: int, told: str = "") -> bytes:
    """The end."""
    return frame(0x44, b"\x50%c" % code, *([encode_value(told.encode())] if told else []))


def said(login: Login) -> bytes:
    """What is written next."""
    output, login.output = login.output, b""
    return output


@pytest.mark.parametrize(
    ("mechanism", "nonce", "first", "proof", "signature"),
    [
        (
            "SCRAM-SHA-1",
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (
            "SCRAM-SHA-256",
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ],
)
@pytest.mark.parametrize("in_outcome", [True, False])
def test_scram_is_that_of_the_standards(
    mechanism: str, nonce: str, first: str, proof: str, signature: str, in_outcome: bool
) -> None:
    """The exchanges that RFC 5802 and RFC 7677 print, whether the peer's proof comes as a challenge or with the end."""
    login = Login(SCRAM, "user", "pencil", nonce=nonce)
    assert said(login) == _HEADER
    login.receive(offer("PLAIN", mechanism))
    assert f"n,,n=user,r={nonce}".encode() in said(login)
    login.receive(challenge(first))
    combined = first.split(",")[0]
    assert f"c=biws,{combined},p={proof}".encode() in said(login)
    if in_outcome:
        assert login.receive(outcome(_OK, f"v={signature}") + b"AMQP") == b"AMQP"
    else:
        login.receive(challenge(f"v={signature}"))
        assert login.receive(outcome(_OK)) == b""
    assert login.done
    assert login.mechanism == mechanism


class Impostor:
    """A peer of SCRAM-SHA-256 that knows a password, or none."""

    def __init__(self, password: str = "", rounds: int = 4096) -> None:
        self._password = password
        self._rounds = rounds

    def greet(self, login: Login) -> str:
        """Take the first message and return the challenge."""
        login.receive(offer("SCRAM-SHA-256"))
        self._bare = said(login).split(b"n,,")[1].split(b"\x40")[0].decode()
        nonce = self._bare.split("r=")[1]
        self._first = f"r={nonce}X,s={base64.b64encode(b'salt').decode()},i={self._rounds}"
        self._final = f"c=biws,r={nonce}X"
        return self._first

    def signature(self) -> str:
        """What it claims to know."""
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), b"salt", self._rounds)
        key = hmac.digest(salted, b"Server Key", "sha256")
        signed = f"{self._bare},{self._first},{self._final}".encode()
        return "v=" + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def test_a_peer_that_does_not_know_the_password_is_not_believed() -> None:
    """Neither with a wrong proof nor with none at all."""
    for told in ("", "wrong"):
        login, peer = Login(SCRAM, "user", "pencil"), Impostor(told)
        login.receive(challenge(peer.greet(login)))
        with pytest.raises(LoginFailed, match="did not prove"):
            login.receive(outcome(_OK, peer.signature() if told else ""))
        assert not login.done
    login, peer = Login(SCRAM, "user", "pencil"), Impostor("pencil")
    login.receive(challenge(peer.greet(login)))
    login.receive(outcome(_OK, peer.signature()))
    assert login.done


@pytest.mark.parametrize(
    ("rounds", "prefix", "told"),
    [(2_000_000_000, "", "rounds"), (0, "", "rounds"), (4096, "another", "not for this login")],
)
def test_challenges_that_cannot_be_meant_are_refused(rounds: int, prefix: str, told: str) -> None:
    """Hashing for an hour, not hashing at all, and the challenge of somebody else."""
    login = Login(SCRAM, "user", "pencil")
    first = Impostor("pencil", rounds).greet(login)
    with pytest.raises(LoginFailed, match=told):
        login.receive(challenge(first.replace("r=", f"r={prefix}", 1)))


def test_names_keep_their_commas() -> None:
    """What divides the fields of SCRAM is written otherwise in a name."""
    login = Login(SCRAM, "a,b=c", "x")
    login.receive(offer("SCRAM-SHA-1"))
    assert b"n=a=2Cb=3Dc,r=" in login.output


@pytest.mark.parametrize(
    ("allowed", "first"),
    [
        (("PLAIN",), encode_value("\0änn\0s3crét".encode())),
        (("EXTERNAL",), encode_value(b"")),
        (("ANONYMOUS",), encode_value(b"anonymous")),
    ],
)
def test_the_other_mechanisms_say_it_at_once(allowed: tuple[str, ...], first: bytes) -> None:
    """The name of the mechanism and the only message there is."""
    login = Login(allowed, "änn", "s3crét", "vhost")
    login.receive(offer(*MECHANISMS))
    output = said(login)
    assert encode_symbol(allowed[0]) + first in output
    assert b"vhost" in output
    assert login.receive(outcome(_OK)) == b""
    assert login.done


def test_a_peer_may_offer_one_mechanism_without_an_array() -> None:
    """The standard lets a single symbol stand for itself."""
    login = Login(("PLAIN",), "u", "p")
    login.receive(_HEADER + frame(0x40, encode_symbol("PLAIN")))
    assert login.mechanism == "PLAIN"


def test_the_best_that_is_offered_is_taken() -> None:
    """In the order of the login, not of the peer."""
    login = Login((*SCRAM, "PLAIN"), "u", "p")
    login.receive(offer("PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"))
    assert login.mechanism == "SCRAM-SHA-256"


@pytest.mark.parametrize(("code", "later"), [(_AUTH, False), (_PERMANENT, False), (_SYS, True), (_TEMPORARY, True)])
def test_a_refusal_says_whether_to_try_again(code: int, later: bool) -> None:
    """A wrong password stays wrong; a peer that cannot look it up may do so another time."""
    login = Login(("PLAIN",), "u", "p")
    login.receive(offer("PLAIN"))
    with pytest.raises(LoginFailed) as caught:
        login.receive(outcome(code))
    assert caught.value.later is later
    assert not login.done


def test_what_is_offered_is_told() -> None:
    """When nothing of it may be used."""
    with pytest.raises(LoginFailed, match=r"it offers PLAIN, SCRAM-SHA-1$"):
        Login(("EXTERNAL",)).receive(offer("PLAIN", "SCRAM-SHA-1"))


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"AMQP\x00\x01\x00\x00",
        _HEADER + b"\x00\x00\x00\x04\x02\x01\x00\x00",
        _HEADER + b"\x7f\x00\x00\x00\x02\x01\x00\x00",
        _HEADER + outcome(_OK),
        offer("PLAIN") + offer("PLAIN")[8:],
        offer("PLAIN") + challenge("x"),
        offer("PLAIN") + frame(0x45),
        offer("PLAIN") + frame(0x44),
    ],
)
def test_what_is_no_login_is_told(sent: bytes) -> None:
    """Other protocols, frames without measure, and what comes in the wrong order; nothing of it logs anybody in."""
    login = Login(("PLAIN",), "u", "p")
    with pytest.raises(NotSasl):
        login.receive(sent)
    assert not login.done


_GOOD = offer("PLAIN", "ANONYMOUS") + outcome(_OK) + b"rest"


@given(some.lists(some.integers(0, len(_GOOD)), max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    """Whatever comes at a time, the login is the same, and what follows it comes out whole."""
    login = Login(("PLAIN",), "u", "p")
    marks = [0, *sorted(cuts), len(_GOOD)]
    rest = b""
    for begin, end in itertools.pairwise(marks):
        rest += _GOOD[begin:end] if login.done else login.receive(_GOOD[begin:end])
    assert login.done
    assert rest == b"rest"


@given(some.integers(0, len(_GOOD) - 1), some.integers(0, 255), some.binary(max_size=40))
def test_nothing_that_comes_raises_anything_else(at: int, value: int, junk: bytes) -> None:
    """A byte that is wrong, or anything at all after the header."""
    for sent in (_GOOD[:at] + bytes([value]) + _GOOD[at + 1 :], _HEADER + junk):
        login = Login((*SCRAM, "PLAIN"), "u", "p")
        try:
            login.receive(sent)
        except (LoginFailed, NotSasl):
            assert not login.done
