"""The suite fails where it must: a scenario that no bug can break proves nothing.

Every broken driver of planted.py is run through the scenarios that are there to notice it, and the same driver without
a bug through all of them. Most failures are waits that end, so the broken ones run side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import pytest

from messaging.drivers import register_driver
from messaging.testing.conformance import SCENARIOS, Result, Scenario, Subject, Verdict, run_scenario
from tests.conformance.planted import BUGS, Connection, Driver, Events
from tests.conformance.subjects.memory import memory

Bug = type[Connection] | type[Events]

_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
_PAIRS = [(bug, name) for bug in BUGS for name in BUGS[bug]]
_AT_A_TIME = 16


@contextmanager
def _planted(bug: Bug | None, scheme: str) -> Iterator[Subject]:
    """The memory driver with a bug, under a scheme of its own, with every hook."""
    if bug is None:
        driver = Driver()
    elif issubclass(bug, Connection):
        driver = Driver(connection=bug)
    else:
        driver = Driver(events=bug)
    sound = memory()
    unreachable = sound.unreachable
    assert unreachable is not None
    take_back = register_driver(scheme, cast("Any", driver))
    try:
        yield dataclasses.replace(
            sound,
            name=scheme,
            url=lambda: sound.new_url().replace("memory:", f"{scheme}:"),
            unreachable=lambda: unreachable().replace("memory:", f"{scheme}:"),
        )
    finally:
        take_back()


def _run(scenario: Scenario, bug: Bug | None, scheme: str) -> Result:
    # What a sound driver promises: a bug may be in the way of asking.
    capabilities = memory().capabilities()
    with _planted(bug, scheme) as subject:
        return run_scenario(scenario, subject, scenario.faces[0], capabilities)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[tuple[Bug, str], Future[Result]]]:
    """The runs with a bug, under way or done."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        yield {
            (bug, name): pool.submit(_run, _BY_NAME[name], bug, f"planted{number}")
            for number, (bug, name) in enumerate(_PAIRS)
        }


@pytest.mark.parametrize(("bug", "name"), [pytest.param(*pair, id=f"{pair[0].__name__}-{pair[1]}") for pair in _PAIRS])
def test_a_planted_bug_is_found(bug: Bug, name: str, running: dict[tuple[Bug, str], Future[Result]]) -> None:
    """The scenario reports a failure for the driver that has the bug."""
    result = running[bug, name].result()
    assert result.verdict is Verdict.FAILED, f"{bug.__name__} ({bug.__doc__}) passed {name}"
    print(f"{bug.__name__}: {result.reason}")


@pytest.mark.parametrize("name", sorted({name for _, name in _PAIRS}))
def test_without_a_bug_nothing_is_found(name: str) -> None:
    """It is the bug that fails a scenario, not what it is planted with."""
    result = _run(_BY_NAME[name], None, "planted")
    assert result.verdict is Verdict.PASSED, result.trace


def test_every_bug_says_what_it_is() -> None:
    """Each has a docstring, which the message of a bug that was not found quotes."""
    assert [bug.__name__ for bug in BUGS if not bug.__doc__] == []
