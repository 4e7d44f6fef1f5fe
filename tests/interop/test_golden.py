"""What the tests of our own encoding compare with is what the installed package writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_golden_bytes_are_those_of_the_installed_package() -> None:
    """A release of the predecessor that writes something else is noticed here."""
    # In a process of its own, because it warns when it is imported, and patches what it needs.
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.interop.golden"], cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr.decode()
    assert json.loads(run.stdout) == json.loads((ROOT / "tests/unit/golden_oslo.json").read_text(encoding="utf-8"))
