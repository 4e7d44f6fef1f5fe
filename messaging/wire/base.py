"""What the patterns ask of a wire format: how their messages become bytes, and what that format can carry at all.

A transport holds one `Wire`, chosen by its options. The patterns (RPC, notifications) speak in the bodies of
`wire.native` (RequestBody, Result, Failure, Notification, ...), which are plain values; a wire turns them into bytes
and back. It knows nothing of transports, threads and endpoints.

The library's own format keeps ids, levels and addresses outside of the body, where brokers can use them. A format that
keeps them inside says so twice: `seal` completes a message when its ids are known, and an `Opener` looks into what has
come, so that the delivery has the headers and the reply address which the patterns go by.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from messaging.errors import Unsupported
from messaging.message import Delivery, Outgoing
from messaging.wire.native import Failure, Notification, Ping, Request, RequestBody, Result

__all__ = ["Contents", "OpenedBatch", "Opener", "Ping", "Wire", "check_headers", "with_headers"]

Contents = Literal["requests", "answers", "notifications"]


class OpenedBatch(NamedTuple):
    """A batch that was looked into: what can be read, and what cannot."""

    readable: Sequence[Delivery]
    unreadable: Sequence[Delivery]


Opener = Callable[[Sequence[Delivery]], OpenedBatch]
"""Looks into the deliveries of one source, in their order; it may keep what it needs to remember between them."""


class Wire(Protocol):
    """One wire format. Thread-safe, but for the openers that it makes."""

    @property
    def name(self) -> str:
        """The name by which a URL chooses it."""

    @property
    def exchange(self) -> str:
        """The exchange of targets that name none."""

    @property
    def silence(self) -> float:
        """Seconds of silence after which a server that has a call counts as lost, where its client does not say; 0:
        never.
        """

    @property
    def least_silence(self) -> float:
        """The shortest `call_monitor_timeout`, in seconds, that its servers can keep."""

    @property
    def tells_acceptance(self) -> bool:
        """Whether servers say that they have a call. Else its silence counts from when the broker has taken it."""

    @property
    def context_headers(self) -> frozenset[str] | None:
        """Names of the headers that travel, inside of the context, because nothing travels beside it; None: all
        headers travel, and the keys of notifications with them.
        """

    @property
    def has_mailboxes(self) -> bool:
        """Whether its servers read what was stored for them."""

    @property
    def ping(self) -> Ping:
        """How a server is asked whether it answers at all."""

    @property
    def remembers(self) -> int:
        """How many ids of finished requests a server keeps, because senders repeat messages; 0: they do not."""

    # RPC, from a client

    @property
    def encode_request(self) -> Callable[[RequestBody], bytes]:
        """Write a call or a cast. Raises TypeError, ValueError or another error of a value that has no form."""

    def interval(self, silence: float) -> float:
        """The `monitor` of a request whose client bears so many seconds of silence."""

    @property
    def seal(self) -> Callable[[Outgoing], None] | None:
        """Complete a message of `encode_request` or `encode_notification` before it is published; None: it is
        complete.
        """

    @property
    def kind_of(self) -> Callable[[bytes], int]:
        """The Kind of what came to a reply address, 0 for what is none."""

    @property
    def decode_reply(self) -> Callable[[bytes], Result | Failure]:
        """Read an answer. Raises DecodeError."""

    @property
    def decode_control(self) -> Callable[[bytes], Any]:
        """Read what came to a reply address and is no answer: Accepted, Alive or Cancel. Raises DecodeError."""

    def encode_cancel(self, ids: Sequence[str]) -> bytes | None:
        """Write that nobody waits for these calls any more; None: the format cannot say so."""

    # RPC, from a server

    @property
    def decode_request(self) -> Callable[[bytes], Request]:
        """Read a call or a cast. Its `args` are msgspec.Raw, or a dict of plain values. Raises DecodeError."""

    def encode_answer(self, answer: Result | Failure, request: bytes, error: BaseException | None = None) -> bytes:
        """Write the answer to a request, given its body or that of another answer to it; `error` is what a Failure was
        made of. Raises EncodeError.
        """

    def encode_accepted(self, address: str, server: str) -> bytes | None:
        """Write that a server has a call in hand; None: the format cannot say so."""

    def encode_alive(self, ids: Sequence[str], server: str) -> Iterable[bytes]:
        """Write that calls are still running: one message for all of them, or one for each."""

    # Notifications

    @property
    def decode_notification(self) -> Callable[[bytes], Notification]:
        """Read a notification. Raises DecodeError."""

    @property
    def encode_notification(self) -> Callable[[Notification], bytes]:
        """Write a notification. Raises TypeError, ValueError or another error of a value that has no form."""

    def new_message_id(self) -> str | None:
        """A message id as notifications of this format have it; None: any will do."""

    def topic(self, topic: str, level: str) -> str:
        """The topic by which notifications of a level are routed."""

    def topics(self, topic: str, levels: Collection[str]) -> Sequence[str]:
        """The topics of which a listener hears for these levels."""

    # Both

    def opener(self, contents: Contents) -> Opener | None:
        """Make what has to look into deliveries before the patterns can go by them; None: nothing."""

    def unique_id(self, body: bytes) -> str:
        """What tells a message from its own repetition, of a body that was opened; empty: nothing does."""


def check_headers(wire: Wire, headers: Mapping[str, Any]) -> None:
    """Refuse headers that would not arrive. Raises Unsupported."""
    if wire.context_headers is not None:
        for header in headers:
            if header not in wire.context_headers:
                raise Unsupported(f"wire={wire.name} carries no headers: put {header!r} into the context")


def with_headers(wire: Wire, context: dict[str, Any], headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the context with the headers in it that travel there."""
    if wire.context_headers is None:
        return context
    return {**context, **{name: headers[name] for name in headers if name in wire.context_headers}}
