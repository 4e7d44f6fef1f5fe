"""The types of the library as its users meet them: right code passes mypy --strict, and wrong code does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def errors_of(*files: Path) -> dict[int, set[str]]:
    """The codes of mypy's errors, by line."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not done.stderr, done.stderr
    found: dict[int, set[str]] = {}
    for line in done.stdout.splitlines():
        match = re.fullmatch(r".*?:(\d+): error: .*\[([a-z-]+)\]", line)
        if match is not None:
            found.setdefault(int(match[1]), set()).add(match[2])
        else:
            assert ": note: " in line, line
    return found


def test_what_users_write_is_well_typed() -> None:
    """Services and callers of both faces, with `assert_type` where a type is promised."""
    assert errors_of(*sorted(HERE.glob("[!t]*.py"))) == {}


def test_mistakes_are_found_by_the_type_checker(tmp_path: Path) -> None:
    """Arguments that do not fit the method that is called by reference, results of another type, unknown options."""
    text = (HERE / "mistakes.txt").read_text(encoding="utf-8")
    file = tmp_path / "mistakes.py"
    file.write_text(text, encoding="utf-8")
    expected = {
        number: set(match[1].split(", "))
        for number, line in enumerate(text.splitlines(), 1)
        if (match := re.search(r"# error: ([a-z-]+(?:, [a-z-]+)*)$", line)) is not None
    }
    assert len(expected) >= 20
    assert errors_of(file) == expected
