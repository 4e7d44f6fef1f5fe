"""Contexts and values on their way through clients and servers: providers, serializers, headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

import messaging
from messaging import Target, rpc
from messaging.errors import ConfigError, EncodeError


class Money:
    """A value that msgpack does not know."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


class MoneySerializer:
    """Writes Money as a dict, and a context as one that says so."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        return {"cents": entity.cents} if isinstance(entity, Money) else entity

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        return Money(entity["cents"]) if isinstance(entity, dict) and "cents" in entity else entity

    def serialize_context(self, ctxt: Any) -> dict[str, Any]:
        return {"user": str(ctxt)}

    def deserialize_context(self, ctxt: dict[str, Any]) -> Any:
        return f"user {ctxt['user']}"


class Bank:
    """Tells what came."""

    @rpc.expose
    def double(self, ctxt: Any, money: Any) -> Any:
        return Money(money.cents * 2)

    @rpc.expose
    def who(self, ctxt: Any) -> Any:
        return ctxt


TARGET = Target(topic="bank", server="host-1")


@pytest.fixture
def transport() -> Iterator[messaging.Transport]:
    """A private hub."""
    with messaging.open_transport("memory://") as opened:
        yield opened


def test_a_serializer_of_both_sides_carries_foreign_values(transport: messaging.Transport) -> None:
    """Arguments, results and contexts arrive as what the serializer makes of them."""
    with rpc.Server(transport, TARGET, [Bank()], serializer=MoneySerializer()):
        client = rpc.Client(transport, TARGET, serializer=MoneySerializer(), timeout=5)
        assert client.call("eve", "double", money=Money(21)) == Money(42)  # type: ignore[call-overload]
        assert client.call("eve", "who") == "user eve"  # type: ignore[call-overload]


def test_without_a_serializer_foreign_values_are_refused(transport: messaging.Transport) -> None:
    """A value that cannot be written is named before anything is sent, and so is a context that is no mapping."""
    client = rpc.Client(transport, TARGET, timeout=5)
    with pytest.raises(EncodeError, match=r"argument 'money' of type Money.*set a serializer"):
        client.call(None, "double", money=Money(1))
    with pytest.raises(ConfigError, match="the context must be a mapping or None"):
        client.call("eve", "who")  # type: ignore[call-overload]
    assert transport.stats().get("call.sent", 0) == 0


def test_a_provider_gives_the_context_where_none_is_passed(transport: messaging.Transport) -> None:
    """It is asked for each operation; a context that is passed goes before it."""
    users = iter(["ann", "ben"])
    with rpc.Server(transport, TARGET, [Bank()]):
        client = rpc.Client(transport, TARGET, context=lambda: {"user": next(users)}, timeout=5)
        assert client.call(None, "who") == {"user": "ann"}
        assert client.call({"user": "eve"}, "who") == {"user": "eve"}
        assert client.call(None, "who") == {"user": "ben"}


def test_the_json_serializer_gives_what_json_can_hold(transport: messaging.Transport) -> None:
    """Keys become text, and a value without a JSON form is an EncodeError."""
    with rpc.Server(transport, TARGET, [Bank()], access=rpc.PUBLIC_METHODS):
        client = rpc.Client(transport, TARGET, serializer=messaging.JsonSerializer(), timeout=5)
        assert client.call({"a": 1}, "who") == {"a": 1}
        with pytest.raises(EncodeError, match="no JSON form"):
            client.call(None, "double", money=object())


@dataclass
class Point:
    """Travels by its fields."""

    x: int


def test_without_annotations_values_arrive_plain(transport: messaging.Transport) -> None:
    """Sets and tuples become lists, dataclasses dicts, times without a zone text; bytes and times with one stay."""

    class Mirror:
        @rpc.expose
        def look(self, ctxt: dict[str, Any], value: Any) -> Any:
            return value

    noon = datetime(2030, 5, 17, 12, tzinfo=UTC)
    local = noon.replace(tzinfo=None)
    with rpc.Server(transport, TARGET, [Mirror()]):
        client = rpc.Client(transport, TARGET, timeout=5)
        got = client.call(None, "look", value=[{1}, (2, 3), noon, local, Point(4), b"5", {6: None}])
    assert got == [[1], [2, 3], noon, "2030-05-17T12:00:00", {"x": 4}, b"5", {6: None}]
