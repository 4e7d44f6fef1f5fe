"""The suite over the drivers of this repository, and the documentation held to its results."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from messaging.drivers.base import Capabilities
from messaging.testing.conformance import SCENARIOS, Scenario, Subject, Verdict, run_scenario, selected
from messaging.testing.conformance.matrix import PROMISED
from tests.conformance.subjects import SUBJECTS

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "capabilities.md"
_ROW = re.compile(r"^\| .* \(`(?P<name>\w+)`\) \| (?P<cells>.*) \|$", re.MULTILINE)


@pytest.fixture(scope="session", params=SUBJECTS)
def tested(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Capabilities]:
    """A subject, and what it promises."""
    subject = SUBJECTS[request.param](tmp_path_factory.mktemp(request.param), request.getfixturevalue)
    return subject, subject.capabilities()


@cache
def documented() -> dict[str, dict[str, bool]]:
    """Which promises docs/capabilities.md says that each transport gives: by transport, by scenario."""
    text = _PAGE.read_text(encoding="utf-8")
    header = re.search(r"^\| promise \| (.*) \|$", text, re.MULTILINE)
    assert header is not None
    transports = [name.removesuffix("://") for name in header[1].split(" | ")]
    found: dict[str, dict[str, bool]] = {name: {} for name in transports}
    for row in _ROW.finditer(text):
        for transport, cell in zip(transports, re.split(r" (?<!\\)\| ", row["cells"]), strict=True):
            found[transport][row["name"]] = cell == PROMISED
    return found


@pytest.mark.parametrize(
    ("scenario", "face"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in selected(SCENARIOS)]
)
def test_scenario(tested: tuple[Subject, Capabilities], scenario: Scenario, face: str) -> None:
    """The transport keeps the promise, or neither its capabilities nor the documentation give it."""
    subject, capabilities = tested
    result = run_scenario(scenario, subject, face, capabilities)
    assert result.verdict is not Verdict.FAILED, result.trace
    assert result.verdict is not Verdict.NOT_TRIED, f"{subject.title} lacks a hook: {result.reason}"
    assert documented()[subject.title][scenario.name] is (result.verdict is Verdict.PASSED)


def test_scenarios_have_names_of_their_own() -> None:
    """A name means one scenario, in results, on the command line and in the documentation."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names))


def test_promises_are_sentences() -> None:
    """Each promise is one line that ends as a sentence does, and is said once."""
    promises = [scenario.promise for scenario in SCENARIOS]
    assert [promise for promise in promises if not promise.endswith((".", "…")) or "\n" in promise] == []
    assert len(promises) == len(set(promises))
