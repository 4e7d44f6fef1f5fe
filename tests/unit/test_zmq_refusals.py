"""The table of refused messages, alone: no sockets."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from messaging.drivers.zmq.frames import BUSY
from messaging.drivers.zmq.link import Link
from messaging.drivers.zmq.refusals import Refusals


class Watched:
    """A message that counts how often somebody asks whether it was withdrawn."""

    looks = 0

    def __init__(self) -> None:
        self.taken_back = False

    @property
    def withdrawn(self) -> bool:
        Watched.looks += 1
        return self.taken_back


def note(refusals: Refusals, number: int) -> list[Any]:
    """Have new messages refused, and return them."""
    link = Link("busy", 0.0)
    made: list[Any] = [Watched() for _ in range(number)]
    for item in made:
        refusals.note(item, link, BUSY)
    return made


def table() -> Refusals:
    """An empty one; it asks its runtime for jitter alone here."""
    runtime: Any = SimpleNamespace(random=random.Random(0).random)
    return Refusals(runtime)


def test_many_refused_messages_are_looked_through_seldom() -> None:
    """With thousands refused, which is when there is no time for it, a new one does not cost a look at all others."""
    refusals = table()
    Watched.looks = 0
    note(refusals, 20_000)
    assert len(refusals) == 20_000
    assert Watched.looks < 3 * 20_000


def test_withdrawn_messages_do_not_pile_up() -> None:
    """What its senders took back while it waited for nobody is let go of."""
    refusals = table()
    for _ in range(20):
        for item in note(refusals, 1000):
            item.taken_back = True
    assert len(refusals) <= 2000
