"""Batches by size and by age, for any arrivals."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from messaging.notify.batch import Assembler

_STEPS = st.lists(st.tuples(st.sampled_from(["add", "look"]), st.floats(0.0, 3.0)), max_size=60)


@given(size=st.integers(1, 7), age=st.floats(0.1, 2.0), steps=_STEPS)
def test_batches_keep_everything_in_order(size: int, age: float, steps: list[tuple[str, float]]) -> None:
    """Whatever comes when, each item is in one batch, in its order; none is longer than the size."""
    assembler = Assembler[int](size, age)
    now = 0.0
    added = 0
    out: list[int] = []
    for what, pause in steps:
        now += pause
        if what == "add":
            assembler.add(added, now)
            added += 1
        for batch in assembler.due(now):
            assert 1 <= len(batch) <= size
            out += batch
    out += assembler.rest()
    assert out == list(range(added))
    assert len(assembler) == 0


@given(size=st.integers(1, 7), age=st.floats(0.1, 2.0), steps=_STEPS)
def test_nothing_waits_too_long(size: int, age: float, steps: list[tuple[str, float]]) -> None:
    """After a look, fewer than a batch wait, and none of them for as long as the age; the next look is told exactly."""
    assembler = Assembler[float](size, age)
    now = 0.0
    for what, pause in steps:
        now += pause
        if what == "add":
            assembler.add(now, now)
        assembler.due(now)
        assert len(assembler) < size
        assert assembler.next_due() > now


@given(size=st.integers(2, 7), age=st.floats(0.1, 2.0))
def test_the_age_counts_from_the_first(size: int, age: float) -> None:
    """A batch that does not fill is complete when its first item is old enough, not its last."""
    assembler = Assembler[str](size, age)
    assembler.add("first", 1.0)
    assert assembler.due(1.0) == []
    assert assembler.next_due() == 1.0 + age
    assert assembler.due(1.0 + age) == [["first"]]
    assert assembler.next_due() == math.inf
