"""Every error of the library, in one tree and in one file.

    MessagingError                .delivered NO | MAYBE | YES, .retryable
      ConfigError (ValueError)      what was written is wrong; nothing was sent
        InvalidUrl  InvalidTarget  UnknownDriver  DriverNotInstalled  Unsupported  VersionCapExceeded
      TransportError                the transport could not carry the message
        ConnectFailed > AuthFailed
        ConnectionLost > ServerLost
        NoRoute  Rejected  Overloaded  TooLarge
      DeadlineExceeded (TimeoutError)   .phase tells what was being waited for
      CodecError                    EncodeError  DecodeError
      RemoteError                   the other side answered with an error
        MethodNotFound  UnsupportedVersion  AccessDenied  BadArguments
      StateError (RuntimeError)     Closed  NotStarted  Forked  Cancelled
      PipelineFailed (ExceptionGroup)

A caller has one question that only the library can answer: did a handler run? So each error carries `delivered`, and
only `Delivered.NO` allows sending again without asking anybody. This file knows nothing of transports; the others
translate into it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar, Self

__all__ = [
    "AccessDenied",
    "AuthFailed",
    "BadArguments",
    "Cancelled",
    "Closed",
    "CodecError",
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
    "InvalidUrl",
    "MessagingError",
    "MethodNotFound",
    "NoRoute",
    "NotStarted",
    "Overloaded",
    "PipelineFailed",
    "Rejected",
    "RemoteError",
    "ServerLost",
    "StateError",
    "TooLarge",
    "TransportError",
    "UnknownDriver",
    "Unsupported",
    "UnsupportedVersion",
    "VersionCapExceeded",
]


class Delivered(enum.Enum):
    """What is known about a message that ended in an error."""

    NO = "no"
    """No handler ran or will run: sending again is safe."""
    MAYBE = "maybe"
    """The proof is missing either way: only an idempotent operation may be sent again."""
    YES = "yes"
    """A handler ran, or a broker has stored the message."""


class MessagingError(Exception):
    """Base of all errors of this library.

    `delivered` says whether a handler ran (see `Delivered`); `retryable` whether the same operation may succeed later
    without anybody changing anything. Both are class defaults that a raiser may override.
    """

    _delivered: ClassVar[Delivered] = Delivered.NO
    _retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, delivered: Delivered | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.delivered = self._delivered if delivered is None else delivered
        self.retryable = self._retryable if retryable is None else retryable


class ConfigError(MessagingError, ValueError):
    """An option, a URL or an argument is wrong; the message names it, what is allowed, and the cure."""


class InvalidUrl(ConfigError):
    """The transport URL cannot be understood."""


class InvalidTarget(ConfigError):
    """A target lacks a part that this operation needs, or a part is malformed."""


class UnknownDriver(ConfigError):
    """No driver has this URL scheme; the message names the nearest known one."""


class DriverNotInstalled(ConfigError):
    """The driver's client library is missing; the message is the pip command that installs it."""


class Unsupported(ConfigError):
    """This transport cannot do what was asked, and says so before anything is sent."""


class VersionCapExceeded(ConfigError):
    """The client is capped to versions that do not include the one that this call needs."""


class TransportError(MessagingError):
    """The transport could not carry the message."""

    _retryable = True


class ConnectFailed(TransportError):
    """No connection could be made (refused, unreachable, or no peer answered the greeting)."""


class AuthFailed(ConnectFailed):
    """The peer refused the credentials. It is not retried: the same credentials would be refused again."""

    _retryable = False


class ConnectionLost(TransportError):
    """The connection broke while the message was under way."""

    _delivered = Delivered.MAYBE


class ServerLost(ConnectionLost):
    """The server that had taken the message is gone, or has stopped telling that it is alive."""


class NoRoute(TransportError):
    """Nobody listens there, and the transport said so."""


class Rejected(TransportError):
    """The peer refused the message and gave a reason."""

    _retryable = False


class Overloaded(TransportError):
    """Every server that could have taken the message, or the local buffer, is full."""


class TooLarge(TransportError):
    """The encoded message is larger than this transport carries."""

    _retryable = False


class DeadlineExceeded(MessagingError, TimeoutError):
    """The deadline passed. `phase` says what was being waited for when it did.

    Phases: `connect` (no connection), `send` (not written), `accept` (written, but nobody has said that it is in hand),
    `reply` (a server has it, but has not answered), `silent` (written, on a transport where nobody tells more).
    """

    _delivered = Delivered.MAYBE
    _retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        phase: str = "silent",
        delivered: Delivered | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, delivered=delivered, retryable=retryable)
        self.phase = phase


class CodecError(MessagingError):
    """Bytes and values do not fit together."""


class EncodeError(CodecError):
    """A value cannot be written to the wire; the message names the argument and its type."""


class DecodeError(CodecError):
    """Received bytes, or a received value, are not what was expected."""

    _delivered = Delivered.YES


class RemoteError(MessagingError):
    """The server answered with an exception that is not declared on this side.

    `type` is the remote class by its full name, `text` its message, `trace` the remote traceback as text (empty where
    the server keeps it to itself), `server` the name of the server that answered.
    """

    _delivered = Delivered.YES

    def __init__(
        self,
        message: str = "",
        *,
        type: str = "",
        text: str = "",
        trace: str = "",
        server: str = "",
        delivered: Delivered | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message or f"{type}: {text}", delivered=delivered, retryable=retryable)
        self.type = type
        self.text = text
        self.trace = trace
        self.server = server


class MethodNotFound(RemoteError):
    """The server has no method of this name in this namespace and version."""

    _delivered = Delivered.NO


class UnsupportedVersion(RemoteError):
    """The server has the namespace, but no compatible version."""

    _delivered = Delivered.NO


class AccessDenied(RemoteError):
    """The method exists, but is not exposed to callers."""

    _delivered = Delivered.NO


class BadArguments(RemoteError):
    """The arguments do not fit the method's signature or its annotations."""

    _delivered = Delivered.NO


class StateError(MessagingError, RuntimeError):
    """The object is not in a state in which this may be done."""


class Closed(StateError):
    """The transport, client or server was closed."""


class NotStarted(StateError):
    """The server or listener was not started."""


class Forked(StateError):
    """The object was inherited by a forked child, where its threads and sockets do not exist."""

    _delivered = Delivered.MAYBE


class Cancelled(StateError):
    """The operation was cancelled by its caller."""

    _delivered = Delivered.MAYBE


class PipelineFailed(ExceptionGroup[Exception], MessagingError):
    """Some operations of a pipeline failed. Each member has `.index`, the position of its operation, counted from 0."""

    def __new__(cls, message: str, errors: Sequence[Exception]) -> Self:
        """Build the group; `delivered` is the most uncertain of its members'."""
        group = super().__new__(cls, message, errors)
        known = {getattr(error, "delivered", Delivered.MAYBE) for error in errors}
        group.delivered = known.pop() if len(known) == 1 else Delivered.MAYBE
        group.retryable = all(getattr(error, "retryable", False) for error in errors)
        return group

    def __init__(self, message: str, errors: Sequence[Exception]) -> None:
        # MessagingError.__init__ would replace what __new__ has worked out.
        pass

    def derive(self, errors: Sequence[Any], /) -> Any:
        """Keep the class when the group is split by `except*`."""
        return PipelineFailed(self.message, errors)
