"""From the name of a method to the function that serves it: exposure, access, namespaces, versions and arguments."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from messaging import rpc
from messaging.errors import AccessDenied, BadArguments, ConfigError, MethodNotFound, UnsupportedVersion
from messaging.rpc.dispatcher import EXPOSED, AccessPolicy, Dispatcher, exposure_of
from messaging.target import Target


class Money(msgspec.Struct):
    """A type of an application."""

    amount: int
    currency: str = "EUR"


class Shop:
    """An endpoint with every kind of method."""

    target = Target(namespace="shop", version="1.3", legacy_namespaces=("old-shop",))

    @rpc.expose
    def buy(self, ctxt: dict[str, Any], sku: str, count: int = 1) -> int:
        return count

    @rpc.expose(raises=(KeyError,), delivery="strict")
    def pay(self, ctxt: dict[str, Any], price: Money) -> Money:
        return price

    @rpc.expose
    async def wait(self, ctxt: dict[str, Any]) -> None: ...

    @rpc.expose
    def anything(self, ctxt: dict[str, Any], first: int, **more: Any) -> dict[str, Any]:
        return more

    @rpc.expose
    def untyped(self, ctxt, value=None):  # type: ignore[no-untyped-def]
        return value

    def inner(self, ctxt: dict[str, Any]) -> None: ...

    def _private(self, ctxt: dict[str, Any]) -> None: ...

    @property
    def danger(self) -> None:
        raise AssertionError("a property was run by being looked at")


class NewShop:
    """The next major version of the same namespace."""

    target = Target(namespace="shop", version="2.0")

    @rpc.expose
    def buy(self, ctxt: dict[str, Any], sku: str) -> str:
        return sku


def raw(**values: Any) -> msgspec.Raw:
    """Arguments as they come."""
    return msgspec.Raw(msgspec.msgpack.encode(values))


def found(dispatcher: Dispatcher, name: str, namespace: str | None = "shop", version: str | None = "1.0") -> Any:
    """The method that serves a request."""
    return dispatcher.find(namespace, version, name)


def test_a_method_is_known_with_everything_about_it() -> None:
    """What `expose` and the signature say is there before the first request."""
    dispatcher = Dispatcher([Shop()])
    pay = found(dispatcher, "pay")
    assert (pay.name, pay.namespace, pay.version, pay.is_async) == ("pay", "shop", "1.3", False)
    assert (pay.raises, pay.delivery) == ((KeyError,), "strict")
    assert found(dispatcher, "wait").is_async
    assert {method.name for method in dispatcher.methods} == {"buy", "pay", "wait", "anything", "untyped"}


def test_namespaces_and_versions_choose_the_endpoint() -> None:
    """The first that fits: its namespace or a legacy one, its major and a minor that is not smaller."""
    old, new = Shop(), NewShop()
    dispatcher = Dispatcher([old, new])
    assert found(dispatcher, "buy", version="1.3").function == old.buy
    assert found(dispatcher, "buy", "old-shop", "1.1").function == old.buy
    assert found(dispatcher, "buy", version="2.0").function == new.buy
    assert found(dispatcher, "buy", version=None).function == old.buy
    assert found(dispatcher, "buy") is found(dispatcher, "buy")


@pytest.mark.parametrize(
    ("name", "namespace", "version", "error", "says"),
    [
        ("by", "shop", "1.0", MethodNotFound, "no method 'by' in shop.*did you mean 'buy'"),
        ("buy", "shopp", "1.0", MethodNotFound, "namespaces here: old-shop, shop"),
        ("buy", None, "1.0", MethodNotFound, "no endpoint serves namespace None"),
        ("buy", "shop", "1.4", UnsupportedVersion, "versions here: 1.3, 2.0"),
        ("pay", "shop", "2.0", MethodNotFound, "no method 'pay'"),
        ("buy", "shop", "one", UnsupportedVersion, "malformed version 'one'"),
        ("inner", "shop", "1.0", AccessDenied, "mark it with @rpc.expose"),
        ("_private", "shop", "1.0", MethodNotFound, "no method '_private'"),
        ("__init__", "shop", "1.0", MethodNotFound, "no method"),
        ("danger", "shop", "1.0", MethodNotFound, "no method"),
        ("target", "shop", "1.0", MethodNotFound, "no method"),
    ],
)
def test_what_is_not_served_says_what_is(
    name: str, namespace: str | None, version: str, error: type[Exception], says: str
) -> None:
    """Each reason has an error of its own, with what would be right; what is private is not even admitted."""
    with pytest.raises(error, match=says):
        found(Dispatcher([Shop(), NewShop()]), name, namespace, version)


def test_what_callers_make_up_is_not_remembered() -> None:
    """Names that do not exist leave nothing behind, and versions that fit only up to a bound."""
    dispatcher = Dispatcher([Shop()])
    for number in range(3000):
        with pytest.raises(MethodNotFound):
            found(dispatcher, f"made-up-{number}")
        found(dispatcher, "buy", version=f"1.0.{number}")
    assert len(dispatcher.known) <= 1000


@pytest.mark.parametrize(
    ("policy", "reachable"),
    [
        (rpc.EXPOSED, {"buy", "pay", "wait", "anything", "untyped"}),
        (rpc.PUBLIC_METHODS, {"buy", "pay", "wait", "anything", "untyped", "inner"}),
        (rpc.ALL_METHODS, {"buy", "pay", "wait", "anything", "untyped", "inner", "_private"}),
    ],
)
def test_access_policies(policy: AccessPolicy, reachable: set[str]) -> None:
    """The default opens what is exposed, the predecessor's default what is public, its legacy one everything."""
    assert {method.name for method in Dispatcher([Shop()], policy).methods} == reachable


@pytest.mark.parametrize(
    ("method", "values", "arguments"),
    [
        ("buy", {"sku": "A1"}, {"sku": "A1"}),
        ("buy", {"sku": "A1", "count": 3}, {"sku": "A1", "count": 3}),
        ("pay", {"price": {"amount": 5}}, {"price": Money(5)}),
        ("anything", {"first": 1, "second": [2]}, {"first": 1, "second": [2]}),
        ("untyped", {"value": {"any": b"thing"}}, {"value": {"any": b"thing"}}),
        ("untyped", {}, {}),
        ("wait", {}, {}),
    ],
)
def test_arguments_are_converted_to_what_the_signature_says(
    method: str, values: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """Defaults are the function's own, types are made, and **keywords take the rest."""
    assert found(Dispatcher([Shop()]), method).arguments(raw(**values), {}) == arguments


@pytest.mark.parametrize(
    ("method", "values", "says"),
    [
        ("buy", {"sku": "A1", "cuont": 1}, "unknown argument `cuont`; the method takes: sku, count"),
        ("buy", {}, "missing argument `sku`"),
        ("buy", {"sku": "A1", "count": "3"}, "Expected `int.*in argument `count`"),
        ("buy", {"sku": None}, "Expected `str`, got `None` - in argument `sku`"),
        ("pay", {"price": {"amount": "5"}}, r"in argument `price.amount`"),
        ("wait", {"x": 1}, "unknown argument `x`; the method takes: none"),
        ("anything", {"first": "1"}, "the method takes: first and any other"),
    ],
)
def test_arguments_that_do_not_fit_are_named(method: str, values: dict[str, Any], says: str) -> None:
    """The error says which argument is wrong and what the method takes."""
    with pytest.raises(BadArguments, match=says):
        found(Dispatcher([Shop()]), method).arguments(raw(**values), {})


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81", b"\x81\xa3sku", b"\x91" * 5000])
def test_arguments_that_are_no_map_are_bad_arguments(data: bytes) -> None:
    """Whatever stands where the arguments should."""
    with pytest.raises(BadArguments):
        found(Dispatcher([Shop()]), "buy").arguments(msgspec.Raw(data), {})


def test_endpoints_that_cannot_be_meant_are_refused() -> None:
    """When the server is built, and by what is wrong with them."""

    class Nothing:
        def hidden(self, ctxt: dict[str, Any]) -> None: ...

    class NoContext:
        @rpc.expose
        def forgot(self) -> None: ...

    class Positional:
        @rpc.expose
        def only(self, ctxt: dict[str, Any], value: int, /) -> None: ...

    class Targeted:
        target = "shop"

        @rpc.expose
        def buy(self, ctxt: dict[str, Any]) -> None: ...

    for endpoint, says in (
        (Nothing(), "exposes no method; mark those for callers with @rpc.expose"),
        (NoContext(), "must take the context as its first argument"),
        (Positional(), "argument 'value' is positional only"),
        (Targeted(), "must be a messaging.Target"),
    ):
        with pytest.raises(ConfigError, match=says):
            Dispatcher([endpoint])
    with pytest.raises(ConfigError, match="endpoints must be a list"):
        Dispatcher("Shop")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delivery": "twice"}, "delivery must be one of at_most_once, strict, at_least_once, not 'twice'"),
        ({"raises": (ValueError("an instance"),)}, "raises= takes exception classes"),
        ({"raises": ("ValueError",)}, "raises= takes exception classes"),
    ],
)
def test_what_expose_refuses(options: dict[str, Any], says: str) -> None:
    """A wrong option is an error where it is written."""
    with pytest.raises(ConfigError, match=says):
        rpc.expose(**options)


def test_expose_leaves_the_function_as_it_is() -> None:
    """It only marks it, with and without parentheses."""

    def plain(self: Any, ctxt: Any) -> None: ...

    assert exposure_of(plain) is None
    assert rpc.expose(plain) is plain
    assert rpc.expose()(plain) is plain
    assert exposure_of(plain) is not None
    assert EXPOSED(Shop(), "buy")
    assert not EXPOSED(Shop(), "inner")
    assert not EXPOSED(Shop(), "absent")
