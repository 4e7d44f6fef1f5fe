"""What `import messaging` costs: cold processes with and without it, in turns."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def import_ms(statement: str, rounds: int) -> float:
    """Return the milliseconds that a statement adds to the life of a bare interpreter: the median of so many pairs."""
    _lifetime(statement)  # writes the byte code
    return statistics.median((_lifetime(statement) - _lifetime("pass")) * 1e3 for _ in range(rounds))


def _lifetime(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=_ROOT, check=True)
    return time.perf_counter() - start
