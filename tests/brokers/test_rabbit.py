"""What the private RabbitMQ offers to other tests, each asked of the real one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from urllib.parse import quote

import pika
import pytest

from tests.brokers import Certificates, Rabbit


@pytest.fixture(scope="module")
def broker(certificates: Certificates) -> Iterator[Rabbit]:
    with Rabbit(certificates=certificates) as started:
        yield started


def _connect(broker: Rabbit, user: str = "guest", password: str = "guest", vhost: str = "/") -> pika.BlockingConnection:
    url = (
        f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@{broker.host}:{broker.port}/{quote(vhost, safe='')}"
    )
    return pika.BlockingConnection(pika.URLParameters(url))


def test_the_broker_lists_what_it_holds(broker: Rabbit) -> None:
    """Queues with their arguments, connections and channels are listed, and a connection can be closed by its port."""
    connection = _connect(broker)
    connection.channel().queue_declare("listed", durable=True, arguments={"x-expires": 60_000})
    (queue,) = [queue for queue in broker.queues() if queue["name"] == "listed"]
    assert queue["arguments"] == {"x-expires": 60_000}
    assert queue["durable"]
    (listed,) = broker.connections()
    assert listed["client_properties"]["version"] == pika.__version__
    assert len(broker.channels()) == 1
    broker.close_connection(listed["peer_port"])
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker):
        connection.process_data_events(5)


def test_users_and_virtual_hosts_may_have_any_character(broker: Rabbit) -> None:
    """A login and a virtual host of special characters can be made, and be used."""
    broker.add_user("a b@:/", "/?#%é")
    broker.add_vhost("v/1 %", user="a b@:/")
    _connect(broker, "a b@:/", "/?#%é", "v/1 %").close()


def test_the_memory_alarm_blocks_publishers(broker: Rabbit) -> None:
    """An alarm is told to a connection that publishes, and its end too."""
    told: list[str] = []
    connection = _connect(broker)
    connection.add_on_connection_blocked_callback(lambda *_: told.append("blocked"))
    connection.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
    channel = connection.channel()
    broker.block()
    channel.basic_publish("", "nobody", b"")
    while told != ["blocked"]:
        connection.process_data_events(5)
    broker.unblock()
    while told != ["blocked", "unblocked"]:
        connection.process_data_events(5)
    connection.close()


def test_certificates_prove_both_sides(broker: Rabbit, certificates: Certificates) -> None:
    """The server's certificate is good for its name, and a client's is a login."""
    context = ssl.create_default_context(cafile=str(certificates.authority))
    context.load_cert_chain(certificates.client, certificates.client_key)
    parameters = pika.ConnectionParameters(
        "localhost",
        broker.tls_port,
        credentials=pika.credentials.ExternalCredentials(),
        ssl_options=pika.SSLOptions(context, "localhost"),
    )
    pika.BlockingConnection(parameters).close()
