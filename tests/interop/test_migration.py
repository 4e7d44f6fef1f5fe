"""The programs of examples/migration, through a rolling migration: both kinds live on one broker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.faults.processes import until

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(module: str, command: str, *arguments: str) -> Iterator[Any]:
    """A program that runs until its input ends; it is ready when this returns."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", f"examples.migration.{module}", command, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.stdin.close()
            process.wait(20)


def called(module: str, url: str) -> set[str]:
    """Which servers a client got; it was also refused once, by an exception that it can catch."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"examples.migration.{module}", "call", url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *servers, refused = done.stdout.split()
    assert refused == "refused"
    return set(servers)


def test_a_rolling_migration(rabbit_broker: Any) -> None:
    """Servers, clients and listeners move one by one, and at no step does anybody notice."""
    url = rabbit_broker.url
    with ExitStack() as stack:
        audits = [stack.enter_context(running(module, "audit", url)) for module in ("before", "after")]
        with running("before", "serve", url, "old-1"):
            assert called("after", url) == {"old-1"}
            stack.enter_context(running("after", "serve", url, "new-1"))
            for module in ("before", "after"):
                assert called(module, url) == {"old-1", "new-1"}
        assert called("before", url) == {"new-1"}
        heard = 0
        for audit in audits:
            # One pool of two listeners: each notification reaches one of them.
            audit.stdin.close()
            until(lambda process=audit: process.poll() is not None, "the end of a listener")  # type: ignore[misc]
            heard += len(audit.stdout.read().splitlines())
        assert heard == 8
