"""What is promised of messaging's speed, as ratios to peers of the same run, and whether a run kept it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.rounds import Results


@dataclass(frozen=True)
class Figure:
    """The median of one figure of one subject in one row."""

    row: str
    subject: str
    name: str

    def of(self, results: Results) -> float | None:
        """Look it up; None where it was not measured."""
        cell = results.cells.get(self.row, {}).get(self.subject)
        return cell.median(self.name) if cell else None


@dataclass(frozen=True)
class Target:
    """A bound on our figure, or on its ratio to a peer's."""

    title: str
    ours: Figure
    theirs: Figure | None
    bound: float
    at_most: bool
    unit: str = "×"


@dataclass(frozen=True)
class Verdict:
    """What a run says about one target; `value` is None where a figure is missing."""

    title: str
    value: float | None
    bound: float
    at_most: bool
    unit: str

    @property
    def met(self) -> bool | None:
        """Tell whether the target was met; None where nobody knows."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def _sequential(subject: str) -> Figure:
    return Figure("sequential", subject, "p50_us")


def _at_least(title: str, row: str, ours: str, theirs: str, bound: float) -> Target:
    return Target(title, Figure(row, ours, "per_s"), Figure(row, theirs, "per_s"), bound, at_most=False)


TARGETS = (
    Target(
        "zmq, one caller, p50 with a worker pool, of bare pyzmq's", _sequential("zmq"), _sequential("pyzmq"), 2.5, True
    ),
    Target("zmq, one caller, p50 inline, of bare pyzmq's", _sequential("zmq-inline"), _sequential("pyzmq"), 2.0, True),
    Target("zmq, one caller, p50 with a worker pool, of grpcio's", _sequential("zmq"), _sequential("grpc"), 0.6, True),
    Target(
        "zmq, 16 threads, calls/s, of grpcio's",
        Figure("threads", "zmq", "per_s"),
        Figure("threads", "grpc", "per_s"),
        4.0,
        False,
    ),
    Target(
        "zmq, asyncio, 64 in flight, inline handler, calls/s, of nats-py's",
        Figure("asyncio", "zmq-aio-inline", "per_s"),
        Figure("asyncio", "nats", "per_s"),
        2.5,
        False,
    ),
    Target(
        "zmq, asyncio, 64 in flight, a task per call, calls/s, of nats-py's",
        Figure("asyncio", "zmq-aio", "per_s"),
        Figure("asyncio", "nats", "per_s"),
        2.5,
        False,
    ),
    Target("memory, one caller, p50 with a worker pool", _sequential("memory"), None, 100.0, True, "µs"),
    _at_least("rabbit, one caller, calls/s, of oslo.messaging's", "rabbit-sequential", "rabbit", "oslo", 3.5),
    Target(
        "rabbit, one caller, p50, of pika's own stepped loop",
        Figure("rabbit-sequential", "rabbit", "p50_us"),
        Figure("rabbit-sequential", "pika", "p50_us"),
        1.1,
        True,
    ),
    _at_least("rabbit, 16 threads, calls/s, of oslo.messaging's", "rabbit-threads", "rabbit", "oslo", 8.0),
    _at_least("rabbit, asyncio, 64 in flight, calls/s, of aio-pika's", "rabbit-asyncio", "rabbit-aio", "aio-pika", 3.0),
    _at_least("rabbit, casts confirmed and handled, of oslo.messaging's", "rabbit-casts", "rabbit", "oslo", 8.0),
    _at_least(
        "rabbit, notifications confirmed and handled, of oslo.messaging's",
        "rabbit-notifications",
        "rabbit-notify",
        "oslo-notify",
        8.0,
    ),
    *(
        _at_least(f"kombu, {title}, of rabbit's", row, ours, theirs, 0.7)
        for title, row, ours, theirs in (
            ("one caller, calls/s", "rabbit-sequential", "kombu", "rabbit"),
            ("16 threads, calls/s", "rabbit-threads", "kombu", "rabbit"),
            ("asyncio, 64 in flight, calls/s", "rabbit-asyncio", "kombu-aio", "rabbit-aio"),
            ("casts confirmed and handled", "rabbit-casts", "kombu", "rabbit"),
            ("notifications confirmed and handled", "rabbit-notifications", "kombu-notify", "rabbit-notify"),
        )
    ),
    Target(
        "kafka, notifications confirmed, of bare confluent-kafka's",
        Figure("kafka-notifications", "kafka", "sent_per_s"),
        Figure("kafka-notifications", "confluent-kafka", "sent_per_s"),
        0.5,
        False,
    ),
    _at_least(
        "kafka, notifications handled, of bare confluent-kafka's",
        "kafka-notifications",
        "kafka",
        "confluent-kafka",
        0.5,
    ),
    _at_least("kafka, notifications handled, of oslo.messaging's", "kafka-notifications", "kafka", "oslo-kafka", 5.0),
    Target(
        "amqp1, one caller, p50, of a plain loop on proton's engine",
        Figure("amqp1-sequential", "amqp1", "p50_us"),
        Figure("amqp1-sequential", "proton", "p50_us"),
        0.9,
        True,
    ),
    _at_least(
        "amqp1, 16 threads, calls/s, of proton's blocking request/response",
        "amqp1-threads",
        "amqp1",
        "proton-blocking",
        8.0,
    ),
    _at_least("amqp1, casts, of proton's blocking sends", "amqp1-casts", "amqp1", "proton-blocking", 3.0),
)

IMPORT_MS = 60.0


def verdicts(results: Results, import_ms: float | None) -> list[Verdict]:
    """Compare a run with every target; those whose rows were not asked for are left out."""
    found = []
    for target in TARGETS:
        if target.ours.row in results.cells:
            value = _value(target, results)
            found.append(Verdict(target.title, value, target.bound, target.at_most, target.unit))
    if import_ms is not None:
        found.append(Verdict("import messaging, cold", import_ms, IMPORT_MS, True, "ms"))
    return found


def _value(target: Target, results: Results) -> float | None:
    ours = target.ours.of(results)
    if target.theirs is None or ours is None:
        return ours
    theirs = target.theirs.of(results)
    return ours / theirs if theirs else None
