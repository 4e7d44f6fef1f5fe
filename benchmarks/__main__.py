"""The command line: `python -m benchmarks [--quick] [--only NAME]... [--json FILE]`.

Exits with 1 when something could not be measured; a missed target is reported, not punished, because a busy machine
misses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

from benchmarks import idle, report, rounds, startup, targets
from benchmarks.rows import ROWS
from benchmarks.subject import SUBJECTS

_FULL = (5, 0.5)  # rounds, and seconds of each
_QUICK = (3, 0.12)
_FULL_SERVICES, _QUICK_SERVICES = 100, 20
_STARTS = 15
_IDLE = "idle"


def main() -> int:
    """Measure, print, and write the JSON where asked."""
    arguments = _arguments()
    count, seconds = _QUICK if arguments.quick else _FULL
    about = report.settings(count, seconds)
    run = rounds.Run(count, seconds)
    try:
        plan = rounds.chosen(arguments.only)
        for _, rows in itertools.groupby(ROWS, lambda row: row.family):
            for row in rows:
                if row.name in plan:
                    run.measure(row, plan[row.name])
            run.stop()
    finally:
        run.stop()
    wants_idle = not arguments.only or _IDLE in arguments.only
    counted = idle.measure(_QUICK_SERVICES if arguments.quick else _FULL_SERVICES) if wants_idle else {}
    import_ms = None if arguments.only else startup.import_ms("import messaging", _STARTS)
    verdicts = targets.verdicts(run.results, import_ms)
    print(report.as_text(about, run.results, counted, verdicts))
    if arguments.json:
        outcome = report.as_json(about, run.results, counted, verdicts, import_ms)
        arguments.json.write_text(json.dumps(outcome, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    failures = [cell.failure for cells in run.results.cells.values() for cell in cells.values()]
    return int(any([*failures, *(each.failure for each in counted.values())]))


def _arguments() -> argparse.Namespace:
    names = [*(row.name for row in ROWS), _IDLE, *SUBJECTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure messaging beside its peers.")
    parser.add_argument("--quick", action="store_true", help="shorter rounds: a few minutes, less certain")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help=f"a row or a subject, may be repeated: {', '.join(names)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
