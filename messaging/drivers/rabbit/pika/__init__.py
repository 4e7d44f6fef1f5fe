"""The driver rabbit://: pika as the protocol engine. Nothing beside this package imports pika."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from messaging.drivers import base
from messaging.drivers.rabbit.connection import RabbitConnection
from messaging.drivers.rabbit.driver import broker_capabilities, broker_connection
from messaging.drivers.rabbit.options import RabbitSettings
from messaging.drivers.rabbit.pika.client import PikaClient
from messaging.errors import InvalidUrl

__all__ = ["Driver"]


class Driver:
    """The driver of rabbit://."""

    schemes: ClassVar[Collection[str]] = ("rabbit",)
    options = RabbitSettings

    def capabilities(self, settings: RabbitSettings) -> base.Capabilities:
        """What RabbitMQ can do with these settings. Raises InvalidUrl or ConfigError."""
        if settings.url.variant:
            raise InvalidUrl(f"rabbit:// has no variants; {settings.url.variant!r} is none")
        return broker_capabilities(settings)

    def connect(
        self, settings: RabbitSettings, role: base.Role, events: base.ConnectionEvents, services: base.Services
    ) -> RabbitConnection:
        """Make a connection on pika's protocol engine."""
        return broker_connection(settings, role, events, services, PikaClient)
