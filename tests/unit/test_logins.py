"""Whether a refused login is tried again."""

from __future__ import annotations

from messaging.drivers.logins import Logins

OLD, NEW = ("ann", "old"), ("ann", "new")


def test_what_stands_in_the_url_is_refused_for_good() -> None:
    """Nobody can be asked for another one."""
    assert Logins().refused(None)


def test_the_same_answer_twice_is_final() -> None:
    """Another one is not, nor is the same one after it, nor after one that was accepted."""
    logins = Logins()
    assert [logins.refused(each) for each in (OLD, NEW, OLD, OLD)] == [False, False, False, True]
    logins.accepted()
    assert [logins.refused(each) for each in (OLD, OLD)] == [False, True]
