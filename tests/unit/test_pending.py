"""The table of operations under way: each ends once, whoever comes, and none outlives its deadline unnoticed."""

from __future__ import annotations

import math
import random
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.counters import OUTCOMES
from messaging.errors import (
    AuthFailed,
    Cancelled,
    Closed,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Delivered,
    EncodeError,
    Forked,
    MethodNotFound,
    NoRoute,
    Overloaded,
    RemoteError,
    ServerLost,
)
from messaging.message import Outgoing, Route, Stage
from messaging.notify.session import Sending
from messaging.pending import Operation, Pending, deadline_error, outcome_of
from messaging.rpc.session import Request
from messaging.target import Target


def operation(id: str, deadline: float = math.inf, wake: Callable[[], object] = bool) -> Operation:
    """An operation that was published and not written."""
    made = Operation(id=id, kind="call", timeout=1.0, deadline=deadline, wake=wake)
    made.outgoing = Outgoing(Route.any("x", "t"), b"", {})
    return made


class _Watched:
    """A message whose stage may be looked at only when it was withdrawn."""

    withdrawn = False

    @property
    def stage(self) -> Stage:
        assert self.withdrawn, "a driver may write it after this look"
        return Stage.WRITTEN


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Operation, {}),
        (Request, {"session": None, "method": "m", "target": Target(topic="t", exchange="x"), "policy": None}),
        (Sending, {"session": None, "topic": "t", "retry": None}),
    ],
)
def test_the_deadline_takes_a_message_back_before_its_stage_is_looked_at(
    kind: type[Operation], fields: dict[str, Any]
) -> None:
    """The owner may be writing it on another thread: whatever is told as not written must not be written after that."""
    made = kind(id="a", kind="call", timeout=1.0, deadline=1.0, wake=bool, **fields)
    made.outgoing = _Watched()  # type: ignore[assignment]
    assert isinstance(made.expired(), DeadlineExceeded)


def test_an_operation_is_taken_once() -> None:
    """Whoever takes it first has it; everybody else gets None."""
    pending = Pending()
    made = operation("a")
    pending.add(made)
    assert pending.get("a") is made
    assert len(pending) == 1
    assert pending.take("a", None) is made
    assert pending.take("a", None) is None
    assert pending.get("a") is None
    assert len(pending) == 0


def test_of_many_threads_one_takes_it() -> None:
    """Eight threads want the same thousand operations at once: each goes to one of them."""
    pending = Pending()
    for number in range(1000):
        pending.add(operation(str(number)))
    barrier = threading.Barrier(8)
    taken: list[list[str]] = [[] for _ in range(8)]

    def take(mine: list[str], seed: int) -> None:
        order = random.Random(seed).sample(range(1000), 1000)
        barrier.wait(10)
        for number in order:
            found = pending.take(str(number), None)
            if found is not None:
                mine.append(found.id)

    threads = [threading.Thread(target=take, args=(taken[number], number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(int(id) for mine in taken for id in mine) == list(range(1000))


def test_what_is_overdue_is_reported_at_its_deadline() -> None:
    """Not before it, and until somebody takes it; the next look is due at the next deadline."""
    pending = Pending()
    early, late = operation("early", 1.0), operation("late", 2.0)
    pending.add(late)
    assert pending.next_expiry() == 2.0
    pending.add(early)
    assert pending.next_expiry() == 1.0
    assert pending.overdue(0.9) == []
    assert pending.overdue(1.0) == [early]
    assert pending.next_expiry() == 2.0
    pending.take("early", None)
    assert pending.overdue(1.5) == []
    assert pending.overdue(3.0) == [late]
    pending.take("late", None)
    assert pending.next_expiry() == math.inf


def test_later_deadlines_are_not_kept_while_nobody_looks() -> None:
    """A million calls before the first deadline leave nothing behind: only a sooner deadline than all is news."""
    pending = Pending()
    tracemalloc.start()
    for number in range(20_000):
        pending.add(operation(str(number), 60.0 + number / 1e6))
        pending.take(str(number), None)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 20_000, f"{kept} bytes for 20,000 operations that have ended"
    assert pending.next_expiry() == 60.0


def test_an_operation_that_ends_early_costs_one_empty_look() -> None:
    """The next expiry may be that of one that is gone; the look finds the one after it."""
    pending = Pending()
    pending.add(operation("gone", 1.0))
    stays = operation("stays", 5.0)
    pending.add(stays)
    pending.take("gone", None)
    assert pending.next_expiry() == 1.0
    assert pending.overdue(1.0) == []
    assert pending.next_expiry() == 5.0
    assert pending.overdue(5.0) == [stays]


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "look"]), st.integers(0, 20)), max_size=60))
def test_no_deadline_is_missed_whatever_comes_in_which_order(steps: list[tuple[str, int]]) -> None:
    """Whatever is added, taken and looked at: nothing is overdue that a look at `next_expiry` does not report."""
    pending = Pending()
    present: dict[str, float] = {}
    now = 0.0
    for number, (step, value) in enumerate(steps):
        if step == "add":
            id = str(number)
            present[id] = now + value
            pending.add(operation(id, now + value))
        elif step == "take" and present:
            id = sorted(present)[value % len(present)]
            del present[id]
            assert pending.take(id, None) is not None
        else:
            now += value / 4
            due = {id for id, deadline in present.items() if deadline <= now}
            if due:
                assert pending.next_expiry() <= now
            assert {found.id for found in pending.overdue(now)} == due
            for id in due:
                pending.take(id, None)
                del present[id]
    assert len(pending) == len(present) == len(pending.everything())


@pytest.mark.parametrize(
    ("stage", "cause", "phase", "delivered", "says"),
    [
        (None, None, "send", Delivered.NO, "not written, so no handler ran"),
        (None, ConnectFailed("no cable"), "connect", Delivered.NO, "no connection could be made: no cable"),
        (None, Overloaded("full"), "send", Delivered.NO, "no handler ran or will run; refused before: full"),
        (Stage.WRITTEN, None, "accept", Delivered.MAYBE, "nobody has said that it arrived"),
        (Stage.TAKEN, None, "reply", Delivered.MAYBE, "a server has taken it"),
    ],
)
def test_a_deadline_says_what_was_proven(
    stage: Stage | None, cause: Exception | None, phase: str, delivered: Delivered, says: str
) -> None:
    """From the last stage follows what was being waited for, and whether a handler may have run."""
    error = deadline_error("call x", 2.5, stage, cause)
    assert (error.phase, error.delivered, error.__cause__) == (phase, delivered, cause)
    assert "call x ended at its deadline of 2.5 s" in str(error)
    assert says in str(error)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DeadlineExceeded(), "expired"),
        (NoRoute(), "unroutable"),
        (Cancelled(), "cancelled"),
        (Closed(), "closed"),
        (Forked(), "closed"),
        (RemoteError(), "replied"),
        (MethodNotFound(), "refused"),
        (Overloaded(), "refused"),
        (EncodeError(), "refused"),
        (AuthFailed(), "refused"),
        (ConnectionLost(), "in_doubt"),
        (ServerLost(), "in_doubt"),
        (ConnectionLost(delivered=Delivered.NO), "refused"),
        (ValueError(), "refused"),
    ],
)
def test_every_error_belongs_to_one_outcome(error: BaseException, outcome: str) -> None:
    """The counter of an error says how its operation ended."""
    assert outcome_of(error) == outcome
    assert outcome in OUTCOMES
