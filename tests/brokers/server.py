"""What every server of the tests can do: start, stop, be killed, be frozen, and be somebody else's.

A server keeps its folder and its ports from `start()` to `close()`, through any number of restarts, so that a client
finds it again at the same address with the same data.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tests.brokers.ports import free_port
from tests.brokers.process import GuardedProcess, ServerFailed

__all__ = ["ExistingServer", "Server"]


class Server(ABC):
    """A private server on 127.0.0.1. Use it in a `with` block, which starts and closes it.

    Not thread-safe, but `kill`, `pause` and `resume` may be called from another thread while nothing else is.
    """

    title: str
    """Its name for people."""
    ready = ""
    """What it writes to its log when it can be used; nothing: when it takes connections on its port."""
    patience = 90.0
    """Seconds for a start or a clean stop that take a tenth of it on an idle machine; less than a test may take."""

    host = "127.0.0.1"

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="messaging-test-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "server.log"
        self.port = free_port()
        self._process: GuardedProcess | None = None

    # What a server is

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL under which the library reaches it."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line. Raises ServerFailed with the cure when the program is not installed."""

    def environment(self) -> Mapping[str, str]:
        """The environment of the process."""
        return os.environ

    def prepare(self) -> None:  # noqa: B027 - most servers need nothing
        """Write what must be there before the first start."""

    # Life and death

    def start(self) -> None:
        """Start it; it can be used when this returns. Raises ServerFailed, with the end of its log, when it cannot."""
        assert self._process is None or not self._process.running, f"{self.title} runs already"
        if self._process is None:
            self.prepare()
        self._process = GuardedProcess(self.command(), self.environment(), self.folder, self.log)
        try:
            if self.ready:
                self._process.wait_for_text(self.ready, self.patience)
            else:
                self._process.wait_for_port(self.host, self.port, self.patience)
        except BaseException:
            self._process.kill()
            raise

    def stop(self) -> None:
        """End it as its operator would (SIGTERM) and wait until it has."""
        self.process.terminate(self.patience)

    def kill(self) -> None:
        """SIGKILL, to all of its processes."""
        self.process.kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port and data."""
        if self.running:
            self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing comes from them."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it without ceremony and remove its data."""
        if self._process is not None:
            self._process.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Looking at it

    @property
    def process(self) -> GuardedProcess:
        """Its process, running or ended; only after the first start."""
        assert self._process is not None, f"{self.title} was never started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The pid of its first process."""
        return self.process.pid


def program(*candidates: str, cure: str) -> str:
    """The first of these programs that is there. Raises ServerFailed with the cure when none is."""
    for candidate in candidates:
        found = shutil.which(candidate)
        if found is not None:
            return found
    raise ServerFailed(f"{candidates[0]} is not installed; {cure}")


class ExistingServer:
    """A server that somebody else runs: it has a URL, and it is not ours to be operated, frozen or killed."""

    def __init__(self, url: str, variable: str) -> None:
        self.url = url
        self._variable = variable

    def url_for(self, scheme: str) -> str:
        """The URL with another scheme."""
        return scheme + self.url[self.url.index("://") :]

    def __getattr__(self, name: str) -> NoReturn:
        """Whatever else a private server can do. Raises ServerFailed."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise ServerFailed(
            f"this test needs a server of its own, for {name!r}, and {self._variable} names one that is not; unset it"
        )

    def close(self) -> None:
        """Nothing: it stays."""
