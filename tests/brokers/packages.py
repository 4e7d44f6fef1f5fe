"""Puts on the machine what this project needs beyond Python.

    python3 tests/brokers/packages.py build       what builds a client that has no wheel
    python3 tests/brokers/packages.py servers     what the tests start

Where this user may install packages (as root, or by sudo without a password), it does, and says so; elsewhere it says
the command, and the tests that miss something fail with the same one. It runs before there is an environment, so it
knows the standard library alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Need(NamedTuple):
    """Something that has to be there, and Debian's packages that bring it."""

    what: str
    there: Callable[[], bool]
    packages: tuple[str, ...]


def _runs(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


SERVERS = (
    Need("RabbitMQ", Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists, ("rabbitmq-server",)),
    Need("redis", lambda: shutil.which("redis-server") is not None, ("redis-server",)),
    Need("openssl", lambda: shutil.which("openssl") is not None, ("openssl",)),
    # The single-file launch of the embedded brokers needs the compiler's module.
    Need("Java 17", lambda: _runs("javac", "--version"), ("openjdk-17-jdk-headless",)),
    Need("Maven", lambda: shutil.which("mvn") is not None, ("maven",)),
)
BUILD = (
    # python-qpid-proton comes as source, and leaves TLS out where it does not find openssl's headers.
    Need("a C compiler", lambda: shutil.which("gcc") is not None, ("gcc", "libc6-dev")),
    Need("Python's headers", lambda: Path(sysconfig.get_path("include"), "Python.h").exists(), ("python3-dev",)),
    Need("openssl's headers", lambda: _runs("pkg-config", "--exists", "openssl"), ("pkg-config", "libssl-dev")),
)
_QUIETLY = ("DEBIAN_FRONTEND=noninteractive",)
"""Packages that would ask something take their defaults."""


def _commands(packages: list[str]) -> list[list[str]]:
    apt = ["apt-get", "-qq"]
    return [[*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *packages]]


def _prefix() -> list[str] | None:
    """What stands before a command that installs; None where this user may not."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    # sudo hands no variables on.
    return ["sudo", "-n", "env", *_QUIETLY] if _runs("sudo", "-n", "true") else None


def main(purpose: str) -> int:
    """Install what is missing, or say how."""
    needs = [need for need in {"servers": SERVERS, "build": BUILD}[purpose] if not need.there()]
    if not needs:
        return 0
    packages = [package for need in needs for package in need.packages]
    names = ", ".join(need.what for need in needs)
    what = {"servers": "The tests", "build": "Clients without a wheel"}[purpose]
    prefix = _prefix()
    if prefix is None:
        commands = " && ".join(shlex.join(command) for command in _commands(packages))
        print(f"{what} need {names}. On Debian, as root: {commands}", file=sys.stderr)
        return 0
    print(f"{what} need {names}: installing {' '.join(packages)}", file=sys.stderr)
    # dpkg wants ldconfig and start-stop-daemon on the PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    environment = {**os.environ, "PATH": path, **dict(setting.split("=") for setting in _QUIETLY)}
    for command in _commands(packages):
        done = subprocess.run(
            [*prefix, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            print(f"{shlex.join(command)} failed:\n{done.stdout.decode(errors='replace')[-3000:]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
