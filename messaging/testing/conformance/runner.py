"""Runs scenarios and says what became of each: kept, broken, not promised, not tried. None is left out in silence."""

from __future__ import annotations

import enum
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from messaging.drivers.base import Capabilities
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import Failure
from messaging.testing.conformance.faces import FACES, SyncFace, open_face
from messaging.testing.conformance.scenario import DRIVER, Scenario
from messaging.testing.conformance.subject import Subject

__all__ = ["Result", "Verdict", "run", "run_scenario", "selected"]

_LONGEST = 45.0
"""Seconds after which a scenario that does not end has failed: above every deadline that a scenario uses."""


class Verdict(enum.Enum):
    """What became of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_PROMISED = "not promised"
    """The transport declares that it cannot do this."""
    NOT_TRIED = "not tried"
    """The subject has no hook for what this scenario does from outside."""


@dataclass(frozen=True)
class Result:
    """One scenario over one face. `reason` says why it was not run, or what went wrong; `error` is what it raised."""

    scenario: Scenario
    face: str
    verdict: Verdict
    reason: str = ""
    error: BaseException | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        about = f": {self.reason}" if self.reason else ""
        return f"{self.verdict.value:12} {self.face:7} {self.scenario.name}{about}"

    @property
    def trace(self) -> str:
        """The traceback of a failed scenario as text; empty for others."""
        return "".join(traceback.format_exception(self.error)) if self.error is not None else ""


def selected(
    scenarios: Iterable[Scenario], faces: Sequence[str] = FACES, only: Sequence[str] = ()
) -> list[tuple[Scenario, str]]:
    """Every pair of a scenario and a face that there is to run; `only` keeps scenarios of these names or groups."""
    return [
        (scenario, face)
        for scenario in scenarios
        if not only or scenario.name in only or scenario.group in only
        for face in scenario.faces
        if face in (*faces, *DRIVER)
    ]


def run(
    subject: Subject | str,
    scenarios: Iterable[Scenario],
    *,
    faces: Sequence[str] = FACES,
    only: Sequence[str] = (),
    tell: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run scenarios, one after the other; `tell` hears of each result at once."""
    tested = Subject(subject) if isinstance(subject, str) else subject
    capabilities = tested.capabilities()
    results = []
    for scenario, face in selected(scenarios, faces, only):
        result = run_scenario(scenario, tested, face, capabilities)
        results.append(result)
        if tell is not None:
            tell(result)
    return results


def run_scenario(scenario: Scenario, subject: Subject, face: str, capabilities: Capabilities) -> Result:
    """Run one scenario over one face, unless it is not promised or cannot be tried; never raises what went wrong."""
    unmet = scenario.unmet(capabilities)
    if unmet:
        return Result(scenario, face, Verdict.NOT_PROMISED, f"needs {', '.join(unmet)}")
    hooks = [hook for hook in scenario.hooks if not subject.has(hook)]
    if hooks:
        return Result(scenario, face, Verdict.NOT_TRIED, f"the subject has no hook {', '.join(hooks)}")
    errors: list[BaseException] = []
    started = time.monotonic()
    worker = threading.Thread(
        target=_attempt,
        args=(scenario, subject, face, capabilities, errors),
        name=f"conformance {scenario.name}",
        daemon=True,
    )
    worker.start()
    worker.join(_LONGEST)
    if worker.is_alive():
        errors.append(Failure(f"the scenario did not end within {_LONGEST:g} s; its threads:\n{_stacks()}"))
    seconds = time.monotonic() - started
    if errors:
        error = errors[0]
        return Result(scenario, face, Verdict.FAILED, f"{type(error).__name__}: {error}", error, seconds)
    return Result(scenario, face, Verdict.PASSED, seconds=seconds)


def _attempt(
    scenario: Scenario, subject: Subject, face_name: str, capabilities: Capabilities, errors: list[BaseException]
) -> None:
    face = SyncFace() if face_name in DRIVER else open_face(face_name)
    try:
        case = Case(subject, face, capabilities)
        try:
            scenario.run(case)
        except BaseException as error:
            errors.append(error)
        case.close(failed=bool(errors))
    except BaseException as error:
        errors.append(error)
    finally:
        face.close()


def _stacks() -> str:
    """Where every thread stands: the one that holds up a scenario is seldom the scenario's own."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )
