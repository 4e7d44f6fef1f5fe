"""Counts that several threads add to, and none of which is lost."""

from __future__ import annotations

import sys
import threading

from messaging.counters import OUTCOMES, Counters, Tally


def test_no_count_is_lost_between_threads() -> None:
    """Eight threads add to one tally, with the interpreter switching between them all the time."""
    tally = Tally()
    barrier = threading.Barrier(8)

    def add() -> None:
        barrier.wait(10)
        for _ in range(20_000):
            tally.add()

    threads = [threading.Thread(target=add) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(before)
    assert int(tally) == 160_000


def test_many_are_added_at_once() -> None:
    """They count like as many single ones, none included."""
    tally = Tally()
    tally.add_many(250)
    tally.add_many(0)
    tally.add()
    assert int(tally) == 251


def test_reading_a_tally_does_not_count() -> None:
    """It begins at 0 and can be read as often as one likes."""
    tally = Tally()
    assert [int(tally), int(tally)] == [0, 0]
    tally.add()
    assert [int(tally), int(tally)] == [1, 1]


def test_one_name_is_one_tally_whoever_asks_first() -> None:
    """Threads that ask for a name at the same moment get the same tally, so no count goes to one that nobody reads."""
    for _ in range(200):
        counters = Counters()
        barrier = threading.Barrier(4)

        def add(counters: Counters = counters, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            counters.add("call.sent")

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert counters.snapshot() == {"call.sent": 4}


def test_a_snapshot_is_sorted_and_stays_as_it_was() -> None:
    """All names in alphabetical order, those that were asked for and never counted included."""
    counters = Counters()
    for name in ("b", "a", "b"):
        counters.add(name)
    counters.tally("c")
    snapshot = counters.snapshot()
    assert list(snapshot.items()) == [("a", 1), ("b", 2), ("c", 0)]
    counters.add("a")
    assert snapshot["a"] == 1


def test_the_outcomes_have_one_name_each() -> None:
    """They are summed, so none may stand there twice."""
    assert len(set(OUTCOMES)) == len(OUTCOMES)
