"""The tree of errors: what is caught by what, and what each one says of the message."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import messaging
from messaging import errors
from messaging.errors import Delivered, MessagingError, PipelineFailed

NO, MAYBE, YES = Delivered.NO, Delivered.MAYBE, Delivered.YES

TREE: dict[str, tuple[str, ...]] = {
    "ConfigError": ("InvalidUrl", "InvalidTarget", "UnknownDriver", "DriverNotInstalled", "Unsupported",
                    "VersionCapExceeded"),
    "TransportError": ("ConnectFailed", "AuthFailed", "ConnectionLost", "ServerLost", "NoRoute", "Rejected",
                       "Overloaded", "TooLarge"),
    "ConnectFailed": ("AuthFailed",),
    "ConnectionLost": ("ServerLost",),
    "CodecError": ("EncodeError", "DecodeError"),
    "RemoteError": ("MethodNotFound", "UnsupportedVersion", "AccessDenied", "BadArguments"),
    "StateError": ("Closed", "NotStarted", "Forked", "Cancelled"),
}  # fmt: skip
"""What an `except` of the class on the left catches."""

SAYS: dict[str, tuple[Delivered, bool]] = {
    "AuthFailed": (NO, False),
    "BadArguments": (NO, False),
    "Cancelled": (MAYBE, False),
    "Closed": (NO, False),
    "ConfigError": (NO, False),
    "ConnectFailed": (NO, True),
    "ConnectionLost": (MAYBE, True),
    "DeadlineExceeded": (MAYBE, True),
    "DecodeError": (YES, False),
    "EncodeError": (NO, False),
    "Forked": (MAYBE, False),
    "MethodNotFound": (NO, False),
    "NoRoute": (NO, True),
    "Overloaded": (NO, True),
    "Rejected": (NO, False),
    "RemoteError": (YES, False),
    "ServerLost": (MAYBE, True),
    "TooLarge": (NO, False),
    "UnsupportedVersion": (NO, False),
}
"""Whether a handler ran, and whether trying again may help, when nobody says otherwise."""


def kinds() -> list[type[MessagingError]]:
    """Every class of the tree but the group, which is built in another way."""
    found = [getattr(errors, name) for name in errors.__all__]
    return [
        kind
        for kind in found
        if inspect.isclass(kind) and issubclass(kind, MessagingError) and kind is not PipelineFailed
    ]


@pytest.mark.parametrize(("base", "caught"), TREE.items())
def test_what_is_caught_by_what(base: str, caught: tuple[str, ...]) -> None:
    """Each class has its place in the tree, and no others are below it."""
    parent = getattr(errors, base)
    below = {kind.__name__ for kind in kinds() if issubclass(kind, parent) and kind is not parent}
    assert below == set(caught)


def test_errors_are_also_what_python_calls_them() -> None:
    """Code that knows nothing of this library catches them by the built-in classes."""
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.StateError, RuntimeError)
    assert issubclass(PipelineFailed, ExceptionGroup)
    assert issubclass(PipelineFailed, MessagingError)


@pytest.mark.parametrize(("name", "says"), SAYS.items())
def test_what_an_error_says_by_itself(name: str, says: tuple[Delivered, bool]) -> None:
    """The defaults of each class; whoever raises it may know more."""
    kind = getattr(errors, name)
    error = kind("text")
    assert (error.delivered, error.retryable) == says
    assert str(error) == "text"
    knows_more = kind("text", delivered=YES, retryable=True)
    assert (knows_more.delivered, knows_more.retryable) == (YES, True)
    assert (kind("text").delivered, kind("text").retryable) == says


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_errors_can_be_copied_and_carried(kind: type[MessagingError]) -> None:
    """What an error says survives copying and pickling, as between the processes of a pool."""
    error = kind("text", delivered=Delivered.MAYBE, retryable=True)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert str(other) == "text"
        assert (other.delivered, other.retryable) == (Delivered.MAYBE, True)


def test_a_remote_error_tells_what_the_server_told() -> None:
    """Its parts are attributes, and its text is made of them when there is none."""
    error = errors.RemoteError(type="shop.OutOfStock", text="no A1", trace="Traceback", server="host-1")
    assert str(error) == "shop.OutOfStock: no A1"
    assert (error.type, error.text, error.trace, error.server) == ("shop.OutOfStock", "no A1", "Traceback", "host-1")


@pytest.mark.parametrize(
    ("members", "delivered", "retryable"),
    [
        ([errors.NoRoute("a"), errors.Overloaded("b")], NO, True),
        ([errors.NoRoute("a"), errors.Rejected("b")], NO, False),
        ([errors.RemoteError("a")], YES, False),
        ([errors.NoRoute("a"), errors.RemoteError("b")], MAYBE, False),
        ([errors.ServerLost("a"), errors.ServerLost("b")], MAYBE, True),
        ([ValueError("declared by a service")], MAYBE, False),
    ],
)
def test_a_failed_pipeline_says_what_holds_for_all(
    members: list[Exception], delivered: Delivered, retryable: bool
) -> None:
    """Delivered is what all members agree on, else MAYBE; retryable only what all are."""
    failed = PipelineFailed("some failed", members)
    assert (failed.delivered, failed.retryable) == (delivered, retryable)
    assert list(failed.exceptions) == members


def test_a_failed_pipeline_is_split_by_except_star() -> None:
    """Both halves stay what they are, with what holds for each."""
    lost, nobody = errors.ServerLost("lost"), errors.NoRoute("nobody")
    seen: list[BaseException] = []
    try:
        raise PipelineFailed("two failed", [lost, nobody])
    except* errors.NoRoute as group:
        seen.append(group)
    except* MessagingError as group:
        seen.append(group)
    halves = [(list(group.exceptions), group.delivered) for group in seen if isinstance(group, PipelineFailed)]
    assert halves == [([nobody], NO), ([lost], MAYBE)]


def test_the_errors_that_callers_meet_are_in_the_public_face() -> None:
    """What is raised at users is reached as messaging.NAME, but for a few that are caught by their base."""
    by_their_base = {"InvalidUrl", "UnknownDriver", "VersionCapExceeded", "NotStarted"}
    assert set(errors.__all__) - set(messaging.__all__) == by_their_base
