"""A process that has many descriptors open, as servers do: nothing may depend on their numbers.

From 257 on a number that comes back from a library is another object than the one that went in, and from 1024 on
select() takes it no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from messaging.testing.conformance import SCENARIOS, Scenario, Verdict, run_scenario, selected
from tests.conformance.subjects import SUBJECTS

_NAMES = ("round_trip", "thread_storm", "every_level", "descriptor_is_readable")
_PAIRS = list(selected([scenario for scenario in SCENARIOS if scenario.name in _NAMES]))


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Every descriptor that is made meanwhile has a number above 1,100."""
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        yield
    finally:
        for each in held:
            os.close(each)


# The router of the tests runs in this process, on proton's reactor, which is the one that cannot do it.
@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "amqp1-router"])
@pytest.mark.parametrize(("scenario", "face"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in _PAIRS])
def test_large_numbers(
    name: str,
    scenario: Scenario,
    face: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """What a transport promises it keeps there, too."""
    subject = SUBJECTS[name](tmp_path_factory.mktemp("crowded"), request.getfixturevalue)
    capabilities = subject.capabilities()
    with many_descriptors():
        result = run_scenario(scenario, subject, face, capabilities)
    assert result.verdict in (Verdict.PASSED, Verdict.NOT_PROMISED), result.trace


def test_the_scenarios_are_there() -> None:
    """A scenario that was renamed does not go by unnoticed."""
    assert {scenario.name for scenario, _ in _PAIRS} == set(_NAMES)
