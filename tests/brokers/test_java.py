"""The servers that are made of jars, each asked over its own protocol, and the jars themselves."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from proton import Message
from proton.utils import BlockingConnection

from tests.brokers import Artemis, BrokerJ, Certificates, Kafka, ServerFailed
from tests.brokers.jars import fetched, hashes, listed

# Several starts of a Java machine; on a loaded one each takes ten times as long.


def _exchange(server: Artemis | BrokerJ, **options: Any) -> object:
    connection = BlockingConnection(
        f"amqp://{server.host}:{server.port}", timeout=10, allowed_mechs="ANONYMOUS", **options
    )
    try:
        name = secrets.token_hex(6)
        receiver = connection.create_receiver(name)
        connection.create_sender(name).send(Message(body="through a real broker"))
        message = receiver.receive(10)
        receiver.accept()
        return message.body
    finally:
        connection.close()


def test_artemis_carries_a_message(artemis_broker: Artemis) -> None:
    """Artemis makes a queue on demand and delivers what was sent to it."""
    assert _exchange(artemis_broker) == "through a real broker"


def test_broker_j_carries_a_message(broker_j: BrokerJ) -> None:
    """Broker-J makes a queue on demand and delivers what was sent to it."""
    assert _exchange(broker_j, virtual_host="default") == "through a real broker"


def test_kafka_keeps_what_it_confirmed_through_a_kill() -> None:
    """What Kafka has confirmed is read after a SIGKILL and a start on the same data."""
    with Kafka() as server:
        failed: list[object] = []
        quiet = {"bootstrap.servers": server.bootstrap, "log_level": "0"}
        producer = Producer(quiet)
        producer.produce("t", b"kept", on_delivery=lambda error, message: failed.append(error) if error else None)
        assert producer.flush(20) == 0
        assert failed == []
        server.kill()
        server.start()
        consumer = Consumer({**quiet, "group.id": "g", "auto.offset.reset": "earliest"})
        consumer.subscribe(["t"])
        try:
            message = consumer.poll(30)
            assert message is not None
            assert message.value() == b"kept"
        finally:
            consumer.close()


def test_kafka_asks_for_a_login_and_proves_itself(certificates: Certificates) -> None:
    """A broker with a login takes it by PLAIN and by SCRAM, and its certificate is good for its address."""
    with Kafka(login=("user", "pass-word"), certificates=certificates) as server:
        sasl = {
            "bootstrap.servers": f"{server.host}:{server.sasl_port}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.username": "user",
            "sasl.password": "pass-word",
            "log_level": "0",
        }
        tls = {
            "bootstrap.servers": f"{server.host}:{server.tls_port}",
            "security.protocol": "SSL",
            "ssl.ca.location": str(certificates.authority),
            "log_level": "0",
        }
        for settings in ({**sasl, "sasl.mechanism": "PLAIN"}, {**sasl, "sasl.mechanism": "SCRAM-SHA-256"}, tls):
            Producer(settings).list_topics(timeout=20)


def test_jars_are_those_that_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar that is another one than the list says is found, in the cache as well as fresh from Maven."""
    good = fetched("broker-j")
    assert hashes(good) == listed("broker-j")
    monkeypatch.setenv("MESSAGING_TEST_CACHE", str(tmp_path))
    forged = tmp_path / good.name
    forged.mkdir()
    for jar in good.glob("*.jar"):
        (forged / jar.name).write_bytes(jar.read_bytes())
    (forged / "slf4j-api-2.0.18.jar").write_bytes(b"something else")
    with pytest.raises(ServerFailed, match=r"not those of broker-j.sha256.*slf4j-api"):
        fetched("broker-j")
