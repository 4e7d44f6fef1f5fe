"""Getting in at RabbitMQ: logins, vhosts, TLS, several hosts, and what is said when it does not work."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import messaging
from messaging import rpc
from messaging.errors import AuthFailed, ConfigError, ConnectFailed, DeadlineExceeded, Delivered, InvalidUrl
from tests.brokers import Certificates, Rabbit
from tests.brokers.ports import free_port
from tests.unit.silent_address import silent_first

SCHEMES = ["rabbit", "kombu"]


class Service:
    @rpc.expose
    def ping(self, ctxt: dict[str, object]) -> str:
        """Say that the way is open."""
        return "pong"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Rabbit]:
    """A broker with TLS, whose users and vhosts are these tests' own."""
    with Rabbit(tmp_path_factory.mktemp("rabbit-login"), certificates=certificates) as server:
        server.add_vhost("v/ü ?#%@:")
        server.add_user("a/b:c@d", "p:a@s/s?w#o%r,d é")
        yield server


def works(url: str, **options: object) -> None:
    """A call goes through, in both directions, at this URL."""
    target = messaging.Target(topic=f"login-{time.monotonic_ns()}", server="a")
    with messaging.open_transport(url, **options) as transport, rpc.Server(transport, target, [Service()]):
        assert rpc.Client(transport, target, timeout=10).call({}, "ping") == "pong"


def refused(url: str, **options: object) -> Exception:
    """The error of a call at this URL, which has to come long before its deadline."""
    with messaging.open_transport(url, **options) as transport:
        began = time.monotonic()
        with pytest.raises(messaging.MessagingError) as caught:
            rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=30).call({}, "ping")
        assert time.monotonic() - began < 5.0
    return caught.value


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_password_is_told_at_once(broker: Rabbit, scheme: str) -> None:
    """AuthFailed, delivered NO, with the user and the place and without the password; it is not tried again."""
    url = f"{scheme}://guest:secret-word@{broker.host}:{broker.port}/"
    with messaging.open_transport(url) as transport:
        client = rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=30)
        began = time.monotonic()
        with pytest.raises(AuthFailed) as caught:
            client.call({}, "ping")
        assert time.monotonic() - began < 5.0
        assert caught.value.delivered is Delivered.NO
        told = str(caught.value)
        assert "guest" in told
        assert str(broker.port) in told
        assert "secret-word" not in told
        with pytest.raises(messaging.MessagingError, match="refused the login"):
            client.call({}, "ping")
        assert "secret-word" not in repr(transport)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_vhost_is_told_at_once(broker: Rabbit, scheme: str) -> None:
    """The error names the vhost and what to do."""
    error = refused(broker.url_for(scheme, vhost="not-there"))
    assert isinstance(error, ConnectFailed)
    assert "not-there" in str(error)
    assert "add_vhost" in str(error)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_may_have_any_character(broker: Rabbit, scheme: str) -> None:
    """User, password and vhost with everything that means something in a URL, and beyond ASCII."""
    user, password, vhost = (quote(text, safe="") for text in ("a/b:c@d", "p:a@s/s?w#o%r,d é", "v/ü ?#%@:"))
    broker.ctl("set_permissions", "-p", "v/ü ?#%@:", "a/b:c@d", ".*", ".*", ".*")
    works(f"{scheme}://{user}:{password}@{broker.host}:{broker.port}/{vhost}")


def test_credentials_are_asked_for_at_each_connect(broker: Rabbit) -> None:
    """What the function returns now counts; a refusal of the same again is final, another answer is tried."""
    answers = [("guest", "old"), ("guest", "guest")]
    asked = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return answers[min(len(asked), len(answers)) - 1]

    with messaging.open_transport(f"rabbit://{broker.host}:{broker.port}/", credentials=credentials) as transport:
        client = rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=10)
        with pytest.raises(messaging.NoRoute):
            client.call({}, "ping")
    assert len(asked) == 2
    error = refused(f"rabbit://{broker.host}:{broker.port}/", credentials=lambda: ("guest", "always wrong"))
    assert isinstance(error, AuthFailed)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tls_is_verified(broker: Rabbit, certificates: Certificates, scheme: str) -> None:
    """With the right authority a call goes through; without it, or under another name, nothing is sent."""
    place = f"{scheme}://guest:guest@localhost:{broker.tls_port}/"
    works(place, tls_ca=str(certificates.authority))
    for options, word in (
        ({"tls": True}, "certificate verify failed"),
        ({"tls_ca": str(certificates.stranger)}, "certificate verify failed"),
        ({"tls_ca": str(certificates.authority), "tls_server_name": "elsewhere.example"}, "match"),
    ):
        with messaging.open_transport(place, **options) as transport:
            with pytest.raises(DeadlineExceeded, match=word) as caught:
                rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=0.5).call({}, "ping")
            assert caught.value.delivered is Delivered.NO
            assert caught.value.phase == "connect"
    works(place, tls=True, tls_verify=False)


def test_tls_on_the_wrong_port_is_named(broker: Rabbit, certificates: Certificates) -> None:
    """TLS where there is none, and none where there is: each error says so."""
    ca = str(certificates.authority)
    for url, options, word in (
        (f"rabbit://localhost:{broker.port}/", {"tls_ca": ca}, "does not speak TLS"),
        (f"rabbit://localhost:{broker.tls_port}/", {}, "say tls=yes"),
    ):
        with messaging.open_transport(url, **options) as transport, pytest.raises(DeadlineExceeded, match=word):
            rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=0.5).call({}, "ping")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_large_messages_pass_tls(broker: Rabbit, certificates: Certificates, scheme: str) -> None:
    """Bytes that TLS has decrypted and no descriptor tells of are read: a mebibyte comes and goes, many times."""

    class Echo:
        @rpc.expose
        def echo(self, ctxt: dict[str, object], value: bytes) -> bytes:
            """Return it."""
            return value

    target = messaging.Target(topic=f"large-{time.monotonic_ns()}", server="a")
    url = f"{scheme}://guest:guest@localhost:{broker.tls_port}/"
    with (
        messaging.open_transport(url, tls_ca=str(certificates.authority)) as transport,
        rpc.Server(transport, target, [Echo()]),
    ):
        client = rpc.Client(transport, target, timeout=20)
        for size in (16_383, 16_384, 16_385, 262_144, 1_048_576):
            assert client.call({}, "echo", value=b"x" * size) == b"x" * size
        futures = [client.submit({}, "echo", value=b"y" * 50_000) for _ in range(50)]
        assert all(future.result(20) == b"y" * 50_000 for future in futures)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_can_be_the_login(broker: Rabbit, certificates: Certificates, scheme: str) -> None:
    """login=external: the broker takes the name in the client certificate, and no password is sent."""
    works(
        f"{scheme}://localhost:{broker.tls_port}/",
        login="external",
        tls_ca=str(certificates.authority),
        tls_cert=str(certificates.client),
        tls_key=str(certificates.client_key),
    )


def test_what_cannot_be_meant_is_refused_when_it_is_opened(tmp_path: Path, certificates: Certificates) -> None:
    """No host, EXTERNAL without a certificate, a key without one, files that are none, a variant: each by name."""
    with pytest.raises(InvalidUrl, match="needs the host"):
        messaging.open_transport("rabbit://")
    with pytest.raises(InvalidUrl, match="no variants"):
        messaging.open_transport("rabbit+tls://localhost/")
    with pytest.raises(ConfigError, match="login=external needs tls_cert"):
        messaging.open_transport("rabbit://localhost/?login=external")
    with pytest.raises(ConfigError, match="tls_key"):
        messaging.open_transport("rabbit://localhost/", tls_key=str(certificates.client_key))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(ConfigError, match="tls_ca"):
        messaging.open_transport("rabbit://localhost/", tls_ca=str(empty))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_next_host_is_tried(broker: Rabbit, scheme: str) -> None:
    """Of several hosts one is enough, whether another refuses, does not answer, or has no address."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hosts = [
            f"guest:guest@127.0.0.1:{free_port()}",
            f"no-such-host.invalid:{broker.port}",
            f"127.0.0.1:{mute.getsockname()[1]}",
            f"{broker.host}:{broker.port}",
        ]
        works(f"{scheme}://{','.join(hosts)}/", connect_timeout=0.5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_next_address_is_tried(broker: Rabbit, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """A name whose first address swallows a whole attempt is reached by its second one."""
    with silent_first(monkeypatch, "localhost", broker.port):
        works(f"{scheme}://guest:guest@localhost:{broker.port}/", connect_timeout=0.5)


def test_a_host_that_never_answers_is_given_up(broker: Rabbit) -> None:
    """Connected, but not a byte comes: each attempt has an end, and so has the call."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"rabbit://127.0.0.1:{mute.getsockname()[1]}/?connect_timeout=0.3"
        with (
            messaging.open_transport(url) as transport,
            pytest.raises(DeadlineExceeded, match="no answer within"),
        ):
            rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=1).call({}, "ping")


def test_another_protocol_is_named(broker: Rabbit) -> None:
    """Something that is no AMQP broker is told as that, and does no harm."""
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            while True:
                try:
                    peer, _ = web.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"rabbit://127.0.0.1:{web.getsockname()[1]}/"
        with messaging.open_transport(url) as transport, pytest.raises(DeadlineExceeded, match="speaks no AMQP"):
            rpc.Client(transport, messaging.Target(topic="nowhere"), timeout=1).call({}, "ping")
