"""A process with a Kafka cluster that fails on demand, in which nothing of what is tested runs."""

from __future__ import annotations

from tests.brokers.mock_kafka import MockKafka
from tests.faults.worker import obey, settings, tell

cluster = MockKafka(**settings())
tell("ready", bootstrap=cluster.bootstrap)
obey(
    {
        name: getattr(cluster, name)
        for name in ("create", "spoil", "lead", "coordinate", "down", "up", "delay", "fail", "heal", "received")
    }
)
