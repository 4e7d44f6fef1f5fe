"""What is asked of a broker on a channel, as data: declarations, bindings, consumers.

A topology is made of these, and a client library is asked to carry them out; so neither knows the other, and tests
compare values instead of watching a broker. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = [
    "Answer",
    "Bind",
    "Cancel",
    "ConfirmSelect",
    "Consume",
    "DeclareExchange",
    "DeclareQueue",
    "DeleteQueue",
    "Method",
    "Qos",
    "passive",
]

_NONE: Mapping[str, Any] = MappingProxyType({})


class DeclareExchange(NamedTuple):
    """Make an exchange, or with `passive` only ask whether it is there."""

    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] = _NONE
    passive: bool = False


class DeclareQueue(NamedTuple):
    """Make a queue, or with `passive` only ask whether it is there."""

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Mapping[str, Any] = _NONE
    passive: bool = False


class DeleteQueue(NamedTuple):
    """Delete a queue; `if_unused` and `if_empty` let the broker refuse with 406 where it is in use, or not empty."""

    name: str
    if_unused: bool = False
    if_empty: bool = False


class Bind(NamedTuple):
    """Bind a queue to an exchange."""

    queue: str
    exchange: str
    key: str
    arguments: Mapping[str, Any] = _NONE


class Qos(NamedTuple):
    """Bound what is unsettled of each consumer that is added to the channel after this; 0: unbounded."""

    prefetch: int


class Consume(NamedTuple):
    """Add a consumer. Its `tag` is unique on the channel."""

    queue: str
    tag: str
    no_ack: bool = False
    exclusive: bool = False
    arguments: Mapping[str, Any] = _NONE


class Cancel(NamedTuple):
    """Remove a consumer; what was sent to it before comes before the answer."""

    tag: str


class ConfirmSelect(NamedTuple):
    """Have the broker confirm every message of the channel."""


Method = DeclareExchange | DeclareQueue | DeleteQueue | Bind | Qos | Consume | Cancel | ConfirmSelect


class Answer(NamedTuple):
    """What a broker answers to a method that it has carried out; the counts are those of DeclareQueue."""

    messages: int = 0
    consumers: int = 0


def passive(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """The same for an account that may not declare: it only asks whether everything is there.

    Bindings are left out, because nobody can ask for one.
    """
    return tuple(
        method._replace(passive=True) if isinstance(method, DeclareExchange | DeclareQueue) else method
        for method in methods
        if not isinstance(method, Bind)
    )
