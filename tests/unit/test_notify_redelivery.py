"""What becomes of a failed notification: the arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import ConfigError, DecodeError
from messaging.notify import Reject, Retry
from messaging.notify.redelivery import Redelivery


@given(
    attempt=st.integers(1, 10_000),
    backoff=st.floats(0.0, 100.0),
    most=st.floats(0.0, 1000.0),
    jitter=st.floats(0.0, 0.999),
)
def test_delays_grow_and_are_bounded(attempt: int, backoff: float, most: float, jitter: float) -> None:
    """A delay is at least half of what the attempt asks for, doubles, and ends at the maximum."""
    redelivery = Redelivery(None, backoff, most, lambda: jitter)
    bound = min(backoff * 2.0 ** min(attempt - 1, 60), max(backoff, most))
    assert bound * 0.5 <= redelivery.delay(attempt) <= bound


def test_failures_are_repeated_up_to_the_limit() -> None:
    """Any exception, and Retry, up to max_attempts; then the reason says what the last one was."""
    redelivery = Redelivery(3, 1.0, 10.0, lambda: 1.0)
    assert redelivery.judge(ValueError("x"), 1) == (True, 1.0, "ValueError: x")
    assert redelivery.judge(ValueError("x"), 2).delay == 2.0
    assert redelivery.judge(Retry(after=30), 2).delay == 30
    assert redelivery.judge(ValueError("x"), 3) == (False, 0.0, "ValueError: x")
    assert not redelivery.judge(Retry("later", after=30), 3).again


def test_what_will_never_do_is_not_repeated() -> None:
    """Reject, and what does not fit the handler's types, are buried at once."""
    redelivery = Redelivery(3, 1.0, 10.0, lambda: 1.0)
    assert redelivery.judge(Reject("no such sku"), 1) == (False, 0.0, "no such sku")
    assert not redelivery.judge(DecodeError("no int"), 1).again


def test_without_a_limit_it_is_repeated_for_ever() -> None:
    """max_attempts=None never gives up."""
    redelivery = Redelivery(None, 1.0, 10.0, lambda: 1.0)
    assert redelivery.judge(ValueError(), 1_000_000).again
    assert not redelivery.fatal(1_000_000)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0, 1.0, 1.0), "max_attempts"),
        ((1.5, 1.0, 1.0), "max_attempts"),
        ((1, -1.0, 1.0), "backoff"),
        ((1, 1.0, float("inf")), "max_backoff"),
    ],
)
def test_bad_policies_are_refused(arguments: tuple[Any, Any, Any], told: str) -> None:
    """The error names the option."""
    with pytest.raises(ConfigError, match=told):
        Redelivery(*arguments, lambda: 0.0)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf")])
def test_a_retry_needs_a_time_that_comes(after: float) -> None:
    """Retry(after=) is checked where it is raised."""
    with pytest.raises(ConfigError, match="after"):
        Retry(after=after)
