"""Processes that work together over a private broker: one that sends, some that receive, and what became of it all.

Several fleets share a broker, each with a topic and a history of its own: so one accident of the broker, which takes
seconds, is had by every scheme and by every planted bug at the same time.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.brokers import Rabbit, Redis
from tests.brokers.artemis import Artemis
from tests.brokers.kafka import Kafka
from tests.faults.conftest import Stage
from tests.faults.history import Entry, History
from tests.faults.processes import Worker, came_true, until

__all__ = ["SCHEMES", "Fleet", "events_pool", "requests_queue"]

SCHEMES = ("rabbit", "kombu")


class Fleet(Stage):
    """A stage over a broker, with a sender and receivers. `transport`: options of every process's transport. `asyncio`:
    all of it over that face.
    """

    def __init__(
        self,
        directory: Path,
        broker: Rabbit | Kafka | Artemis | Redis,
        scheme: str = "rabbit",
        *,
        plant: str = "",
        transport: dict[str, Any] | None = None,
        asyncio: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory, broker.url_for(scheme), f"t{secrets.token_hex(4)}")
        self.plant = plant
        self._face = "aio_" if asyncio else ""
        self.options = transport or {}
        self.receivers: dict[str, Worker] = {}
        self._entries: list[Entry] = []
        self._read = 0

    def sender(self, **settings: Any) -> Worker:
        """Start the process that sends; it is ready when it says so."""
        program = f"{self._face}load"
        self.load = self.worker(program, self.plant, name="load", topic=self.topic, transport=self.options, **settings)
        return self.load

    def receiver(self, name: str, **settings: Any) -> Worker:
        """Start a process that serves, and listens to the pool that it is told."""
        program = f"{self._face}receiver"
        worker = self.worker(program, self.plant, name=name, topic=self.topic, transport=self.options, **settings)
        self.receivers[name] = worker
        return worker

    def ready(self) -> None:
        """Wait until all are."""
        for worker in (*self.receivers.values(), self.load):
            worker.expect("ready")

    def wait_for(self, number: int, *names: str, within: float = 20.0, since: float = 0.0) -> None:
        """Wait until each of these receivers has had so many effects since a time."""
        until(
            lambda: all(self.count(name, since) >= number for name in names),
            f"{number} effects of each of {names}: {[self.count(name, since) for name in names]}",
            within,
            every=0.05,
        )

    def entries(self, kind: str = "") -> list[Entry]:
        """See Stage. What was read before is not read again: it is asked for often, and there is much of it."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole + end)
        self._entries += [Entry(*json.loads(line)) for line in whole.splitlines()]
        return [entry for entry in self._entries if not kind or entry.kind == kind]

    def history(self) -> History:
        """See Stage."""
        self.written()
        return History(sorted(self.entries()))

    def count(self, name: str, since: float = 0.0) -> int:
        """How many effects a receiver has had since a time."""
        return sum(entry.process == name and entry.at >= since for entry in self.entries("effect"))

    def resumed(self, since: float, operation: str = "") -> dict[str, float]:
        """How many seconds after a time each receiver had its first effect (of one kind); infinity: none."""
        first = dict.fromkeys(self.receivers, float("inf"))
        for entry in self.entries("effect"):
            if entry.at >= since and operation in ("", entry.operation):
                first[entry.process] = min(first.get(entry.process, float("inf")), entry.at - since)
        return first

    def drained(self, pools: Collection[str], within: float = 15.0) -> History:
        """Wait until what was confirmed has arrived, or nothing more has for that time, and return the history."""

        def missing() -> int:
            return len(self.history().lost("notify", pools))

        last = missing()
        while last and came_true(lambda: missing() < last, within):  # noqa: B023
            last = missing()
        return self.history()


def events_pool(topic: str, pool: str) -> str:
    """The queue of a pool of listeners to what `load` notifies."""
    return f"messaging/pool/messaging/{topic}-events/{pool}"


def requests_queue(topic: str) -> str:
    """The queue of the servers of a topic."""
    return f"messaging/any/messaging/{topic}"
