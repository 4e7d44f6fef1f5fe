"""Exceptions across the wire: what a server tells of one, and what a caller makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import errors
from messaging.errors import Delivered, MessagingError, RemoteError
from messaging.rpc.faults import CODES, declared_exceptions, failure_from, full_name, rebuild
from messaging.wire import native


class OutOfStock(Exception):
    """Declared by a service."""

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(sku, left)
        self.sku = sku
        self.left = left


class Discontinued(OutOfStock):
    """A subclass of it, which callers do not know."""


class Awkward(Exception):
    """Its constructor wants something else than its args."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def across(failure: native.Failure) -> native.Failure:
    """The same after a journey."""
    reply = native.decode_reply(native.encode(failure))
    assert isinstance(reply, native.Failure)
    return reply


def told(error: BaseException, declared: tuple[type[BaseException], ...] = (), **options: Any) -> native.Failure:
    """What arrives of an exception that was raised."""
    try:
        raise error
    except BaseException as raised:
        return across(failure_from(raised, declared=declared, server="host-1", **options))


def test_a_declared_exception_comes_as_itself() -> None:
    """With its arguments, and with a RemoteError as its cause that says where it came from; without a traceback, as it
    belongs to the contract.
    """
    error = rebuild(told(OutOfStock("A1", 0), (OutOfStock,)), declared_exceptions([OutOfStock]))
    assert isinstance(error, OutOfStock)
    assert (error.sku, error.left) == ("A1", 0)
    assert isinstance(error.__cause__, RemoteError)
    assert (error.__cause__.server, error.__cause__.trace) == ("host-1", "")


def test_a_subclass_comes_as_the_class_that_was_declared() -> None:
    """The caller does not know the subclass; where it does, it gets it."""
    failure = told(Discontinued("A1", 0), (OutOfStock,))
    assert type(rebuild(failure, declared_exceptions([OutOfStock]))) is OutOfStock
    assert type(rebuild(failure, declared_exceptions([OutOfStock, Discontinued]))) is Discontinued


def test_an_exception_that_this_side_has_not_declared_is_remote() -> None:
    """With class, text and traceback as data, and nothing imported for it; delivered, because its handler ran."""
    error = rebuild(told(ValueError("wrong", 7)), {})
    assert type(error) is RemoteError
    assert (error.type, error.text, error.server) == ("builtins.ValueError", "('wrong', 7)", "host-1")
    assert "raise error" in error.trace
    assert error.delivered is Delivered.YES
    assert type(rebuild(told(OutOfStock("A1", 0), (OutOfStock,)), {})) is RemoteError


def test_a_server_may_keep_its_traceback() -> None:
    """Then it does not travel."""
    assert told(ValueError("wrong"), with_trace=False).trace == ""


def test_classes_are_found_by_their_full_names_first() -> None:
    """The bare name is for services that run as scripts; where two classes share it, it means neither."""

    class Other:
        class OutOfStock(Exception):
            pass

    index = declared_exceptions([OutOfStock, Other.OutOfStock])
    assert index[full_name(OutOfStock)] is OutOfStock
    assert index[full_name(Other.OutOfStock)] is Other.OutOfStock
    script = native.Failure(1, native.Kind.FAILURE, 0, "remote", "__main__.OutOfStock", "", "", ["A1", 0])
    assert type(rebuild(script, declared_exceptions([OutOfStock]))) is OutOfStock
    twins = declared_exceptions([OutOfStock, type("OutOfStock", (Exception,), {"__module__": "elsewhere"})])
    assert type(rebuild(script, twins)) is RemoteError


def test_awkward_exceptions_still_arrive() -> None:
    """One whose constructor does not take its args, one without a text, and one with arguments that cannot travel."""
    awkward = rebuild(told(Awkward(code=3), (Awkward,)), declared_exceptions([Awkward]))
    assert isinstance(awkward, Awkward)
    assert str(awkward) == "code 3"
    mute = rebuild(told(Mute()), {})
    assert isinstance(mute, RemoteError)
    assert "its text cannot be made: ZeroDivisionError" in str(mute)
    unsendable = rebuild(told(KeyError(object()), (KeyError,)), declared_exceptions([KeyError]))
    assert isinstance(unsendable, KeyError)
    assert "object object" in str(unsendable)


@pytest.mark.parametrize(
    "kind", [errors.MethodNotFound, errors.UnsupportedVersion, errors.AccessDenied, errors.BadArguments]
)
def test_refusals_come_as_themselves(kind: type[RemoteError]) -> None:
    """What a server says against a request is its own class, and nothing has run."""
    error = rebuild(told(kind("as it is")), {})
    assert type(error) is kind
    assert str(error) == "as it is"
    assert error.delivered is Delivered.NO
    assert error.server == "host-1"


@pytest.mark.parametrize(
    ("code", "kind", "delivered"),
    [
        ("in_doubt", errors.Rejected, Delivered.MAYBE),
        ("rejected", errors.Rejected, Delivered.NO),
        ("decode", errors.DecodeError, Delivered.NO),
        ("encode", errors.EncodeError, Delivered.YES),
        ("too_large", errors.TooLarge, Delivered.YES),
        ("of a later version", RemoteError, Delivered.YES),
    ],
)
def test_what_a_code_says_of_the_handler(code: str, kind: type[MessagingError], delivered: Delivered) -> None:
    """A code may be about the request or about the result; an unknown one is a RemoteError."""
    error = rebuild(told(ValueError("text"), code=code), {})
    assert type(error) is kind
    assert isinstance(error, MessagingError)
    assert error.delivered is delivered


@given(
    st.sampled_from([*CODES, "", "unknown"]),
    st.text(max_size=60),
    st.text(max_size=60),
    st.none() | st.lists(st.none() | st.integers(-5, 5) | st.text(max_size=5), max_size=4) | st.integers(0, 3),
    st.text(max_size=60) | st.just(full_name(OutOfStock)),
)
def test_whatever_a_server_tells_becomes_an_exception(
    code: str, type: str, text: str, args: Any, declared: str
) -> None:
    """No failure, however odd, makes rebuilding fail or make anything but a known class."""
    failure = native.Failure(1, native.Kind.FAILURE, 0, code, type, text, "", args, "", declared)
    error = rebuild(across(failure), declared_exceptions([OutOfStock, Awkward, KeyError]))
    assert isinstance(error, MessagingError | OutOfStock | Awkward | KeyError)


@given(st.lists(st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.just(object()), max_size=4))
def test_every_exception_can_be_told(args: list[Any]) -> None:
    """Whatever its arguments are, declared or not."""
    for declared in ((), (Exception,)):
        assert told(Exception(*args), declared).type == "builtins.Exception"
