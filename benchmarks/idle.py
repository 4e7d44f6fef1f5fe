"""What services cost a broker while nothing happens: each a server and a client of a topic of its own, counted there.

A few processes hold many services each, every one with transports of its own, so to the broker they are what a hundred
processes would be. Each makes one call first: some clients connect at their first use.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.load import Figures
from benchmarks.processes import Worker, WorkerFailed, cpu_seconds, resident_mb
from benchmarks.servers import ServerFailed
from tests.brokers import Rabbit

SUBJECTS = {"rabbit": "rabbit", "kombu": "kombu", "oslo": "rabbit"}
"""Subjects, and the scheme of their URLs."""
_PROCESSES = 4
_WATCHED = 3.0  # seconds


@dataclass
class Idle:
    """What was counted for one subject, or why it was not."""

    figures: Figures
    failure: str = ""


def measure(services: int) -> dict[str, Idle]:
    """Count for each subject, on a broker of its own."""
    found = {}
    for subject, scheme in SUBJECTS.items():
        print(f"Idle cost of {services} services: {subject}", file=sys.stderr, flush=True)
        try:
            found[subject] = Idle(_measured(subject, scheme, services))
        except (ImportError, OSError, ServerFailed, WorkerFailed) as error:
            found[subject] = Idle({}, str(error))
    return found


def _measured(subject: str, scheme: str, services: int) -> Figures:
    with Rabbit() as broker, ExitStack() as stack:
        fresh_mb = resident_mb(broker.pid)
        workers = []
        each = services // _PROCESSES
        for number in range(_PROCESSES):
            argument = json.dumps([number * each, each])
            worker = Worker(subject, "services", broker.url_for(scheme), argument)
            # Not stopped one after the other: that takes oslo.messaging seconds for each service.
            stack.callback(worker.kill)
            workers.append(worker)
        for worker in workers:
            worker.ready()
        for worker in workers:
            worker.ask("call_each")
        before, start = _cpu(broker, workers), time.monotonic()
        time.sleep(_WATCHED)
        after, seconds = _cpu(broker, workers), time.monotonic() - start
        count = each * _PROCESSES
        return {
            "services": count,
            "connections": len(broker.connections()),
            "channels": len(broker.channels()),
            "queues": len(broker.queues()),
            "broker_mb": (resident_mb(broker.pid) - fresh_mb) / count,
            "service_mb": sum(resident_mb(worker.pid) for worker in workers) / count,
            "broker_cpu": (after[0] - before[0]) / seconds * 100,
            "services_cpu": (after[1] - before[1]) / seconds * 100,
        }


def _cpu(broker: Rabbit, workers: list[Worker]) -> tuple[float, float]:
    return cpu_seconds(broker.pid), sum(cpu_seconds(worker.pid) for worker in workers)
