"""What `import messaging` costs: cold processes with and without it, in turns.

With byte code, as installed packages have it: some machines tell Python not to write any, and then a source tree is
compiled anew in each process, which is not what users pay.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def import_ms(statement: str, rounds: int) -> float:
    """Return the milliseconds that a statement adds to the life of a bare interpreter: the median of so many pairs."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _lifetime(statement, environment)  # writes the byte code
        return statistics.median(
            (_lifetime(statement, environment) - _lifetime("pass", environment)) * 1e3 for _ in range(rounds)
        )


def _lifetime(statement: str, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=_ROOT, env=environment, check=True)
    return time.perf_counter() - start
