"""Confirmations and returns, matched to their messages: out of order, many at a time, and never."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from messaging.drivers.rabbit.confirms import Confirmed, Confirms, Unconfirmed


def written(count: int) -> Confirms[int]:
    confirms: Confirms[int] = Confirms()
    for number in range(1, count + 1):
        confirms.written(number, f"id-{number}")
    return confirms


def test_a_multiple_confirmation_takes_all_up_to_its_tag() -> None:
    """What stands before it goes, oldest first; what stands behind it stays."""
    confirms = written(5)
    assert [told.item for told in confirms.confirmed(3, True, True)] == [1, 2, 3]
    assert len(confirms) == 2


def test_a_later_confirmation_may_come_first() -> None:
    """A single tag says nothing about smaller ones, and a multiple one skips what has gone before it."""
    confirms = written(4)
    assert [told.item for told in confirms.confirmed(3, False, True)] == [3]
    assert [told.item for told in confirms.confirmed(4, True, True)] == [1, 2, 4]
    assert confirms.confirmed(3, False, True) == []


def test_tag_zero_means_all() -> None:
    """As the protocol says."""
    assert [told.item for told in written(3).confirmed(0, True, False)] == [1, 2, 3]


def test_what_came_back_is_told_with_its_confirmation() -> None:
    """A return goes by message id, comes before the confirmation, and concerns that message alone."""
    confirms = written(3)
    assert confirms.returned("id-2", "NO_ROUTE")
    assert not confirms.returned("never sent", "NO_ROUTE")
    assert confirms.confirmed(3, True, True) == [
        Confirmed(1, True, None),
        Confirmed(2, True, "NO_ROUTE"),
        Confirmed(3, True, None),
    ]


def test_the_same_id_twice_is_the_later_message() -> None:
    """A message that is sent again keeps its id: what comes back is the one under way."""
    confirms: Confirms[str] = Confirms()
    confirms.written("first", "same")
    assert confirms.confirmed(1, False, True) == [Confirmed("first", True, None)]
    confirms.written("second", "same")
    confirms.returned("same", "NO_ROUTE")
    assert confirms.confirmed(2, False, True) == [Confirmed("second", True, "NO_ROUTE")]


def test_a_new_channel_counts_from_one() -> None:
    """What was under way is handed back, and tags begin anew."""
    confirms = written(3)
    assert confirms.lose() == [1, 2, 3]
    confirms.written(7, "id")
    assert [told.item for told in confirms.confirmed(1, False, True)] == [7]


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_each_message_is_told_once(count: int, choice: random.Random) -> None:
    """Whatever order and grouping a broker chooses, no message is told twice and none is forgotten."""
    confirms = written(count)
    told = []
    while len(confirms):
        told += [each.item for each in confirms.confirmed(choice.randint(1, count), choice.random() < 0.3, True)]
    assert sorted(told) == list(range(1, count + 1))


def test_what_is_finished_is_forgotten_in_time() -> None:
    """Nobody confirms these: the table does not grow beyond twice what is under way."""
    finished: set[int] = set()
    unconfirmed: Unconfirmed[int] = Unconfirmed(lambda number: number in finished)
    for number in range(20_000):
        unconfirmed.written(number, str(number))
        finished.add(number - 10)
    assert len(unconfirmed) < 3_000
    assert unconfirmed.returned("19999") == 19_999
    assert unconfirmed.returned("1") is None
    assert unconfirmed.lose()[-9:] == list(range(19_990, 19_999))


def test_the_newest_stay_though_nobody_waits_for_them() -> None:
    """Whatever has just been written is there when its channel is closed for it, also right after others went."""
    unconfirmed: Unconfirmed[int] = Unconfirmed(lambda number: True)
    for number in range(3_000):
        unconfirmed.written(number, str(number))
        kept = [*unconfirmed._by_id.values()]
        assert kept[-100:] == list(range(max(0, number - 99), number + 1))
