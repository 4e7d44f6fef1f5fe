"""The documents say nothing that is not there: proofs of the semantics, links, files and commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from messaging.testing.conformance import SCENARIOS
from tests.house.source import ROOT, name, text_files

SEMANTICS = ROOT / "docs/semantics.md"
_CODE = re.compile(r"`([^`]+)`")
_TEST = re.compile(r"\btests/[\w/]+\.py(?:::\w+)?")
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
_TARGET = re.compile(r"\bmake ([a-z]+)")


def _documents() -> list[Path]:
    return [path for path in text_files() if path.suffix == ".md"]


def _promises() -> Iterator[tuple[int, str, str]]:
    """Yield (line, promise, proofs) of each row of a table whose last column is called Proof."""
    proving = False
    for number, line in enumerate(SEMANTICS.read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            proving = False
        elif cells[-1] == "Proof":
            proving = True
        elif proving and not set(line) <= set("|-: "):
            yield number, cells[0], cells[-1]


@cache
def _tests_in(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _exists(proof: str) -> bool:
    file, _, test = proof.partition("::")
    if test:
        return test.startswith("test_") and test in _tests_in(file)
    return any(scenario.name == proof for scenario in SCENARIOS)


def test_every_promise_names_a_proof_that_exists() -> None:
    """Each line of the semantics names a scenario or a test, and nothing that has been renamed or taken away."""
    promises = list(_promises())
    assert len(promises) > 50
    unproven = [f"{number}: {promise}" for number, promise, proofs in promises if not _CODE.search(proofs)]
    assert unproven == []
    missing = [
        f"{number}: {proof}" for number, _, proofs in promises for proof in _CODE.findall(proofs) if not _exists(proof)
    ]
    assert missing == []


def test_every_scenario_of_rpc_and_notifications_is_a_promise() -> None:
    """What the suite asks of a transport stands in the semantics; the driver's contract stands with itself."""
    named = {proof for _, _, proofs in _promises() for proof in _CODE.findall(proofs)}
    users = {scenario.name for scenario in SCENARIOS if scenario.group not in ("connections", "deliveries")}
    assert sorted(users - named) == []


@pytest.mark.parametrize("proof", ["no_such_scenario", "tests/unit/test_url.py::test_nothing", "tests/none.py::test_x"])
def test_a_proof_that_does_not_exist_is_found(proof: str) -> None:
    """The look-up of proofs can fail, so that a clean result means something."""
    assert not _exists(proof)


def test_tests_that_documents_name_exist() -> None:
    """Also outside of the semantics, a test that is named is there."""
    missing = [
        f"{name(path)}: {found}"
        for path in _documents()
        for found in _TEST.findall(path.read_text(encoding="utf-8"))
        if not (_exists(found) if "::" in found else (ROOT / found).is_file())
    ]
    assert missing == []


def test_links_lead_somewhere() -> None:
    """A relative link in a document is a file or directory of this repository."""
    broken = [
        f"{name(path)}: {target}"
        for path in _documents()
        for target in _LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_commands_that_documents_name_exist() -> None:
    """`make X` in a document is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = [
        f"{name(path)}: make {target}"
        for path in _documents()
        for code in re.findall(r"`make [a-z]+`|^make [a-z]+", path.read_text(encoding="utf-8"), re.MULTILINE)
        for target in _TARGET.findall(code)
        if target not in targets
    ]
    assert unknown == []
