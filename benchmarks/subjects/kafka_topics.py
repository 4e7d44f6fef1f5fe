"""Topics that are there before a consumer asks for them: who subscribes to an unknown one waits for minutes."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

_WITHIN = 30.0  # seconds


def bootstrap(url: str) -> str:
    """Where Kafka's clients begin, from a URL without a login."""
    return url.partition("://")[2].rstrip("/")


def create(url: str, topic: str) -> None:
    """Create a topic with one partition, unless it is there from an earlier start."""
    # It lives until the answer is there: its end would be that of the request.
    client = AdminClient({"bootstrap.servers": bootstrap(url)})
    try:
        client.create_topics([NewTopic(topic, num_partitions=1)])[topic].result(_WITHIN)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
