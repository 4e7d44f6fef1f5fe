"""The driver for kombu's virtual transports, `kombu+redis://` first of all: its options and what it promises."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from messaging.drivers import base
from messaging.drivers.kombu import plain_session, redis_session
from messaging.drivers.kombu.connection import KombuConnection
from messaging.drivers.kombu.settings import VirtualSettings
from messaging.drivers.kombu.variants import TESTED, check_url

__all__ = ["Driver", "VirtualSettings"]


class Driver:
    """The driver of `kombu+…://`; RabbitMQ, without a variant, is served by another."""

    schemes: ClassVar[Collection[str]] = ("kombu",)
    options = VirtualSettings

    def capabilities(self, settings: VirtualSettings) -> base.Capabilities:
        """What redis can do by kombu; of other transports, only what all of them have. Raises ConfigError."""
        check_url(settings.url)
        if settings.tls_parameters() is not None:
            settings.check_files()
        if settings.url.variant not in TESTED:
            return base.Capabilities(
                no_route="never",
                requeue="now",
                max_body=settings.max_body,
                stall_detection=False,
                pump_stall=plain_session.STALL,
            )
        return base.Capabilities(
            fanout="live",
            pools=True,
            storage=True,
            confirms=True,
            no_route="never",
            redelivers="seconds",
            requeue="now",
            reject="dead_letter",
            ordering="queue",
            stable_reply_address=True,
            max_body=settings.max_body,
            pump_stall=settings.socket_timeout,
        )

    def connect(
        self, settings: VirtualSettings, role: base.Role, events: base.ConnectionEvents, services: base.Services
    ) -> KombuConnection:
        """Make a connection; no I/O yet."""
        check_url(settings.url)
        connect = redis_session.connect if settings.url.variant in TESTED else plain_session.connect
        return KombuConnection(settings, connect, events, services)
