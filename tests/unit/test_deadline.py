"""Timeouts and the scope in which calls inherit a deadline, without any transport."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import messaging
from messaging.deadline import current_deadline, timeout_seconds
from messaging.errors import ConfigError


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False) | st.integers(1, 10**9))
def test_positive_finite_numbers_are_timeouts(value: float) -> None:
    """Whole ones too; and the result is seconds as a float."""
    assert timeout_seconds(value, 5.0) == float(value)
    assert type(timeout_seconds(value, 5.0)) is float


def test_none_is_the_default() -> None:
    """What was not given is what is configured."""
    assert timeout_seconds(None, 5.0) == 5.0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.inf, "must be finite: every operation ends"),
        (0, "more than 0 seconds"),
        (-1.5, "more than 0 seconds"),
        (math.nan, "must be a number of seconds"),
        ("3", "must be a number of seconds"),
        (True, "must be a number of seconds"),
    ],
)
def test_what_is_no_timeout_is_refused(value: Any, says: str) -> None:
    """The error says what is allowed."""
    with pytest.raises(ConfigError, match=says):
        timeout_seconds(value, 5.0)


def test_blocks_nest_and_end() -> None:
    """An inner block only shortens, a detached one has none, and leaving one gives the outer one back."""
    assert current_deadline() is None
    with messaging.deadline(10):
        outer = current_deadline()
        assert outer is not None
        assert 9.5 < outer - time.monotonic() <= 10
        with messaging.deadline(60):
            assert current_deadline() == outer
        with messaging.deadline(1):
            inner = current_deadline()
            assert inner is not None
            assert inner < outer
            with messaging.detached():
                assert current_deadline() is None
                with messaging.deadline(60):
                    assert (current_deadline() or 0) > outer
            assert current_deadline() == inner
        assert current_deadline() == outer
    assert current_deadline() is None


def test_a_block_that_raises_ends_too() -> None:
    """The scope is left by an exception as by its end."""
    with pytest.raises(ZeroDivisionError):
        with messaging.deadline(5):
            raise ZeroDivisionError
    assert current_deadline() is None


def test_the_scope_belongs_to_its_context() -> None:
    """Another thread has none of it, unless it runs in a copy of the context; tasks inherit it and keep their own."""
    found: list[float | None] = []
    with messaging.deadline(5):
        mine = current_deadline()
        plain = threading.Thread(target=lambda: found.append(current_deadline()))
        context = contextvars.copy_context()
        copied = threading.Thread(target=lambda: found.append(context.run(current_deadline)))
        for thread in (plain, copied):
            thread.start()
            thread.join(5)

        async def child(seconds: float) -> float | None:
            with messaging.deadline(seconds):
                await asyncio.sleep(0)
                return current_deadline()

        async def parent() -> list[float | None]:
            return [*await asyncio.gather(child(60), child(1)), current_deadline()]

        long, short, after = asyncio.run(parent())
    assert found == [None, mine]
    assert long == after == mine
    assert short is not None
    assert mine is not None
    assert short < mine
