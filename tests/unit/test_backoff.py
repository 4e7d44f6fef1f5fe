"""Delays between attempts: exponential, with full jitter, bounded, and reset on purpose only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messaging.backoff import Backoff


def test_the_bound_doubles_up_to_the_maximum() -> None:
    """With the largest draw the delays show their bounds."""
    backoff = Backoff(0.1, 1.0, lambda: 1.0)
    assert [round(backoff.next(), 6) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_reset_begins_anew() -> None:
    """After a reset the first bound is the initial one."""
    backoff = Backoff(0.1, 1.0, lambda: 1.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 0.1


def test_the_jitter_is_full() -> None:
    """A delay may be anything from nothing to its bound, so that a thousand clients do not come back together."""
    draws = iter([0.0, 0.5, 1.0])
    backoff = Backoff(1.0, 8.0, lambda: next(draws))
    assert [backoff.next() for _ in range(3)] == [0.0, 1.0, 4.0]
    delays = [Backoff(1.0).next() for _ in range(2000)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95
    assert 0.45 < sum(delays) / len(delays) < 0.55


@given(st.floats(1e-6, 10.0), st.floats(1.0, 100.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_no_delay_is_beyond_its_bounds(initial: float, factor: float, draws: list[float]) -> None:
    """Whatever is drawn: never negative, never above the maximum."""
    source = iter(draws)
    backoff = Backoff(initial, initial * factor, lambda: next(source))
    for _ in draws:
        assert 0.0 <= backoff.next() <= initial * factor
