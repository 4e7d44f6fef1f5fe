"""The suite over the driver of examples/own_driver: what an author's test file looks like.

Its connection has no descriptor to watch, so the asyncio face runs over a thread here, and over the loop elsewhere.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.own_driver.driver import Driver
from messaging.drivers import register_driver
from messaging.drivers.base import Capabilities
from messaging.testing.conformance import SCENARIOS, Scenario, Subject, Verdict, run_scenario, selected, silenced

_ROOT = Path(__file__).parents[2]


def _nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"tcp://127.0.0.1:{closed.getsockname()[1]}"


def _cut(connection: Any) -> None:
    if connection.session is not None:
        connection.session.cut()


def _stalled(connection: Any) -> Any:
    return silenced([connection.session.socket])


@pytest.fixture(scope="module")
def tested() -> Iterator[tuple[Subject, Capabilities]]:
    """The driver with a broker in a process of its own, every hook, and what it promises."""
    unregister = register_driver("tcp", Driver)
    with subprocess.Popen(
        [sys.executable, "-m", "examples.own_driver.broker", "0"], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    ) as broker:
        assert broker.stdout is not None
        address = broker.stdout.readline().split()[-1]
        subject = Subject(
            f"tcp://{address}",
            disconnect=_cut,
            unreachable=_nobody,
            limited={"max_body": 131_072},
            stall=_stalled,
        )
        yield subject, subject.capabilities()
        broker.terminate()
    unregister()


@pytest.mark.parametrize(
    ("scenario", "face"),
    [pytest.param(scenario, face, id=f"{scenario.name}-{face}") for scenario, face in selected(SCENARIOS)],
)
def test_scenario(tested: tuple[Subject, Capabilities], scenario: Scenario, face: str) -> None:
    """The driver keeps the promise, or does not give it."""
    subject, capabilities = tested
    result = run_scenario(scenario, subject, face, capabilities)
    assert result.verdict in (Verdict.PASSED, Verdict.NOT_PROMISED), f"{result}\n{result.trace}"


def test_the_example_runs() -> None:
    """The example serves, calls and notifies over its own driver, and leaves nothing open."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.own_driver"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "audit: Ada was greeted"
