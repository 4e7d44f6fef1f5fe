"""The transports that this repository proves: a fresh place for every scenario, and what can be done to it.

One module for each driver; this one only lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from messaging.testing.conformance import Subject
from tests.brokers.router import installed
from tests.conformance.subjects.amqp1 import amqp1
from tests.conformance.subjects.kafka import kafka
from tests.conformance.subjects.kombu import kombu, kombu_redis
from tests.conformance.subjects.memory import memory
from tests.conformance.subjects.rabbit import rabbit
from tests.conformance.subjects.zmq import zmq

__all__ = ["SUBJECTS", "Maker"]


class Maker(Protocol):
    """Makes a subject."""

    def __call__(self, root: Path, server: Callable[[str], Any]) -> Subject:
        """`root`: a directory that it may use. `server`: returns a running server by the name of its fixture, and
        starts it if need be.
        """


SUBJECTS: dict[str, Maker] = {
    "memory": lambda root, server: memory(),
    "zmq": lambda root, server: zmq(root),
    "kafka": lambda root, server: kafka(server("kafka_broker")),
    "rabbit": lambda root, server: rabbit(server("rabbit_broker")),
    "kombu": lambda root, server: kombu(server("rabbit_broker")),
    "kombu+redis": lambda root, server: kombu_redis(server("redis_server").url),
    "amqp1-artemis": lambda root, server: amqp1("artemis", server("artemis_broker").url),
    "amqp1-broker-j": lambda root, server: amqp1("broker-j", server("broker_j").url, durable=False),
    "amqp1-router": lambda root, server: amqp1("router", server("router_in_process").url),
    "amqp1-rabbitmq": lambda root, server: amqp1("rabbitmq", server("rabbit_amqp1_broker").url_for("amqp1")),
}
"""By the names under which docs/capabilities.md lists them."""
for _program in installed():
    # Of the kind amqp1-router too, and held to what is documented of it.
    SUBJECTS[f"amqp1-{_program}"] = partial(lambda name, root, server: amqp1("router", server(name).url), _program)
