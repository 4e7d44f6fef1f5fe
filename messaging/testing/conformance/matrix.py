"""Tables of promises: which transport keeps which, as declared or as found by a run. Markdown, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from messaging.drivers.base import Capabilities
from messaging.testing.conformance.runner import Result, Verdict
from messaging.testing.conformance.scenario import Scenario

__all__ = ["PROMISED", "capability_table", "declared", "found", "promise_table"]

PROMISED = "yes"
"""The cell of a promise that is given, or was found to be kept."""

Column = Callable[[Scenario], str]


def capability_table(transports: Mapping[str, Capabilities]) -> str:
    """Return what each transport declares, one capability to a line."""
    lines = _header("capability", transports)
    for name in Capabilities.__struct_fields__:
        cells = [_shown(getattr(capabilities, name)) for capabilities in transports.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def promise_table(scenarios: Iterable[Scenario], columns: Mapping[str, Column]) -> str:
    """Return one table per group of scenarios, one promise to a line, with a column for each transport."""
    tables: dict[str, list[str]] = {}
    for scenario in scenarios:
        lines = tables.setdefault(scenario.group, _header("promise", columns))
        cells = [column(scenario) for column in columns.values()]
        lines.append(f"| {_escaped(scenario.promise)} (`{scenario.name}`) | {' | '.join(map(_escaped, cells))} |")
    return "\n\n".join(f"### {group.capitalize()}\n\n" + "\n".join(lines) for group, lines in tables.items())


def declared(capabilities: Capabilities) -> Column:
    """The column of a transport that promises what it declares."""

    def cell(scenario: Scenario) -> str:
        unmet = scenario.unmet(capabilities)
        return f"no: needs {', '.join(unmet)}" if unmet else PROMISED

    return cell


def found(results: Sequence[Result]) -> Column:
    """The column of a transport that was run: what became of each scenario over all its faces."""
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.scenario.name, []).append(result)

    def cell(scenario: Scenario) -> str:
        mine = by_name.get(scenario.name, [])
        failed = [result.face for result in mine if result.verdict is Verdict.FAILED]
        if failed:
            return f"FAILED ({', '.join(failed)})"
        others = [result for result in mine if result.verdict is not Verdict.PASSED]
        if others:
            return f"{others[0].verdict.value}: {others[0].reason}"
        return PROMISED if mine else "not run"

    return cell


def _header(first: str, names: Iterable[str]) -> list[str]:
    columns = [first, *names]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
