"""Configuration of a service's transports from a TOML file and the environment.

    [messaging.rpc]                    MESSAGING_RPC_URL=zmq://
    url = "zmq://"                     MESSAGING_RPC_HEARTBEAT=2
    heartbeat = 2
    [messaging.notify]                 MESSAGING_NOTIFY_URL=rabbit://broker/
    url = "rabbit://broker/"

A keyword wins over the URL, the URL over the environment, the environment over the file, the file over the default.
Notifications use the RPC url when they have none of their own. Which options exist is each driver's business; here they
are only collected, with their origin, so that an error can say where a bad one stands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from messaging.errors import ConfigError
from messaging.options import nearest

__all__ = ["Config", "TransportConfig", "load_config"]

_SECTIONS = ("rpc", "notify")
_PREFIX = "MESSAGING_"


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """Where one transport connects to, and its options by origin; the URL is not shown, it may hold a password."""

    url: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    file: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """The transports of a service; `rpc` and `notify` are equal where one transport serves both."""

    rpc: TransportConfig
    notify: TransportConfig


def load_config(path: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Read the configuration from a TOML file (None: only the environment) and the environment (None: the process's
    own).

    Raises ConfigError for a file that cannot be read, an unknown section, a value of the wrong kind, or no RPC url at
    all.
    """
    environment = os.environ if environment is None else environment
    tables = _read_file(path) if path is not None else {}
    rpc = _section("rpc", tables, environment, None)
    if rpc is None:
        looked = f"[messaging.rpc] url in {path}, or " if path is not None else ""
        raise ConfigError(f"no RPC transport is configured; set {looked}MESSAGING_RPC_URL, for example to zmq://")
    notify = _section("notify", tables, environment, rpc)
    return Config(rpc=rpc, notify=notify or rpc)


def _read_file(path: str | os.PathLike[str]) -> Mapping[str, Mapping[str, Any]]:
    import tomllib  # 2 ms that only a file costs

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from error
    tables = document.get("messaging", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"[messaging] in {path} must be a table")
    for name, table in tables.items():
        if name not in _SECTIONS:
            raise ConfigError(
                f"unknown section [messaging.{name}] in {path}{nearest(name, _SECTIONS)}; "
                f"sections: {', '.join(_SECTIONS)}"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"[messaging.{name}] in {path} must be a table")
    return tables


def _section(
    name: str,
    tables: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, str],
    fallback: TransportConfig | None,
) -> TransportConfig | None:
    prefix = f"{_PREFIX}{name.upper()}_"
    from_environment = {
        key[len(prefix) :].lower(): value for key, value in environment.items() if key.startswith(prefix) and value
    }
    from_file = dict(tables.get(name, {}))
    url_in_file = from_file.pop("url", None)
    url = from_environment.pop("url", None) or url_in_file
    if url is None:
        if fallback is None or not (from_environment or from_file):
            return None
        # Options of its own, but no url: the RPC url with these options.
        url = fallback.url
        from_environment = {**fallback.environment, **from_environment}
        from_file = {**fallback.file, **from_file}
    if not isinstance(url, str):
        raise ConfigError(f"[messaging.{name}] url must be a string, not {type(url).__name__}")
    return TransportConfig(url=url, environment=from_environment, file=from_file)
