"""Every example in the documents is Python, and those that are marked run.

A fenced block that says `python` must compile. One that stands under the line `<!-- run -->` is also executed, in a
process of its own; it must exit with 0.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.house.source import ROOT, name, text_files

_BLOCK = re.compile(r"^(?P<run><!-- run -->\n)?```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks() -> list[tuple[str, str, bool]]:
    found = []
    for path in text_files():
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            for match in _BLOCK.finditer(text):
                line = text.count("\n", 0, match.start("code")) + 1
                found.append((f"{name(path)}:{line}", match["code"], match["run"] is not None))
    return found


def test_examples_are_python() -> None:
    """Each example can be compiled; what is no Python is not fenced as Python."""
    for where, code, _ in _blocks():
        compile(code, where, "exec", dont_inherit=True)


def test_marked_examples_run(tmp_path: Path) -> None:
    """Each example that is marked to run does so, from a directory that is not ours, and exits with 0."""
    script = tmp_path / "example.py"
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    for where, code in [(where, code) for where, code, marked in _blocks() if marked]:
        script.write_text(code, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
