"""The driver kombu://: kombu's py-amqp as the protocol engine, under everything that rabbit:// is made of.

Nothing beside this package imports kombu for RabbitMQ; kombu's other transports (kombu+redis://) are a driver of their
own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from messaging.drivers import base
from messaging.drivers.rabbit.connection import RabbitConnection
from messaging.drivers.rabbit.driver import broker_capabilities, broker_connection
from messaging.drivers.rabbit.kombu.client import KombuClient
from messaging.drivers.rabbit.kombu.versions import check_versions
from messaging.drivers.rabbit.options import RabbitSettings

__all__ = ["Driver"]


class Driver:
    """The driver of kombu://."""

    schemes: ClassVar[Collection[str]] = ("kombu",)
    options = RabbitSettings

    def capabilities(self, settings: RabbitSettings) -> base.Capabilities:
        """What RabbitMQ can do with these settings. Raises InvalidUrl, or ConfigError, also for versions of kombu and
        py-amqp that it does not know.
        """
        check_versions()
        return broker_capabilities(settings)

    def connect(
        self, settings: RabbitSettings, role: base.Role, events: base.ConnectionEvents, services: base.Services
    ) -> RabbitConnection:
        """Make a connection on py-amqp as the protocol engine."""
        check_versions()
        return broker_connection(settings, role, events, services, KombuClient)
