"""The conformance suite: what every driver must do, as scenarios that its author can run.

    from messaging.testing import conformance

    results = conformance.run("memory://suite")                 # or a Subject, with hooks
    assert all(result.verdict is not conformance.Verdict.FAILED for result in results)

It needs no test framework. `SCENARIOS` are there to be run one by one from any; `run_scenario` runs one. What a
transport does not promise by its capabilities is reported as "not promised". Each scenario is written once and runs
over
the blocking and the asyncio face; those of the driver contract pump a bare connection and run once.

A driver must be found by its URL scheme: install it with an entry point, or use `messaging.drivers.register_driver`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from messaging.testing.conformance import matrix, runner
from messaging.testing.conformance.accidents import accidents
from messaging.testing.conformance.calls import calls
from messaging.testing.conformance.checks import Failure
from messaging.testing.conformance.connections import connections
from messaging.testing.conformance.deadlines import deadlines
from messaging.testing.conformance.deliveries import deliveries
from messaging.testing.conformance.faces import FACES
from messaging.testing.conformance.lifecycle import lifecycle
from messaging.testing.conformance.notifications import notifications
from messaging.testing.conformance.refusals import refusals
from messaging.testing.conformance.routing import routing
from messaging.testing.conformance.runner import Result, Verdict, run_scenario, selected
from messaging.testing.conformance.scenario import Scenario
from messaging.testing.conformance.silence import silenced
from messaging.testing.conformance.standstills import standstills
from messaging.testing.conformance.subject import Subject

__all__ = [
    "FACES",
    "SCENARIOS",
    "Failure",
    "Result",
    "Scenario",
    "Subject",
    "Verdict",
    "matrix",
    "run",
    "run_scenario",
    "selected",
    "silenced",
]

SCENARIOS: tuple[Scenario, ...] = tuple(
    scenario
    for group in (
        calls,
        routing,
        deadlines,
        refusals,
        lifecycle,
        notifications,
        accidents,
        standstills,
        connections,
        deliveries,
    )
    for scenario in group.scenarios
)
"""Every scenario, in the order in which they are best read."""


def run(
    subject: Subject | str,
    *,
    faces: Sequence[str] = FACES,
    only: Sequence[str] = (),
    tell: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run the suite over a subject, or a URL, and return one result per scenario and face.

    `only`: names of scenarios or groups; all by default. `tell` is called with each result as soon as it is there.
    Raises ConfigError for a URL that cannot be used, and Failure when no connection can be made at all.
    """
    return runner.run(subject, SCENARIOS, faces=faces, only=only, tell=tell)
