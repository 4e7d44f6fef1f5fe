"""Rules about how a file is written: what it says of itself, how long it is, and what no file may contain."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.house.source import name, python_files, text_files, tree

_LONGEST_FILE = 500  # lines; a file that grows past it has got a second job
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|Users)/")
_PIP_LINE = re.compile(r"pip install [^\n]*\bmessaging\[")

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public_definitions(module: ast.Module) -> Iterator[_Definition]:
    for node in module.body:
        if isinstance(node, _Definition) and not node.name.startswith("_") and not _is_overload(node):
            yield node


def _is_overload(node: _Definition) -> bool:
    return any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)


def _test_functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def test_every_module_says_what_it_is() -> None:
    """Each file of the library opens with a docstring."""
    silent = [name(path) for path in python_files("messaging") if not ast.get_docstring(tree(path))]
    assert silent == []


def test_every_public_definition_has_a_docstring() -> None:
    """Each public class and function of the library is documented where it is defined."""
    silent = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in python_files("messaging")
        for node in _public_definitions(tree(path))
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_test_says_what_it_proves() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in python_files("tests")
        if path.name.startswith("test_")
        for node in _test_functions(tree(path))
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_file_has_grown_a_second_job() -> None:
    """No Python file is longer than 500 lines."""
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {path: lines for path, lines in lengths.items() if lines > _LONGEST_FILE} == {}


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    """No file names a directory of somebody's machine: temporary, home or working directories."""
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if _MACHINE_PATH.search(line)
    ]
    assert found == []


def test_hints_name_the_right_distribution() -> None:
    """Where a pip line names one of our extras, it names messaging-rpc: another project holds the name messaging."""
    wrong = [name(path) for path in text_files() if path.suffix == ".py" and _PIP_LINE.search(path.read_text("utf-8"))]
    assert wrong == []


@pytest.mark.parametrize("line", ["see /" + "tmp/x", "(/" + "home/me/x)", "'/" + "work/main'"])
def test_the_rule_about_machine_paths_sees_them(line: str) -> None:
    """The pattern for machine paths finds what it is for, so that a clean result means something."""
    assert _MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["docs/home/page", "./work/x", "zmq+local:///run/my-app"])
def test_the_rule_about_machine_paths_leaves_others_alone(line: str) -> None:
    """Relative paths and service directories are no machine paths."""
    assert not _MACHINE_PATH.search(line)
