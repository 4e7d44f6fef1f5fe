"""One subject set up to be measured: its infrastructure, its server processes and its client process."""

from __future__ import annotations

import json
from contextlib import ExitStack

from benchmarks.load import Figures
from benchmarks.processes import Worker, cpu_seconds, resident_mb
from benchmarks.rows import BURSTS
from benchmarks.subject import Place, load

PAYLOAD = 100  # bytes


class Rig:
    """A subject that runs. Raises WorkerFailed or ImportError when it cannot be built; what was started is stopped
    then.
    """

    def __init__(self, name: str, servers: int) -> None:
        self._stack = ExitStack()
        with self._stack:
            subject = load(name)
            self._place: Place = self._stack.enter_context(subject.infrastructure())
            if subject.one_process:
                self._client = self._start(name, "both", str(servers))
                self._servers = [self._client]
                self._client.ready()
            else:
                self._servers = [self._start(name, "server", str(index)) for index in range(servers)]
                addresses = [address for server in self._servers for address in server.ready()]
                self._client = self._start(name, "client", json.dumps(addresses))
                self._client.ready()
            self._stack = self._stack.pop_all()

    def run(self, load_name: str, **arguments: float) -> Figures:
        """Put one load on it for one round; adds `cpu_us`, the processor time per message of all its processes."""
        before = self._cpu()
        if load_name in BURSTS:
            figures = self._burst(load_name, int(arguments["count"]))
        else:
            figures = self._client.ask(load_name, size=PAYLOAD, **arguments)
        figures["cpu_us"] = (self._cpu() - before) / figures["count"] * 1e6
        return figures

    def memory(self) -> Figures:
        """Return the resident memory of its processes in MB; a subject of one process counts it as its client's."""
        figures = {"client_mb": resident_mb(self._client.pid)}
        if self._servers != [self._client]:
            figures["server_mb"] = resident_mb(self._servers[0].pid)
        if self._place.pids:
            figures["broker_mb"] = sum(map(resident_mb, self._place.pids))
        return figures

    def stop(self) -> None:
        """Stop all, the client first."""
        self._stack.close()

    def _start(self, name: str, role: str, argument: str) -> Worker:
        worker = Worker(name, role, self._place.address, argument)
        self._stack.callback(worker.stop)
        return worker

    def _burst(self, kind: str, count: int) -> Figures:
        for server in self._servers:
            server.ask("expect", count=count)
        burst = self._client.ask(kind, size=PAYLOAD, count=count)
        last = max(server.ask("handled")["at"] for server in self._servers)
        return {
            "count": count,
            "sent_per_s": count / (burst["sent"] - burst["start"]),
            # Not earlier than the sender's own end: a sender that waits for more than the handling pays for it.
            "per_s": count / (max(last, burst["sent"]) - burst["start"]),
        }

    def _cpu(self) -> float:
        pids = {self._client.pid, *(server.pid for server in self._servers), *self._place.pids}
        return sum(map(cpu_seconds, pids))
