"""Real servers for the tests, private and started on demand.

As fixtures, shared by the whole session, so use fresh names for topics and queues:

    def test_it(rabbit_broker):  # also redis_server, kafka_broker, artemis_broker, broker_j, rabbit_amqp1_broker
        transport = messaging.open_transport(rabbit_broker.url)

On its own, where a test kills or freezes it or wants other settings:

    with Rabbit(heartbeat=2, certificates=Certificates(tmp_path)) as broker:
        broker.kill(); broker.start()        # the same port and data
        broker.pause(); broker.resume()      # SIGSTOP, SIGCONT
        broker.ctl("list_queues"); broker.queues(); broker.connections(); broker.channels()
        broker.url_for("kombu", user="a", password="/?", vhost="v/1")

By hand: `python -m tests.brokers rabbit redis` prints URLs and runs until Ctrl-C. MESSAGING_TEST_RABBIT_URL and
the like name servers that run already. A server that is not installed fails the test with the command to install it.
"""

from __future__ import annotations

from tests.brokers.artemis import Artemis
from tests.brokers.broker_j import BrokerJ
from tests.brokers.certificates import Certificates
from tests.brokers.kafka import Kafka
from tests.brokers.process import ServerFailed
from tests.brokers.rabbit import Rabbit
from tests.brokers.redis import Redis
from tests.brokers.router import Router
from tests.brokers.server import ExistingServer, Server

__all__ = [
    "SERVERS",
    "Artemis",
    "BrokerJ",
    "Certificates",
    "ExistingServer",
    "Kafka",
    "Rabbit",
    "Redis",
    "Router",
    "Server",
    "ServerFailed",
]

SERVERS: dict[str, type[Server]] = {
    "rabbit": Rabbit,
    "redis": Redis,
    "kafka": Kafka,
    "artemis": Artemis,
    "broker_j": BrokerJ,
    "router": Router,
}
"""By the names under which `python -m tests.brokers` starts them."""
