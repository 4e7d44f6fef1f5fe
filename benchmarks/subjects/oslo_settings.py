"""oslo.messaging as its documentation says to use it: its defaults, and the threading executor."""

from __future__ import annotations

import warnings
from typing import Any

from oslo_config import cfg

with warnings.catch_warnings():
    # It imports a backend that it advises against, which says so at every start.
    warnings.simplefilter("ignore")
    import oslo_messaging

__all__ = ["configuration", "oslo_messaging"]


def configuration() -> Any:
    """The process's configuration, without files and command line; it registers options for tracing there alone."""
    cfg.CONF([], project="bench", default_config_files=[])
    return cfg.CONF
