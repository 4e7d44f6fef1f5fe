"""When a table is looked through."""

from __future__ import annotations

from messaging.drivers.sweep import Sweep


def test_a_look_is_due_when_there_are_twice_as_many() -> None:
    """At the least number first, then at twice what was left, and never below the least."""
    sweep = Sweep(10)
    assert [sweep.is_due(size) for size in (9, 10)] == [False, True]
    sweep.done(8)
    assert [sweep.is_due(size) for size in (15, 16)] == [False, True]
    sweep.done(2)
    assert [sweep.is_due(size) for size in (9, 10)] == [False, True]
