"""Kafka under test: one broker, on which every scenario has topics of its own, behind a proxy that breaks links."""

from __future__ import annotations

from typing import Any

from messaging.testing.conformance import Subject
from tests.brokers.ports import free_port
from tests.conformance.subjects.kafka_proxy import KafkaProxy

__all__ = ["kafka"]

_proxies: dict[int, KafkaProxy] = {}
"""By port; a broker outlives the subject that was made of it."""


def kafka(broker: Any) -> Subject:
    """The driver over a running broker, with every hook; one that was there already has no proxy to break."""
    options = {"session_timeout": 2.0}
    if not hasattr(broker, "proxied_port"):
        return Subject(broker.url, name="kafka", options=options, limited={"max_body": 131_072})
    proxy = _proxies.get(broker.proxied_port)
    if proxy is None:
        proxy = _proxies[broker.proxied_port] = KafkaProxy(broker.proxied_port, broker.proxied_listen)
    return Subject(
        f"kafka://127.0.0.1:{broker.proxied_port}/",
        name="kafka",
        options=options,
        disconnect=lambda connection: proxy.cut(connection.client_id),  # type: ignore[attr-defined]
        unreachable=lambda: f"kafka://127.0.0.1:{free_port()}/",
        limited={"max_body": 131_072},
        stall=lambda connection: proxy.stalled(connection.client_id),  # type: ignore[attr-defined]
        heartbeat={"heartbeat": 1.0},
    )
