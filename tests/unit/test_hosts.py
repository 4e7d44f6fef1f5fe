"""Which host is next, and which of its addresses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messaging.drivers.hosts import Hosts
from messaging.url import Host


def _hosts(names: str = "a", draw: float = 0.0) -> Hosts:
    return Hosts([Host(name) for name in names], lambda: draw)


def test_hosts_take_turns_from_one_drawn_by_lot() -> None:
    """Each is tried once before one is tried again, whichever is the first."""
    for draw, wanted in ((0.0, "abcab"), (0.5, "bcabc"), (0.99, "cabca")):
        hosts = _hosts("abc", draw)
        assert "".join(hosts.next().name for _ in wanted) == wanted


def test_the_next_host_of_a_round_follows_soon() -> None:
    """However long the outage: the pause grows from round to round alone, and begins afresh when all is back."""
    hosts = _hosts("abc", 0.5)
    delays = [round(hosts.delay(), 6) for _ in range(9)]
    assert delays == [0.025, 0.025, 0.025, 0.025, 0.025, 0.05, 0.025, 0.025, 0.1]
    hosts.delay()
    hosts.whole_again()
    assert [round(hosts.delay(), 6) for _ in range(6)] == delays[:6]


def test_the_pauses_of_one_host_grow() -> None:
    """It is a round by itself."""
    hosts = _hosts("a", 0.5)
    assert [round(hosts.delay(), 6) for _ in range(4)] == [0.025, 0.05, 0.1, 0.2]


def test_addresses_stay_in_their_order() -> None:
    """That of the resolver, which has its reasons, while each of them answers."""
    assert _hosts().in_turn("cab") == ["c", "a", "b"]


def test_silent_addresses_are_tried_last() -> None:
    """Behind all that were never silent, and among themselves the one that was silent the longest time ago first."""
    hosts = _hosts()
    for place, wanted in (("c", "dabec"), ("a", "dbeca"), ("c", "dbeac")):
        hosts.silent(place)
        assert "".join(hosts.in_turn("cdabe")) == wanted
    assert hosts.in_turn("xy") == ["x", "y"]


@given(st.integers(1, 40), st.integers(0, 39))
def test_the_only_address_that_answers_is_found(count: int, good: int) -> None:
    """Where each attempt has the time for one address alone, as many attempts as there are addresses find it."""
    hosts, good = _hosts(), good % count
    tried = []
    while good not in tried:
        tried.append(hosts.in_turn(range(count))[0])
        hosts.silent(tried[-1])
    assert len(tried) <= count


def test_silences_are_forgotten_in_the_end() -> None:
    """A name whose addresses are others each time costs no memory: what was noted long ago goes."""
    hosts = _hosts()
    for place in range(5000):
        hosts.silent(place)
    assert len(hosts._silent) <= 1000
    assert hosts.in_turn([4999, 0]) == [0, 4999]
