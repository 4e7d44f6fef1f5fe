"""What goes well a thousand times goes well a million times: memory, threads and descriptors of both sides stay as they
are after the first seconds. Each run has a short form among the tests and a long one in `make soak`.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.faults.conftest import Stage
from tests.faults.processes import Worker, until

GROWTH = 12 * 2**20
"""How much a process may grow, in bytes, after it was warm: what the allocator keeps differs by up to 5 MB from run to
run.
"""
SLOTS = 8
LONG = [pytest.mark.soak, pytest.mark.timeout(900)]


class Sizes(NamedTuple):
    """What must not grow."""

    memory: int
    descriptors: int
    threads: int


def sizes(worker: Worker) -> Sizes:
    """Of a process as it is now."""
    return Sizes(worker.memory(), worker.descriptors(), worker.threads())


def assert_flat(worker: Worker, before: Sizes) -> None:
    """It has not grown; what is closed elsewhere may take a moment."""
    until(lambda: worker.descriptors() <= before.descriptors, f"no more than {before.descriptors} descriptors", 5)
    # A pool grows up to its slots when it happens to be busy.
    until(lambda: worker.threads() <= before.threads + SLOTS, f"no more than {before.threads + SLOTS} threads", 5)
    assert worker.memory() <= before.memory + GROWTH


def pair(stage: Stage) -> tuple[Worker, Worker]:
    """A server and a caller."""
    service = stage.service("a", options={"slots": SLOTS})
    caller = stage.worker("caller", name="caller", topic="t", timeout=60)
    caller.expect("ready")
    return service, caller


@pytest.mark.parametrize("number", [20_000, pytest.param(1_000_000, marks=LONG)])
def test_calls_leave_nothing_behind(stage: Stage, number: int) -> None:
    """Each of so many calls gets its own answer, and neither side grows."""
    service, caller = pair(stage)
    assert caller.ask("pipelined", within=60, number=10_000, chunk=1000) == 0
    before = sizes(service), sizes(caller)
    assert caller.ask("pipelined", within=800, number=number, chunk=1000) == 0
    assert_flat(service, before[0])
    assert_flat(caller, before[1])
    counts = caller.ask("stats")
    assert counts["call.sent"] == counts["call.replied"] == number + 10_000


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=LONG)])
def test_ten_thousand_calls_at_once_get_their_own_answers(stage: Stage, rounds: int) -> None:
    """10,000 calls under way at the same time, several times: no answer goes to another call."""
    service, caller = pair(stage)

    def again(times: int) -> None:
        for _ in range(times):
            assert caller.ask("at_once", within=60, number=10_000) == 0

    # How much of a burst lies in the server at a time differs, and its memory keeps the size of the worst: 250 rounds
    # took it from 35 to 41 MB in the first 125 and no further.
    again(rounds // 2)
    before = sizes(service), sizes(caller)
    again(rounds)
    assert_flat(service, before[0])
    assert_flat(caller, before[1])


@pytest.mark.parametrize("number", [40, pytest.param(1000, marks=LONG)])
def test_opening_and_closing_leaves_nothing_behind(stage: Stage, number: int) -> None:
    """Transports that are opened, used and closed leave neither descriptors nor threads, here and in the server."""
    service, caller = pair(stage)
    assert caller.ask("cycles", within=60, number=5) == 0
    before = sizes(service), sizes(caller)
    assert caller.ask("cycles", within=800, number=number) == 0
    assert_flat(service, before[0])
    assert_flat(caller, before[1])
