"""kafka:// on a real broker that asks who is there: logins, TLS with all that can be wrong about it, and what batches
look like on its disk.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import admin
from confluent_kafka.admin import AdminClient

import messaging
from messaging import AuthFailed, ConfigError, DeadlineExceeded, Delivered, MessagingError, notify
from messaging.drivers.kafka import clients
from tests.brokers.certificates import Certificates
from tests.brokers.kafka import Kafka
from tests.faults.processes import until

RIGHTS: Any = admin
"""Whose names for rights are not exported, as type checkers see it."""
USER, PASSWORD = "messaging", "secret-word"
MECHANISMS = ("plain", "scram-sha-256", "scram-sha-512")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
"""By their numbers in Kafka's batches."""
_ATTRIBUTES = 22
"""The byte of a batch that tells its codec."""


@pytest.fixture
def topic() -> str:
    """A topic that nobody has used."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Kafka]:
    """A broker that asks for logins and certificates, on a port for each combination."""
    folder = tmp_path_factory.mktemp("guarded-kafka")
    with Kafka(folder, login=(USER, PASSWORD), certificates=certificates) as broker:
        yield broker


class Audit:
    """Writes down what it gets."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    @notify.on("*")
    def any(self, event: notify.Event[Any]) -> None:
        self.payloads.append(event.payload)


def passes(url: str, topic: str, payload: Any = 1, **options: Any) -> None:
    """One notification goes from a notifier to a listener."""
    audit = Audit()
    with messaging.open_transport(url, **options) as transport:
        with notify.Listener(transport, [messaging.Target(topic=topic)], [audit]):
            notify.Notifier(transport, topics=[topic]).info({}, "event", payload)
            until(lambda: audit.payloads == [payload], "the notification")


def refusal(url: str, topic: str, **options: Any) -> str:
    """Why no connection is made, as a sender is told at his deadline."""
    with messaging.open_transport(url, **options) as transport:
        with pytest.raises(DeadlineExceeded) as caught:
            notify.Notifier(transport, topics=[topic], timeout=1.0).info({}, "event", 1)
    assert caught.value.delivered is Delivered.NO
    return str(caught.value)


# Logins


@pytest.mark.parametrize("sasl", MECHANISMS)
@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
def test_a_login_is_taken(guarded: Kafka, certificates: Certificates, topic: str, sasl: str, tls: bool) -> None:
    """By PLAIN and by SCRAM, with and without TLS; the password is in no repr."""
    url = guarded.secure_url if tls else guarded.sasl_url
    options = {"tls": True, "tls_ca": str(certificates.authority)} if tls else {}
    with messaging.open_transport(url, sasl=sasl, create_topics="all", **options) as transport:
        notify.Notifier(transport, topics=[topic], timeout=20).info({}, "event", 1)
        assert PASSWORD not in repr(transport)
        assert PASSWORD not in repr(transport._settings)


def test_credentials_are_asked_for(guarded: Kafka, topic: str) -> None:
    """A function gives the login, where the URL has none; a listener logs in with it too."""
    asked: list[int] = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return USER, PASSWORD

    passes(f"kafka://127.0.0.1:{guarded.sasl_port}", topic, credentials=credentials)
    assert asked


@pytest.mark.parametrize("sasl", MECHANISMS)
def test_a_wrong_password_ends_it_at_once(guarded: Kafka, topic: str, sasl: str) -> None:
    """AuthFailed long before the deadline, for whoever comes later too; it is tried once, and not again."""
    asked: list[int] = []

    def credentials() -> tuple[str, str]:
        asked.append(1)
        return USER, "wrong-word"

    url = f"kafka://127.0.0.1:{guarded.sasl_port}"
    with messaging.open_transport(url, sasl=sasl, credentials=credentials) as transport:
        notifier = notify.Notifier(transport, topics=[topic], timeout=20)
        begun = time.monotonic()
        with pytest.raises(AuthFailed, match="refused the login") as caught:
            notifier.info({}, "event", 1)
        assert time.monotonic() - begun < 10
        assert "wrong-word" not in str(caught.value)
        with pytest.raises(AuthFailed):
            notifier.info({}, "event", 2)
        assert len(asked) == 1
        with pytest.raises(AuthFailed):
            notify.Listener(transport, [messaging.Target(topic=topic)], [Audit()]).start(20)
        assert len(asked) == 2


def test_who_takes_a_refusal_for_an_outage_is_found(
    guarded: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a login that is refused is tried again and again."""
    monkeypatch.setattr(clients, "is_login", lambda error: False)
    with messaging.open_transport(f"kafka://{USER}:wrong-word@127.0.0.1:{guarded.sasl_port}") as transport:
        with pytest.raises(DeadlineExceeded):
            notify.Notifier(transport, topics=[topic], timeout=1.0).info({}, "event", 1)


def test_a_login_that_is_missing_or_meant_for_another_port(guarded: Kafka, topic: str) -> None:
    """Where the broker wants a login or TLS, it closes the connection, and that is told with what it may want; where it
    takes no logins, one is refused.
    """
    for port in (guarded.sasl_port, guarded.tls_port):
        assert "TLS (option tls) or a login is wanted" in refusal(f"kafka://127.0.0.1:{port}", topic)
    url = f"kafka://{USER}:{PASSWORD}@127.0.0.1:{guarded.port}/"
    with messaging.open_transport(url) as transport, pytest.raises(AuthFailed) as caught:
        notify.Notifier(transport, topics=[topic], timeout=20).info({}, "event", 1)
    assert caught.value.delivered is Delivered.NO


# Rights


@pytest.fixture(scope="module")
def restrictive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that lets its user do what it was granted, and nobody's port do everything."""
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with Kafka(tmp_path_factory.mktemp("restrictive-kafka"), settings=settings, login=(USER, PASSWORD)) as broker:
        yield broker


def grant(broker: Kafka, kind: str, prefix: str, *operations: str) -> None:
    """Allow the user something with all topics or groups whose names begin so."""
    rules = [
        RIGHTS.AclBinding(
            RIGHTS.ResourceType[kind],
            prefix,
            RIGHTS.ResourcePatternType.PREFIXED,
            f"User:{USER}",
            "*",
            RIGHTS.AclOperation[operation],
            RIGHTS.AclPermissionType.ALLOW,
        )
        for operation in operations
    ]
    client: Any = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in client.create_acls(rules).values():
        future.result(10)
    wanted = {(rule.name, rule.operation) for rule in rules}
    every = RIGHTS.AclBindingFilter(
        RIGHTS.ResourceType.ANY,
        None,
        RIGHTS.ResourcePatternType.ANY,
        None,
        None,
        RIGHTS.AclOperation.ANY,
        RIGHTS.AclPermissionType.ANY,
    )
    until(
        lambda: wanted <= {(rule.name, rule.operation) for rule in client.describe_acls(every).result(10)},
        "the broker knows of it",
    )


def error_of(act: Callable[[], object]) -> str:
    """What it is told."""
    with pytest.raises(MessagingError) as caught:
        act()
    return str(caught.value)


def test_rights_that_are_missing_are_named(restrictive: Kafka, topic: str) -> None:
    """Of the topic, of the group, and of writing: each is told within seconds, and with what the documentation says a
    listener of a pool and a notifier need, both work.
    """
    name = f"messaging.{topic}"
    with messaging.open_transport(restrictive.sasl_url, connect_timeout=2.0) as transport:
        target, audit = [messaging.Target(topic=topic)], Audit()

        def listener() -> notify.Listener:
            return notify.Listener(transport, target, [audit], pool="billing")

        assert name in error_of(lambda: listener().start(20))
        grant(restrictive, "TOPIC", name, "DESCRIBE", "CREATE")
        begun = time.monotonic()
        assert f"group 'billing@{name}'" in error_of(lambda: listener().start(20))
        assert time.monotonic() - begun < 10
    with messaging.open_transport(restrictive.sasl_url) as transport:
        assert "WRITE" in error_of(lambda: notify.Notifier(transport, topics=[topic]).info({}, "event", 1))
    grant(restrictive, "TOPIC", name, "READ", "WRITE")
    grant(restrictive, "GROUP", "billing@", "READ")
    with messaging.open_transport(restrictive.sasl_url) as transport:
        with notify.Listener(transport, target, [audit], pool="billing"):
            notify.Notifier(transport, topics=[topic]).info({}, "event", 1)
            until(lambda: audit.payloads == [1], "the notification")


# TLS


def test_tls_is_verified(guarded: Kafka, certificates: Certificates, topic: str) -> None:
    """It passes with the authority that has signed, or when nothing is verified; else nothing is sent, and the reason
    is told: a certificate of nobody that is known, or of another name.
    """
    trusted = {"tls": True, "tls_ca": str(certificates.authority)}
    misnamed = f"kafka://127.0.0.1:{guarded.misnamed_port}/"
    passes(guarded.tls_url, topic, **trusted)
    passes(misnamed, f"{topic}-2", tls=True, tls_verify=False)
    told = "has to name this host, and an authority in tls_ca has to have signed it"
    assert told in refusal(guarded.tls_url, topic, tls=True)
    assert told in refusal(guarded.tls_url, topic, tls=True, tls_ca=str(certificates.stranger))
    assert told in refusal(misnamed, topic, **trusted)


def test_a_broker_may_ask_for_a_certificate(guarded: Kafka, certificates: Certificates, topic: str) -> None:
    """It passes with one that the authority has signed; without one, or with a stranger's, no connection is made."""
    url = f"kafka://127.0.0.1:{guarded.mutual_port}/"
    trusted = {"tls": True, "tls_ca": str(certificates.authority)}
    passes(url, topic, **trusted, tls_cert=str(certificates.client), tls_key=str(certificates.client_key))
    told = "wants another certificate of ours (options tls_cert and tls_key)"
    assert told in refusal(url, topic, **trusted)
    stranger = {"tls_cert": str(certificates.stranger), "tls_key": str(certificates.stranger_key)}
    assert told in refusal(url, topic, **trusted, **stranger)


def test_a_key_that_is_not_that_of_the_certificate(certificates: Certificates) -> None:
    """It is an error of the options, told with what is wrong."""
    options = {"tls": True, "tls_cert": str(certificates.client), "tls_key": str(certificates.stranger_key)}
    with messaging.open_transport("kafka://127.0.0.1:1/", **options) as transport:
        with pytest.raises(ConfigError, match=r"(?i)key"):
            notify.Notifier(transport, topics=["t"], timeout=5).info({}, "event", 1)


# Compression


@pytest.mark.parametrize("codec", CODECS)
def test_batches_are_compressed(guarded: Kafka, topic: str, codec: str) -> None:
    """What is on the broker's disk was compressed as the option says, and is read."""
    passes(guarded.url, topic, payload="again " * 1000, compression=codec)
    (segment,) = Path(guarded.folder, "data", f"messaging.{topic}-0").glob("*.log")
    batch = segment.read_bytes()
    assert CODECS[batch[_ATTRIBUTES] & 7] == codec
    assert (len(batch) < 3000) is (codec != "none")


def test_other_compressions_are_refused() -> None:
    """With the ones that there are."""
    with pytest.raises(ConfigError, match=r"none.*gzip.*snappy.*lz4.*zstd"):
        messaging.open_transport("kafka://localhost", compression="brotli")
