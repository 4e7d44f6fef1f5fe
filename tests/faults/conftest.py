"""The stage of every fault test: a directory for discovery, a history, workers that are ended in the end, transports
that are closed and whose counts have to balance.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import rpc
from messaging.counters import OUTCOMES
from tests.brokers import Rabbit
from tests.faults.history import Entry, History, Recorder, read
from tests.faults.processes import Worker, until

__all__ = ["Stage"]


class Stage:
    """What a test needs to set up its processes; made by the fixture of the same name."""

    def __init__(self, directory: Path, url: str = "", topic: str = "t") -> None:
        self.directory = directory
        self.records = directory / "records"
        self.url = url or f"zmq+local://{self.records}"
        self.topic = topic
        self.path = directory / "history"
        self.recorder = Recorder(self.path, "test")
        self._workers: list[Worker] = []
        self._transports: list[messaging.Transport] = []
        self._unwritten: set[Future[Any]] = set()
        """Calls whose end is not in the history yet: who waits for a future is woken before its callbacks run."""

    def worker(self, program: str, plant: str = "", **settings: Any) -> Worker:
        """Start a worker process."""
        worker = Worker(program, plant, url=self.url, history=str(self.path), **settings)
        self._workers.append(worker)
        return worker

    def service(self, server: str, topic: str = "", plant: str = "", *, wait: bool = True, **settings: Any) -> Worker:
        """Start a server process; it can be reached when this returns, unless told not to wait."""
        worker = self.worker("service", plant, server=server, topic=topic or self.topic, **settings)
        if wait:
            worker.expect("ready")
        return worker

    def transport(self, **options: Any) -> messaging.Transport:
        """Open a transport in this process."""
        transport = messaging.open_transport(self.url, **options)
        self._transports.append(transport)
        return transport

    def client(self, topic: str = "", **options: Any) -> rpc.Client:
        """Make a client on a transport of its own."""
        return rpc.Client(self.transport(), messaging.Target(topic=topic or self.topic), **options)

    def call(self, client: rpc.Client, timeout: float, operation: str, id: str, **arguments: Any) -> Any:
        """Make a call that goes into the history; `timeout` is the client's. Returns the value or the error."""
        return self.recorder.run(operation, id, timeout, lambda: client.call(None, operation, id=id, **arguments))

    def submit(self, client: rpc.Client, timeout: float, operation: str, id: str, **arguments: Any) -> Future[Any]:
        """The same without waiting."""
        self.recorder.write("invoke", operation, id, timeout)
        future = client.submit(None, operation, id=id, **arguments)

        def ended(future: Future[Any]) -> None:
            error = future.exception()
            if isinstance(error, messaging.MessagingError):
                self.recorder.failed(operation, id, error)
            else:
                self.recorder.write("ok", operation, id, future.result())
            self._unwritten.discard(future)

        self._unwritten.add(future)
        future.add_done_callback(ended)
        return future

    def entries(self, kind: str = "") -> list[Entry]:
        """What is in the history so far, of one kind."""
        return [entry for entry in read(self.path) if not kind or entry.kind == kind]

    def history(self) -> History:
        """The history so far, to be judged; what has ended is in it."""
        self.written()
        return History(read(self.path))

    def written(self) -> None:
        """Wait until every call that has ended is in the history."""
        until(lambda: not any(future.done() for future in list(self._unwritten)), "all ends are written down")

    def effects(self, number: int) -> None:
        """Wait until so many handlers have run."""
        until(lambda: len(self.entries("effect")) >= number, f"{number} effects")

    def close(self) -> None:
        """End everything. Raises AssertionError where counts do not balance."""
        try:
            for transport in self._transports:
                transport.close(1.0)
        finally:
            for worker in self._workers:
                # Shown with a test that has failed.
                print(worker.pid, worker.errors())
                worker.close()
            self.recorder.close()
        for transport in self._transports:
            assert_balanced(transport.stats())


def assert_balanced(counts: dict[str, int]) -> None:
    """Everything that was sent has ended in exactly one outcome, and nothing is under way any more."""
    for kind in ("call", "cast", "fanout", "notify"):
        ended = {name: counts.get(f"{kind}.{name}", 0) for name in OUTCOMES}
        assert counts.get(f"{kind}.in_flight", 0) == 0
        assert counts.get(f"{kind}.sent", 0) == sum(ended.values()), f"{kind}: {counts}"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage of its own for each test."""
    made = Stage(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def mistreated_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """A RabbitMQ that tests may stop, kill, fill and frighten, if they leave it running and well."""
    with Rabbit(tmp_path_factory.mktemp("mistreated-rabbit")) as broker:
        yield broker


@pytest.fixture
def background() -> Iterator[Callable[..., Any]]:
    """Run functions in threads that are joined at the end of the test; what they raise fails it."""
    threads: list[threading.Thread] = []
    raised: list[BaseException] = []

    def start(function: Callable[..., Any], *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, name=f"background {function.__name__}", daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), f"{thread.name} did not end"
    if raised:
        raise raised[0]
