"""The generated pages of docs/ say what the code says now."""

from __future__ import annotations

import subprocess
import sys

from tests.house.source import ROOT


def test_generated_pages_are_up_to_date() -> None:
    """`python docs/generate.py --check` finds nothing to write; else run `make docs`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
