"""The driver for kombu's virtual transports, `kombu+redis://` first of all: its options and what it promises."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from messaging.drivers import base
from messaging.drivers.kombu.connection import KombuConnection
from messaging.drivers.kombu.settings import RedisSettings
from messaging.drivers.kombu.variants import check_variant

__all__ = ["Driver", "RedisSettings"]


class Driver:
    """The driver of `kombu+…://`; RabbitMQ, without a variant, is served by another."""

    schemes: ClassVar[Collection[str]] = ("kombu",)
    options = RedisSettings

    def capabilities(self, settings: RedisSettings) -> base.Capabilities:
        """What redis can do by kombu. Raises InvalidUrl or Unsupported for other variants, with the reason."""
        check_variant(settings.url)
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
        self, settings: RedisSettings, role: base.Role, events: base.ConnectionEvents, services: base.Services
    ) -> KombuConnection:
        """Make a connection; no I/O yet."""
        check_variant(settings.url)
        return KombuConnection(settings, events, services)
