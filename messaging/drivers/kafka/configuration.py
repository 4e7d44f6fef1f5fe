"""From our options to those of the client library. Pure.

What differs from the library's defaults, and why:

* `fetch.queue.backoff.ms` 10 instead of 1000: whenever Python falls behind what was fetched, the library would pause
  for a second (measured: 132,000 messages/s against 378,000).
* `socket.timeout.ms` two heartbeats instead of 60 s: a broker that stands still is noticed by the request that it does
  not answer, and a waiting fetch is always under way.
* `enable.idempotence`: what the library sends again after a broken connection is stored once, and in order.
* `auto.offset.reset` earliest: positions are committed before a pool joins, so this is only for partitions that were
  added later and for what the broker has deleted meanwhile; the default would skip messages there.
* `enable.auto.commit` off: it commits what was read, not what was handled.
"""

from __future__ import annotations

from typing import Any

from messaging.drivers.kafka.options import KafkaSettings

__all__ = ["DEFAULT_PORT", "Login", "common", "consumer", "copier", "login", "producer", "urgent"]

DEFAULT_PORT = 9092
Login = tuple[str, str] | None
_OVERHEAD = 40_000
"""Bytes that headers, key and the frame of a batch may add to a body; the broker's default limit is 1,048,588."""


def login(settings: KafkaSettings) -> Login:
    """User and password as of now: `credentials` is asked at each connect."""
    if settings.credentials is not None:
        return settings.credentials()
    for host in settings.url.hosts:
        if host.username is not None:
            return host.username, host.password or ""
    return None


def common(settings: KafkaSettings, user: Login, client_id: str) -> dict[str, Any]:
    """What every client of a connection is told."""
    conf: dict[str, Any] = {
        "bootstrap.servers": ",".join(
            host.address if host.port is not None else f"{host.address}:{DEFAULT_PORT}" for host in settings.url.hosts
        ),
        "client.id": client_id,
        "socket.timeout.ms": int(2000 * settings.heartbeat),
        "socket.connection.setup.timeout.ms": max(1000, int(1000 * settings.connect_timeout)),
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "message.max.bytes": settings.max_body + _OVERHEAD,
        "log_level": 4,
    }
    if user is not None:
        conf["sasl.mechanisms"] = settings.sasl.upper()
        conf["sasl.username"], conf["sasl.password"] = user
    conf["security.protocol"] = f"{'sasl_' if user is not None else ''}{'ssl' if settings.tls else 'plaintext'}"
    if settings.tls:
        conf["enable.ssl.certificate.verification"] = settings.tls_verify
        conf["ssl.endpoint.identification.algorithm"] = "https" if settings.tls_verify else "none"
        for ours, theirs in (
            ("tls_ca", "ssl.ca.location"),
            ("tls_cert", "ssl.certificate.location"),
            ("tls_key", "ssl.key.location"),
            ("tls_key_password", "ssl.key.password"),
        ):
            value = getattr(settings, ours)
            if value is not None:
                conf[theirs] = value
    return conf


def producer(settings: KafkaSettings, user: Login, client_id: str) -> dict[str, Any]:
    """For notifications."""
    return common(settings, user, client_id) | {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": settings.compression,
        "linger.ms": 1000.0 * settings.linger,
        "message.timeout.ms": max(1, int(1000 * settings.send_timeout)),
        "queue.buffering.max.messages": 0,
        "queue.buffering.max.kbytes": max(1, settings.buffer // 1024),
        "request.timeout.ms": int(2000 * settings.heartbeat),
        # That of Kafka's own clients, so that they put a key where we put it.
        "partitioner": "murmur2_random",
    }


def copier(settings: KafkaSettings, user: Login, client_id: str) -> dict[str, Any]:
    """For copies to retry and dead-letter topics: they are tried until the broker has them, since the originals stay
    unsettled meanwhile.
    """
    return producer(settings, user, client_id) | {"message.timeout.ms": 0, "linger.ms": 0}


def consumer(settings: KafkaSettings, user: Login, client_id: str, group: str) -> dict[str, Any]:
    """For one consumer group."""
    conf = common(settings, user, client_id) | {
        "group.id": group,
        "group.protocol": settings.group_protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "allow.auto.create.topics": False,
        "enable.partition.eof": False,
        "fetch.queue.backoff.ms": 10,
        "fetch.error.backoff.ms": 100,
        "queued.min.messages": settings.prefetch,
        "fetch.message.max.bytes": max(1024 * 1024, settings.max_body + _OVERHEAD),
        # A topic that is created, or gets partitions, is seen after this time.
        "topic.metadata.refresh.interval.ms": 30_000,
    }
    if settings.group_protocol == "classic":
        session = int(1000 * settings.session_timeout)
        conf |= {
            # A group may have members of the predecessor's as well, and all of a group use one strategy.
            "partition.assignment.strategy": "cooperative-sticky" if settings.wire == "native" else "range,roundrobin",
            "session.timeout.ms": session,
            # A member hears of a rebalance with the answer to its next heartbeat.
            "heartbeat.interval.ms": min(1000, max(100, session // 4)),
        }
    return conf


def urgent(conf: dict[str, Any]) -> dict[str, Any]:
    """For a client that asks one question and is gone: it need not be gentle to brokers that are away."""
    return conf | {"reconnect.backoff.max.ms": 200}
