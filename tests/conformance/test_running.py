"""Running the suite: what a result says, how it is chosen, and the command line."""

from __future__ import annotations

import secrets
import threading
from typing import Any

import pytest

import messaging
from messaging.testing import conformance
from messaging.testing.conformance import Result, Subject, Verdict, matrix, run_scenario, runner
from messaging.testing.conformance.__main__ import main
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import Failure, equal, eventually, punctual, raises
from messaging.testing.conformance.scenario import Group


def _subject(**hooks: Any) -> Subject:
    return Subject(lambda: f"memory://running-{secrets.token_hex(4)}", **hooks)


def _result(run: Any, subject: Subject | None = None, face: str = "sync", **about: Any) -> Result:
    group = Group("examples")
    group.add("An example.", **about)(run)
    tested = subject or _subject()
    return run_scenario(group.scenarios[0], tested, face, tested.capabilities())


def test_a_result_says_what_was_wrong() -> None:
    """A broken promise is a Failure with its text, anything else that is raised a failure too; neither escapes."""

    def broken(case: Case) -> None:
        equal(1, 2, "one")

    def crashes(case: Case) -> None:
        raise KeyError("x")

    result = _result(broken)
    assert (result.verdict, result.reason) == (Verdict.FAILED, "Failure: one: 1 instead of 2")
    assert "broken" in result.trace
    assert str(result).split() == ["failed", "sync", "broken:", *result.reason.split()]
    assert isinstance(_result(crashes).error, KeyError)


def test_what_is_not_promised_is_not_run() -> None:
    """The reason names the need; capabilities with several good values are compared by value."""

    def never(case: Case) -> None:
        raise AssertionError

    result = _result(never, needs=("settle=none",))
    assert (result.verdict, result.reason) == (Verdict.NOT_PROMISED, "needs settle=none")
    assert _result(never, needs=("pump_stall",)).verdict is Verdict.NOT_PROMISED
    assert _result(lambda case: None, needs=("ordering=key|queue", "rpc")).verdict is Verdict.PASSED


def test_what_cannot_be_tried_says_so() -> None:
    """Without its hook a scenario is not run, and with it, it is."""

    def cuts(case: Case) -> None:
        case.cut(None)  # type: ignore[arg-type]

    result = _result(cuts, hooks=("disconnect",))
    assert (result.verdict, result.reason) == (Verdict.NOT_TRIED, "the subject has no hook disconnect")
    made: list[Any] = []
    assert _result(cuts, _subject(disconnect=made.append), hooks=("disconnect",)).verdict is Verdict.PASSED
    assert made == [None]


@pytest.mark.parametrize("about", [{"needs": ("teleport",)}, {"hooks": ("explode",)}])
def test_mistakes_in_a_scenario_are_told_at_once(about: dict[str, Any]) -> None:
    """A need or hook that does not exist would never be met, so it is an error of the scenario."""
    with pytest.raises(ValueError, match="is no"):
        Group("examples").add("An example.", **about)


@pytest.mark.parametrize("face", conformance.FACES)
def test_counters_that_do_not_balance_fail(face: str) -> None:
    """A scenario that goes well still fails when an operation has vanished from the books."""

    def vanishes(case: Case) -> None:
        case.calling.counters.add("call.sent")

    result = _result(vanishes, face=face)
    assert result.verdict is Verdict.FAILED
    assert "balance" in result.reason


def test_a_scenario_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result shows where every thread stands."""
    monkeypatch.setattr(runner, "_LONGEST", 0.2)
    release = threading.Event()

    def hangs(case: Case) -> None:
        release.wait(30)

    result = _result(hangs)
    release.set()
    assert result.verdict is Verdict.FAILED
    assert "release.wait" in result.reason


def test_a_case_gives_everything_back() -> None:
    """What a scenario leaves open is closed, also when it fails; handlers that wait for a gate are let go."""
    opened: list[messaging.Transport] = []

    def leaves(case: Case) -> None:
        opened.append(case.transport())
        case.gate()
        case.bare()
        raise Failure("on purpose")

    assert _result(leaves).reason == "Failure: on purpose"
    assert [transport.health()["alive"] for transport in opened] == [False]


def test_checks_fail_in_words() -> None:
    """Each helper raises Failure and says what it had waited for."""
    with pytest.raises(Failure, match="nothing was raised instead of NoRoute"), raises(messaging.NoRoute):
        pass
    with pytest.raises(Failure, match="KeyError instead of NoRoute"), raises(messaging.NoRoute, what="a test"):
        raise KeyError("x")
    with pytest.raises(Failure, match="did not come about: a miracle"):
        eventually(lambda: False, "a miracle", 0.02)
    with pytest.raises(Failure, match="late: it took"), punctual(0.01, "late"):
        threading.Event().wait(0.4)


def test_run_takes_urls_names_and_faces() -> None:
    """One result per scenario and face, told one by one; groups are chosen by their names too."""
    told: list[Result] = []
    results = conformance.run("memory://running", only=["ping", "message_arrives"], faces=["sync"], tell=told.append)
    assert results == told
    assert [(result.scenario.name, result.face) for result in results] == [
        ("ping", "sync"),
        ("message_arrives", "driver"),
    ]
    assert {result.verdict for result in results} == {Verdict.PASSED}
    assert {scenario.group for scenario, _ in conformance.selected(conformance.SCENARIOS, only=["calls"])} == {"calls"}


def test_the_command_prints_results(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per result and a summary; exit status 0 when nothing failed."""
    assert main(["memory://{}", "--only", "ping"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["passed", "sync", "ping"], ["passed", "asyncio", "ping"]]
    assert lines[-1] == "2 passed, 0 failed, 0 not promised, 0 not tried"


def test_the_command_prints_a_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    """One column per URL, a row per promise, and why a promise is not given."""
    assert main(["memory://{}", "--matrix", "--only", "ping", "--only", "overload_is_told"]) == 0
    text = capsys.readouterr().out
    assert "| promise | memory://{} |" in text
    assert "(`ping`) | yes |" in text
    assert "(`overload_is_told`) | not promised: needs acceptance=peer |" in text


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """--list needs no transport; a URL that cannot be used is told, with exit status 2."""
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(conformance.SCENARIOS)
    assert main(["memory://?no_such=1"]) == 2
    assert "no_such" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2


def test_a_failed_scenario_shows_in_the_matrix() -> None:
    """The faces that failed are named; what was not run says so."""
    ping, other = (next(each for each in conformance.SCENARIOS if each.name == name) for name in ("ping", "health"))
    results = [Result(ping, "sync", Verdict.PASSED), Result(ping, "asyncio", Verdict.FAILED)]
    table = matrix.promise_table([ping, other], {"x": matrix.found(results)})
    assert "| FAILED (asyncio) |" in table
    assert "| not run |" in table
