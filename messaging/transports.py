"""The two transports of a service, opened from its configuration: one object where both are the same."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from messaging.config import Config, TransportConfig
from messaging.transport import Transport

__all__ = ["Transports", "open_transports"]


def open_configured(config: TransportConfig) -> Transport:
    """Open the transport of one section."""
    return Transport(config.url, environment=config.environment, file=config.file)


class Transports:
    """`rpc` and `notify`, to be used in a `with` block; the same object where the configuration is the same."""

    def __init__(self, config: Config) -> None:
        self.rpc = open_configured(config.rpc)
        try:
            self.notify = self.rpc if config.notify == config.rpc else open_configured(config.notify)
        except BaseException:
            self.rpc.close(0.0)
            raise

    def close(self, grace: float = 5.0) -> None:
        """Close both, each within `grace` seconds. Idempotent."""
        self.rpc.close(grace)
        self.notify.close(grace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_transports(config: Config) -> Transports:
    """Open the transports of a configuration (see `load_config`); nothing is connected before it is needed.

    Raises InvalidUrl, UnknownDriver, DriverNotInstalled or ConfigError, naming where the wrong value stands.
    """
    return Transports(config)
