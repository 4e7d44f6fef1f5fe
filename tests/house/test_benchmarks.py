"""The benchmark itself: its arithmetic, and that every row still runs. What it measures is for people to judge."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from benchmarks import report, rounds, targets
from benchmarks.load import Tally
from benchmarks.rounds import Cell, Results, Run
from benchmarks.rows import ROWS
from benchmarks.subject import SUBJECTS, load


def _results(**p50: float) -> Results:
    cells = {subject.replace("_", "-"): Cell([{"p50_us": value, "per_s": 1.0}]) for subject, value in p50.items()}
    return Results({"sequential": cells})


def test_medians_ignore_an_outlier() -> None:
    """One round that the machine spoiled does not move the figure that is reported."""
    cell = Cell([{"per_s": value} for value in (10.0, 11.0, 12.0, 13.0, 1000.0)])
    assert cell.median("per_s") == 12.0
    assert cell.median("p50_us") is None


def test_a_target_is_a_ratio_within_the_run() -> None:
    """Our figure is divided by the peer's, and compared in the right direction."""
    verdicts = {
        verdict.title: verdict for verdict in targets.verdicts(_results(zmq=250.0, pyzmq=100.0, grpc=400.0), None)
    }
    pool = verdicts["zmq, one caller, p50 with a worker pool, of bare pyzmq's"]
    assert (pool.value, pool.met) == (2.5, True)
    grpc = verdicts["zmq, one caller, p50 with a worker pool, of grpcio's"]
    assert (grpc.value, grpc.met) == (0.625, False)
    inline = verdicts["zmq, one caller, p50 inline, of bare pyzmq's"]
    assert (inline.value, inline.met) == (None, None)


def test_every_target_names_what_is_measured() -> None:
    """No target waits for a row or a subject that the benchmark does not have."""
    measured = {(row.name, subject) for row in ROWS for subject in row.subjects}
    figures = [figure for target in targets.TARGETS for figure in (target.ours, target.theirs) if figure]
    assert [figure for figure in figures if (figure.row, figure.subject) not in measured] == []


def test_names_are_of_one_kind() -> None:
    """No name is both a row's and a subject's, so the command line is clear."""
    assert {row.name for row in ROWS} & set(SUBJECTS) == set()
    assert {subject for row in ROWS for subject in row.subjects} <= set(SUBJECTS)


def test_names_choose_rows_and_subjects() -> None:
    """A row keeps all its subjects, a subject all its rows, and both together what they share."""
    assert rounds.chosen([]) == {row.name: row.subjects for row in ROWS}
    assert set(rounds.chosen(["casts"])) == {"casts"}
    assert set(itertools.chain(*rounds.chosen(["grpc"]).values())) == {"grpc"}
    assert rounds.chosen(["casts", "nats", "grpc"]) == {"casts": ("nats",)}


def test_a_tally_says_what_is_missing() -> None:
    """A burst of which messages were lost fails with their number, it does not look fast."""
    tally = Tally()
    tally.expect(3)
    tally.handled()
    with pytest.raises(TimeoutError, match="2 of 3"):
        tally.wait(0.0)


# Starts up to thirty processes, and perhaps a broker.
@pytest.mark.parametrize(
    ("subjects", "broker"),
    [
        pytest.param(["pyzmq", "pyzmq-aio"], "", id="pyzmq"),
        pytest.param(["zmq", "zmq-inline", "zmq-aio"], "", id="zmq"),
        pytest.param(["memory", "memory-inline", "memory-aio"], "", id="memory"),
        pytest.param(["rabbit", "rabbit-aio", "rabbit-notify"], "rabbit_broker", id="rabbit"),
        pytest.param(["pika", "oslo", "oslo-notify"], "rabbit_broker", id="rabbit-peers"),
        pytest.param(["kafka", "confluent-kafka"], "kafka_broker", id="kafka"),
        pytest.param(["amqp1", "proton", "proton-blocking"], "artemis_broker", id="amqp1"),
    ],
)
def test_every_row_runs(
    subjects: list[str], broker: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row does its work between real processes, every answer is checked, and the report can be made."""
    if broker:
        variable = f"MESSAGING_TEST_{broker.removesuffix('_broker').upper()}_URL"
        monkeypatch.setenv(variable, request.getfixturevalue(broker).url)
    run = Run(rounds=1, seconds=0.01)
    try:
        for name, found in rounds.chosen(subjects).items():
            row = next(known for known in ROWS if known.name == name)
            run.measure(dataclasses.replace(row, count=min(row.count, 500)), found)
    finally:
        run.stop()
    failures = [cell.failure for cells in run.results.cells.values() for cell in cells.values() if cell.failure]
    assert failures == []
    about = report.settings(1, 0.01)
    assert load(subjects[0]).title in report.as_text(about, run.results, {}, [])
    rows = report.as_json(about, run.results, {}, [], None)["rows"]
    assert all(cell["medians"]["per_s"] > 0 for cells in rows.values() for cell in cells.values())
