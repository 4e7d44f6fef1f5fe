"""The rows of the benchmark: which load is put on which subjects, by what stands between their processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FANOUT_SERVERS = 20
BURSTS = ("cast", "fanout", "notify")
"""Loads of one-way messages, of which the receivers say when the last one was handled."""


@dataclass(frozen=True)
class Row:
    """One kind of load and the subjects that can bear it."""

    name: str
    title: str
    load: str
    unit: str
    subjects: tuple[str, ...]
    family: str = "none"
    """Rows with the same servers between their processes stand together; those servers stop after the last of them."""
    servers: int = 1
    count: int = 0
    """How many messages a round sends; 0: as many as fit into its seconds."""
    fewer: Mapping[str, int] = field(default_factory=dict)
    """The count of subjects that would take long to send as many."""
    starts: int = 1
    """How often all the processes of its subjects are begun anew, each time for all the rounds."""
    warming: int = 1
    """Rounds that are not counted. Artemis is compiled while it runs: a call takes it 1,200 to 2,000 µs of processor
    time in the first round, 900, 700 and 530 in the next ones, and 350 to 400 from the fifth on.
    """

    @property
    def is_burst(self) -> bool:
        """Tell whether the receivers report the end."""
        return self.load in BURSTS


ROWS = (
    Row(
        "sequential",
        "One sequential caller",
        "sequential",
        "calls/s",
        (
            "zmq",
            "zmq-inline",
            "zmq-aio",
            "memory",
            "memory-inline",
            "memory-aio",
            "pyzmq",
            "pyzmq-aio",
            "grpc",
            "grpc-aio",
            "nats",
        ),
    ),
    Row(
        "threads", "16 threads", "threads", "calls/s", ("zmq", "zmq-inline", "memory", "memory-inline", "pyzmq", "grpc")
    ),
    Row(
        "asyncio",
        "asyncio, 64 in flight",
        "tasks",
        "calls/s",
        ("zmq-aio", "zmq-aio-inline", "memory-aio", "pyzmq-aio", "grpc-aio", "nats"),
    ),
    Row(
        "in-flight",
        "asyncio, 10,000 in flight at once, each checked for its own answer",
        "in_flight",
        "calls/s",
        # Not grpc-aio: it answers 1,000 calls at once and cancels some of 2,000.
        ("zmq-aio", "memory-aio", "pyzmq-aio", "nats"),
        count=10_000,
    ),
    Row(
        "casts",
        "Casts, until all are handled (messaging: acknowledged; pyzmq, nats: not)",
        "cast",
        "handled/s",
        ("zmq", "zmq-inline", "zmq-aio", "memory", "memory-aio", "pyzmq", "nats"),
    ),
    Row(
        "fanout",
        f"Fanout to {FANOUT_SERVERS} servers, until all have handled it (messaging: acknowledged; pyzmq, nats: not)",
        "fanout",
        "fanouts/s",
        ("zmq", "zmq-aio", "memory", "pyzmq", "nats"),
        servers=FANOUT_SERVERS,
    ),
    Row(
        "rabbit-sequential",
        "RabbitMQ, one sequential caller",
        "sequential",
        "calls/s",
        ("rabbit", "rabbit-inline", "rabbit-aio", "kombu", "kombu-redis", "oslo", "pika", "aio-pika"),
        family="rabbit",
    ),
    Row(
        "rabbit-threads",
        "RabbitMQ, 16 threads",
        "threads",
        "calls/s",
        ("rabbit", "kombu", "kombu-redis", "oslo"),
        family="rabbit",
    ),
    Row(
        "rabbit-asyncio",
        "RabbitMQ, asyncio, 64 in flight",
        "tasks",
        "calls/s",
        ("rabbit-aio", "kombu-aio", "aio-pika"),
        family="rabbit",
    ),
    Row(
        "rabbit-casts",
        "RabbitMQ, casts, each confirmed, until all are handled",
        "cast",
        "handled/s",
        ("rabbit", "kombu", "kombu-redis", "oslo"),
        family="rabbit",
    ),
    Row(
        "rabbit-notifications",
        "RabbitMQ, notifications, each confirmed, until all are handled",
        "notify",
        "handled/s",
        ("rabbit-notify", "kombu-notify", "kombu-redis-notify", "oslo-notify"),
        family="rabbit",
    ),
    Row(
        "kafka-notifications",
        "Kafka, notifications, each confirmed, until all are handled (oslo.messaging: buffered, not confirmed)",
        "notify",
        "handled/s",
        ("kafka", "confluent-kafka", "oslo-kafka"),
        # Consumers wait for batches, seconds with some, and what is in the client library's buffers is sent while they
        # do: a burst that fits into half a second would measure that. Bare confluent-kafka sends 300,000 in one.
        count=150_000,
        fewer={"oslo-kafka": 40_000},
        # Two starts of the same code differ by 8 %, two rounds of one start by less.
        starts=3,
        family="kafka",
    ),
    Row(
        "amqp1-sequential",
        "AMQP 1.0 on Artemis, one sequential caller",
        "sequential",
        "calls/s",
        ("amqp1", "proton", "proton-blocking"),
        family="amqp1",
        warming=8,
        # The ratio of one start and that of the next differ by up to a tenth.
        starts=3,
    ),
    Row(
        "amqp1-threads",
        "AMQP 1.0 on Artemis, 16 threads",
        "threads",
        "calls/s",
        ("amqp1", "proton-blocking"),
        family="amqp1",
        warming=8,
        # Sixteen threads of proton's get 600 calls a second through in one start and 1,200 in another.
        starts=3,
    ),
    Row(
        "amqp1-casts",
        "AMQP 1.0 on Artemis, casts, each accepted by the broker, until all are handled",
        "cast",
        "handled/s",
        ("amqp1", "proton-blocking"),
        family="amqp1",
    ),
)
