"""Putting missing packages on the machine: as root, by sudo, and as somebody who may not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.brokers import packages
from tests.brokers.packages import BUILD, SERVERS, Need, main

_RECORD = '#!/bin/sh\necho "${{0##*/}} $* [$DEBIAN_FRONTEND] $PATH" >> "{log}"\n{then}\n'


class Machine:
    """A PATH of its own, with programs that write down how they were called, and two needs that are not met."""

    def __init__(self, root: Path) -> None:
        self.programs = root / "bin"
        self.programs.mkdir()
        self.log = root / "log"

    def has(self, name: str, then: str = "exit 0") -> None:
        """Put a program on the PATH. `then`: what it does once it has written down its call."""
        place = self.programs / name
        place.write_text(_RECORD.format(log=self.log, then=then), encoding="utf-8")
        place.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """How programs were called, and with which variable."""
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return [line.rpartition(" ")[0] for line in text.splitlines()]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of somebody who is not root and lacks a server and a compiler."""
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(made.programs))
    monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    needs = (
        Need("a server", lambda: False, ("a-server", "its-tools")),
        Need("another", lambda: True, ("another",)),
        Need("a third", lambda: False, ("a-third",)),
    )
    monkeypatch.setattr(packages, "SERVERS", needs)
    return made


INSTALL = "-qq install -y --no-install-recommends a-server its-tools a-third"


def test_root_installs_what_is_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lists first, then what is missing and nothing else, without a question, and with the folders that dpkg needs."""
    machine.has("apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main("servers") == 0
    assert machine.calls == [f"apt-get {command} [noninteractive]" for command in ("-qq update", INSTALL)]
    assert machine.log.read_text(encoding="utf-8").count("/usr/sbin:/sbin") == 2
    assert "need a server, a third: installing a-server its-tools a-third" in capsys.readouterr().err


def test_sudo_installs_where_it_asks_for_no_password(machine: Machine) -> None:
    """The variables of a user do not pass sudo, so the command carries its own."""
    machine.has("apt-get")
    machine.has("sudo", then='shift; exec /usr/bin/env -i PATH="$PATH:/usr/bin:/bin" "$@"')
    assert main("servers") == 0
    assert [call for call in machine.calls if call.startswith("apt-get")] == [
        f"apt-get {command} [noninteractive]" for command in ("-qq update", INSTALL)
    ]
    assert [call.split()[1] for call in machine.calls if call.startswith("sudo")] == ["-n"] * 3


@pytest.mark.parametrize("there", [["apt-get"], ["apt-get", "sudo"], []])
def test_who_may_not_install_is_told_the_command(
    machine: Machine, there: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without root, with a sudo that wants a password, or without apt-get on the PATH: nothing is tried, and the tests
    go on without.
    """
    for name in there:
        machine.has(name, then="exit 1")
    assert main("servers") == 0
    assert [call for call in machine.calls if call.startswith("apt-get")] == []
    told = capsys.readouterr().err
    assert "need a server, a third. On Debian, as root: apt-get -qq update && apt-get -qq install -y" in told
    assert "a-server its-tools a-third" in told


def test_an_installation_that_fails_shows_why(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first command that fails ends it, with what it wrote."""
    machine.has("apt-get", then='echo "E: Unable to locate" >&2; exit 100')
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main("servers") == 1
    assert len(machine.calls) == 1
    assert "apt-get -qq update failed:\nE: Unable to locate" in capsys.readouterr().err


if shutil.which("apt-get") is not None:

    def test_the_packages_are_debians() -> None:
        """apt-get itself takes the command, and knows every package; it only says what it would do."""
        names = [package for need in (*SERVERS, *BUILD) for package in need.packages]
        _, install = packages._commands(names)
        done = subprocess.run([*install, "--simulate"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
