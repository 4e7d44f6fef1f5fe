"""The order in which the subjects take turns, and what came out.

Within a row every round visits each subject once, and each round begins with another one, so that whatever else the
machine does hits all alike. The first round after a start warms up and is not counted, nor are some more where the
broker needs them. Bursts have one more, and the last of these finds the number that fills the time: the first holds
connecting, which some do at their first message.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.load import Figures
from benchmarks.processes import WorkerFailed
from benchmarks.rig import Rig
from benchmarks.rows import ROWS, Row
from benchmarks.servers import SERVERS, ServerFailed

_FIRST_BURST = 500
_LARGEST_BURST = 50_000  # far below what any subject's default buffers hold back or drop


@dataclass
class Cell:
    """What one subject did in one row: the figures of each round, or why there are none."""

    rounds: list[Figures] = field(default_factory=list)
    failure: str = ""

    def median(self, figure: str) -> float | None:
        """Return the median of one figure over the rounds; None where it was not measured."""
        values = [figures[figure] for figures in self.rounds if figure in figures]
        return statistics.median(values) if values else None

    def spread(self, figure: str) -> float | None:
        """Return (largest - smallest) / median over the rounds."""
        values = [figures[figure] for figures in self.rounds if figure in figures]
        return (max(values) - min(values)) / statistics.median(values) if values else None


@dataclass
class Results:
    """Everything that a run measured with rigs, by row and subject, and the memory of each subject before and after."""

    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    memory: dict[str, dict[str, Figures]] = field(default_factory=dict)


class Run:
    """Measures rows. Rigs are built at their first use and serve every row that has the same number of servers, until
    `stop()`, after which the next rows begin anew.
    """

    def __init__(self, rounds: int, seconds: float) -> None:
        self._rounds = rounds
        self._seconds = seconds
        self._rigs: dict[tuple[str, int], Rig] = {}
        self.results = Results()

    def measure(self, row: Row, subjects: Iterable[str]) -> None:
        """Measure one row; a subject that fails keeps the reason and is left out from then on."""
        _progress(row.title)
        cells = self.results.cells[row.name] = {subject: Cell() for subject in subjects}
        for start in range(row.starts):
            if start:
                self._stop(row.servers)
            self._rounds_of(row, cells)
        if row.servers != 1:
            self._stop(row.servers)

    def _rounds_of(self, row: Row, cells: dict[str, Cell]) -> None:
        """Warm up, and measure all rounds with the processes that there are."""
        counts: dict[str, int] = {}
        warming = row.warming + row.is_burst
        for number in range(-warming, self._rounds):
            for subject in _turned(list(cells), number + warming):
                cell = cells[subject]
                if cell.failure:
                    continue
                count = row.fewer.get(subject, row.count) or counts.get(subject, _FIRST_BURST)
                try:
                    figures = self._once(self._rig(subject, row.servers), row, count)
                except (ImportError, OSError, ServerFailed, WorkerFailed) as error:
                    cell.failure = str(error)
                    _progress(f"  {subject}: {error}")
                    continue
                if number >= 0:
                    cell.rounds.append(figures)
                elif row.is_burst:
                    fitting = int(figures["per_s"] * self._seconds)
                    counts[subject] = max(1, min(_LARGEST_BURST, fitting))

    def stop(self) -> None:
        """Note what memory the subjects ended with, and stop them and the servers that they shared."""
        for (subject, servers), rig in self._rigs.items():
            if servers == 1:
                self.results.memory[subject]["after"] = rig.memory()
        self._stop(None)
        SERVERS.close()

    def _once(self, rig: Rig, row: Row, count: int) -> Figures:
        if row.is_burst or row.count:
            return rig.run(row.load, count=count)
        return rig.run(row.load, seconds=self._seconds)

    def _rig(self, subject: str, servers: int) -> Rig:
        key = (subject, servers)
        if key not in self._rigs:
            self._rigs[key] = Rig(subject, servers)
            if servers == 1:
                self.results.memory[subject] = {"before": self._rigs[key].memory()}
        return self._rigs[key]

    def _stop(self, servers: int | None) -> None:
        for key in [key for key in self._rigs if servers in (None, key[1])]:
            self._rigs.pop(key).stop()


def chosen(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the subjects of each row to be measured; `names` are rows or subjects, none of a kind means all of it."""
    wanted = set(names)
    rows = {row.name for row in ROWS} & wanted
    subjects = wanted - rows
    plan = {}
    for row in ROWS:
        if not rows or row.name in rows:
            plan[row.name] = tuple(subject for subject in row.subjects if not subjects or subject in subjects)
    return {name: found for name, found in plan.items() if found}


def _turned(subjects: list[str], number: int) -> list[str]:
    first = number % len(subjects)
    return subjects[first:] + subjects[:first]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
