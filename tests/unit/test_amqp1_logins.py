"""Logins on real peers: Broker-J, and the routers of the machine. That of Artemis is tested with its TLS in
test_amqp1_peers.py, the exchange itself in test_amqp1_sasl.py.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

import messaging
from messaging import rpc
from messaging.errors import AuthFailed, DeadlineExceeded, Delivered, MessagingError
from messaging.target import Target
from tests.brokers import BrokerJ, Certificates, Router
from tests.brokers.router import installed

_LOGIN = ("ann", "s3cret")


class Service:
    """Answers."""

    @rpc.expose
    def ping_back(self, ctxt: dict[str, Any], value: str) -> str:
        """Return the argument."""
        return value


class Guarded:
    """A peer that asks who is there, and how to talk to it."""

    def __init__(self, server: BrokerJ | Router, certificates: Certificates) -> None:
        self.url = server.url
        self._login = self.url.split("//")[1].split("@")[0]
        self._port, self._tls_port = server.port, server.tls_port
        self._profile = "router" if isinstance(server, Router) else "broker-j"
        self._certificates = certificates

    def call(self, url: str, timeout: float = 10.0, **options: Any) -> object:
        """Make a call to a server on the same transport."""
        topic = f"logins-{secrets.token_hex(4)}"
        with messaging.open_transport(url, profile=self._profile, durable=False, **options) as transport:
            server = rpc.Server(transport, Target(topic=topic, server="a"), [Service()])
            server.start(timeout)
            client = rpc.Client(transport, Target(topic=topic), timeout=timeout)
            answer: object = client.call({}, "ping_back", value="x")
            server.stop(1.0)
            return answer

    def error(self, url: str, timeout: float = 10.0, **options: Any) -> MessagingError:
        """What becomes of it where it fails."""
        with pytest.raises(MessagingError) as caught:
            self.call(url, timeout, **options)
        return caught.value

    def url_of(self, user: str, password: str) -> str:
        """The URL with another login."""
        return self.url.replace(self._login, self._login.replace("ann", user).replace("s3cret", password))

    @property
    def nobodys_url(self) -> str:
        """The URL without a login."""
        return self.url.replace(f"{self._login}@", "")

    @property
    def tls_url(self) -> str:
        """The URL for those with a certificate."""
        return self.nobodys_url.replace(f":{self._port}", f":{self._tls_port}")


@pytest.fixture(scope="module", params=["broker_j", *installed()])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Guarded]:
    """A peer that knows one user, and lets in on another port whoever has a certificate."""
    folder = tmp_path_factory.mktemp("guarded")
    server: BrokerJ | Router
    if request.param == "broker_j":
        server = BrokerJ(folder, login=_LOGIN, certificates=certificates)
    else:
        server = Router(folder, request.param, login=_LOGIN, certificates=certificates)
    with server:
        yield Guarded(server, certificates)


@pytest.mark.parametrize("login", ["plain", "scram", "auto"])
def test_a_password_logs_in(peer: Guarded, login: str) -> None:
    """By PLAIN and by SCRAM, after which the peer has proved that it knows the password too."""
    assert peer.call(peer.url, login=login) == "x"


@pytest.mark.parametrize(("login", "mechanism"), [("plain", "PLAIN"), ("scram", "SCRAM-SHA-"), ("auto", "SCRAM-SHA-")])
@pytest.mark.parametrize("user", ["ann", "nobody"])
def test_a_wrong_login_is_told_at_once(peer: Guarded, login: str, mechanism: str, user: str) -> None:
    """AuthFailed that names the mechanism and not the password, after one attempt."""
    begun = time.monotonic()
    error = peer.error(peer.url_of(user, "wr0ng"), timeout=30, login=login)
    assert time.monotonic() - begun < 10
    assert isinstance(error, AuthFailed)
    assert mechanism in str(error)
    assert "wr0ng" not in str(error)


def test_who_says_nothing_is_told_what_is_asked(peer: Guarded) -> None:
    """Without a login the error says what the peer offers, and where a login goes."""
    error = peer.error(peer.nobodys_url)
    assert isinstance(error, AuthFailed)
    assert "it offers " in str(error)
    assert "SCRAM-SHA-256" in str(error)
    assert "user and password" in str(error)


def test_a_certificate_logs_in(peer: Guarded, certificates: Certificates) -> None:
    """By EXTERNAL, through TLS that Python does."""
    files: dict[str, Any] = {"tls_cert": str(certificates.client), "tls_key": str(certificates.client_key)}
    assert peer.call(peer.tls_url, tls_ca=str(certificates.authority), **files) == "x"


@pytest.mark.parametrize("stranger", [True, False])
def test_without_the_right_certificate_nobody_comes_in(
    peer: Guarded, certificates: Certificates, stranger: bool
) -> None:
    """One that the peer's authority has not signed, or none: no connection, and the error says what may be missing."""
    files: dict[str, Any] = {}
    if stranger:
        files = {"tls_cert": str(certificates.stranger), "tls_key": str(certificates.stranger_key)}
    error = peer.error(peer.tls_url, timeout=0.5, login="anonymous", tls_ca=str(certificates.authority), **files)
    assert isinstance(error, DeadlineExceeded)
    assert error.delivered is Delivered.NO
    assert "certificate" in str(error)
