"""What rabbit:// and kombu:// have in common as drivers: capabilities, the choice of a topology, and connections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from messaging.drivers import base
from messaging.drivers.rabbit.client import MakeClient
from messaging.drivers.rabbit.connection import RabbitConnection
from messaging.drivers.rabbit.options import RabbitSettings, check
from messaging.drivers.rabbit.oslo_topology import OsloTopology
from messaging.drivers.rabbit.topology import NativeTopology, Topology

__all__ = ["broker_capabilities", "broker_connection"]


def broker_capabilities(settings: RabbitSettings) -> base.Capabilities:
    """What RabbitMQ does, whichever client library speaks to it. Raises InvalidUrl or ConfigError."""
    check(settings)
    return base.Capabilities(
        fanout="queued",
        pools=True,
        storage=True,
        confirms=True,
        no_route="queue",
        redelivers="on_loss",
        requeue="later",
        # The predecessor's topology has no place for dead letters.
        reject="dead_letter" if settings.wire == "native" else "drop",
        ordering="queue",
        ttl=True,
        flow_control=True,
        stable_reply_address=not _direct(settings),
        max_body=settings.max_body,
    )


def broker_connection(
    settings: RabbitSettings,
    role: base.Role,
    events: base.ConnectionEvents,
    services: base.Services,
    make_client: MakeClient,
) -> RabbitConnection:
    """Make a connection that speaks through a client library; no I/O yet."""
    # Only a client has nothing but answers at its address; a server is told of cancellations there.
    # Who may not declare has no queue of its own to be answered at.
    direct = _direct(settings) and (role is base.Role.RPC_CLIENT or not settings.declare)
    return RabbitConnection(
        settings,
        role,
        events,
        services,
        make_client=make_client,
        topology=_topology(settings, direct),
        direct_replies=direct,
    )


def _topology(settings: RabbitSettings, direct: bool) -> Callable[[str], Topology]:
    if settings.wire == "oslo":
        return partial(
            OsloTopology,
            durable=settings.amqp_durable_queues,
            auto_delete=settings.amqp_auto_delete,
            quorum=settings.rabbit_quorum_queue,
            transient_quorum=settings.rabbit_transient_quorum_queue,
            ttl=settings.rabbit_transient_queues_ttl,
            delivery_limit=settings.rabbit_quorum_delivery_limit,
        )
    return partial(
        NativeTopology,
        queue_type=settings.queue_type,
        expires=settings.expires,
        topic_expires=settings.topic_expires,
        max_length=settings.max_length,
        direct_replies=direct,
        provided=not settings.declare,
    )


def _direct(settings: RabbitSettings) -> bool:
    return settings.replies == "direct" or (not settings.declare and settings.wire == "native")
