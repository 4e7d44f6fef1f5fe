"""RPC (call, cast, fanout) and notifications over interchangeable transports.

This is the public face; everything else is reached through it, through `messaging.rpc`, `messaging.notify` and
`messaging.aio`. Importing it imports no driver and no client library.
"""

import logging

from messaging.codec import JsonSerializer, Serializer
from messaging.config import Config, load_config
from messaging.deadline import deadline, detached
from messaging.errors import (
    AccessDenied,
    AuthFailed,
    BadArguments,
    Cancelled,
    Closed,
    CodecError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Delivered,
    DriverNotInstalled,
    EncodeError,
    Forked,
    InvalidTarget,
    MessagingError,
    MethodNotFound,
    NoRoute,
    Overloaded,
    PipelineFailed,
    Rejected,
    RemoteError,
    ServerLost,
    StateError,
    TooLarge,
    TransportError,
    Unsupported,
    UnsupportedVersion,
)
from messaging.running import run
from messaging.target import Target
from messaging.transport import Transport, open_transport
from messaging.transports import open_transports

__all__ = [
    "AccessDenied",
    "AuthFailed",
    "BadArguments",
    "Cancelled",
    "Closed",
    "CodecError",
    "Config",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "DecodeError",
    "Delivered",
    "DriverNotInstalled",
    "EncodeError",
    "Forked",
    "InvalidTarget",
    "JsonSerializer",
    "MessagingError",
    "MethodNotFound",
    "NoRoute",
    "Overloaded",
    "PipelineFailed",
    "Rejected",
    "RemoteError",
    "Serializer",
    "ServerLost",
    "StateError",
    "Target",
    "TooLarge",
    "Transport",
    "TransportError",
    "Unsupported",
    "UnsupportedVersion",
    "deadline",
    "detached",
    "load_config",
    "open_transport",
    "open_transports",
    "run",
]

__version__ = "0.1.0"

# A library logs nowhere unless the application says where.
logging.getLogger(__name__).addHandler(logging.NullHandler())
