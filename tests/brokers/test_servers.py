"""The servers of the tests themselves: they live, die, freeze and are never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import Redis, ServerFailed
from tests.brokers.ports import free_port
from tests.brokers.server import ExistingServer, program
from tests.faults.processes import until

_ROOT = Path(__file__).resolve().parents[2]


def _answers(server: Redis, within: float = 5.0) -> bool:
    try:
        with socket.create_connection((server.host, server.port), timeout=within) as client:
            client.sendall(b"PING\r\n")
            return client.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


def test_a_server_comes_back_at_its_address() -> None:
    """A server answers after a start, not after a kill, and again at the same port after the next start."""
    with Redis() as server:
        port = server.port
        assert _answers(server)
        server.kill()
        assert not _answers(server)
        server.start()
        server.restart()
        assert _answers(server)
        assert server.port == port


def test_a_frozen_server_is_silent() -> None:
    """A paused server keeps its connections and says nothing until it is resumed."""
    with Redis() as server:
        with socket.create_connection((server.host, server.port), timeout=0.2) as client:
            server.pause()
            client.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                client.recv(7)
            server.resume()
            client.settimeout(5)
            assert client.recv(7) == b"+PONG\r\n"


def test_nothing_is_left_of_a_run_that_is_killed() -> None:
    """A server ends, and its folder goes, when the process that started it dies by SIGKILL."""
    text = "from tests.brokers import Redis; s = Redis(); s.start(); print(s.pid, s.folder, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        os.kill(owner.pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the server")
    until(lambda: not Path(folder).exists(), "the end of its folder")


def test_a_server_that_does_not_start_says_why() -> None:
    """The error of a failed start shows what the server wrote."""
    server = Redis(options=("port no-such-number",))
    try:
        with pytest.raises(ServerFailed, match=r"(?s)ended with status.*no-such-number"):
            server.start()
    finally:
        server.close()


def test_a_missing_server_is_an_error_with_the_cure() -> None:
    """A program that is not installed is named, with the command that installs it."""
    with pytest.raises(ServerFailed, match="no-such-server is not installed; install it with: x"):
        program("no-such-server", cure="install it with: x")


def test_somebody_elses_server_is_not_ended() -> None:
    """A server that a variable names cannot be killed by a test."""
    server = ExistingServer("redis://localhost:6379/1", "MESSAGING_TEST_REDIS_URL")
    assert server.url_for("kombu+redis") == "kombu+redis://localhost:6379/1"
    with pytest.raises(ServerFailed, match="'kill', and MESSAGING_TEST_REDIS_URL"):
        server.kill()


def test_a_port_is_given_once_by_all_processes() -> None:
    """What another process has been given, and does not listen at yet, is passed over as long as that one lives."""
    taken = free_port()
    program = (
        "import random\n"
        "real = random.SystemRandom.randrange\n"
        f"first = iter([{taken}])\n"
        "random.SystemRandom.randrange = lambda self, *bounds: next(first, 0) or real(self, *bounds)\n"
        "from tests.brokers.ports import free_port\n"
        "print(free_port(), next(first, 'it was tried'))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=30, check=True)
    port, tried = done.stdout.split(maxsplit=1)
    assert tried.strip() == "it was tried"
    assert int(port) != taken
