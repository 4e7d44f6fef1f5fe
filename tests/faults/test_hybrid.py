"""A service with calls on one transport and notifications on another: when the server behind one of them is killed or
stands still, the other does not feel it.

A second service of the same kind, the control, does the same operations in the same seconds, in a process of its own;
only its other side is in memory, and nothing breaks there. So what a busy machine does to both is no harm, and what is
left has the outage as its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import messaging
from messaging import rpc
from tests.brokers import Kafka, Rabbit, Router, Server
from tests.brokers.router import RouterOfTests, installed
from tests.faults.conftest import Stage
from tests.faults.pace import p99, paced
from tests.faults.processes import Worker, until

# Two brokers are started within the first test.

WARM, BEFORE, SECONDS = 0.5, 1.0, 2.0
UNHARMED = 3.0
"""How many times longer than the control's the 99th percentile may be beside an outage."""
NOISE = 0.010
"""Seconds by which the two processes differ by chance."""
CALM = 0.050
"""Seconds above which the control is so slow that the machine must be busy, and a window says little."""
WINDOWS = 7
"""How often it is measured where the first time looks like harm, or says little. Two processes that share two
processors with three busy ones are not starved in the same moments: in one of ten windows one of them was three times
as slow as the other. An outage harms as long as it lasts, so most of the windows show it.
"""
CONTROL = "control"


@dataclass(frozen=True)
class Pair:
    """The 99th percentile of the service under test and of its control, in the same seconds."""

    tested: float
    control: float

    def __str__(self) -> str:
        return f"{self.tested * 1e3:.1f} ms (control {self.control * 1e3:.1f} ms)"

    @property
    def apart(self) -> bool:
        """Whether it is worse than what the control explains."""
        return self.tested > UNHARMED * self.control + NOISE

    @property
    def clear(self) -> bool:
        """Whether it alone shows that there is no harm."""
        return not self.apart and self.control <= CALM


Measure = Callable[[float], Pair]
"""Measures both services for so many seconds."""


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    with Rabbit() as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with Kafka() as broker:
        yield broker


@pytest.fixture(scope="module", params=["the router of the tests", *installed()])
def router(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Router(kind=request.param) if request.param in installed() else RouterOfTests() as running:
        yield running


def configured(directory: Path, rpc_url: str, notify_url: str, name: str = "service") -> Path:
    """The file that says which transports a service has."""
    path = directory / f"{name}.toml"
    path.write_text(f'[messaging.rpc]\nurl = "{rpc_url}"\n[messaging.notify]\nurl = "{notify_url}"\n', "utf-8")
    return path


def service(stage: Stage, config: Path, plant: str = "") -> Worker:
    """Start the service; it can be reached when this returns."""
    worker = stage.worker("hybrid", plant, config=str(config), topic=stage.topic)
    worker.expect("ready")
    return worker


def control(stage: Stage, config: Path) -> Worker:
    """Start the control, on topics of its own."""
    worker = stage.worker("hybrid", config=str(config), topic=CONTROL, name=CONTROL)
    worker.expect("ready")
    return worker


def heard(stage: Stage) -> int:
    """How many notifications the service under test has handled."""
    return sum(entry.operation == "heard" and entry.process != CONTROL for entry in stage.entries("effect"))


def verdict(beside: list[Pair]) -> bool | None:
    """Whether there is harm, by the windows so far; None: they do not tell yet."""
    if beside[0].clear:
        return False
    apart = sum(pair.apart for pair in beside)
    if 2 * apart > WINDOWS:
        return True
    return False if 2 * (len(beside) - apart) > WINDOWS else None


def harm(measure: Measure, break_it: Callable[[], None]) -> list[str]:
    """Measure one side, break the other, and measure again. What is wrong, a line for people; nothing wrong is []."""
    measure(WARM)
    before = measure(BEFORE)
    break_it()
    beside = [measure(SECONDS)]
    while (harmed := verdict(beside)) is None:
        beside.append(measure(SECONDS))
    said = f"p99 before {before}, beside the outage {', then '.join(map(str, beside))}"
    print(said)
    return [said] if harmed else []


def routed(router: Server) -> str:
    """The URL by which calls go over a router."""
    return f"{router.url}?profile=router"


def harm_to_calls(
    stage: Stage, notify_server: Server, break_it: Callable[[], None], plant: str = "", rpc_url: str = ""
) -> list[str]:
    """What harms calls over ZeroMQ, or what `rpc_url` says, when notifications go over a broker that breaks."""
    rpc_url = rpc_url or stage.url
    service(stage, configured(stage.directory, rpc_url, notify_server.url), plant)
    control(stage, configured(stage.directory, rpc_url, "memory://", CONTROL))
    with (
        messaging.open_transport(rpc_url) as transport,
        messaging.open_transport(rpc_url) as another,
        ThreadPoolExecutor(2) as threads,
    ):

        def calls(client: rpc.Client, seconds: float) -> float:
            return p99(paced(lambda number: client.submit(None, "work", id=f"i{number}"), seconds))

        tested = rpc.Client(transport, messaging.Target(topic=stage.topic), timeout=30)
        other = rpc.Client(another, messaging.Target(topic=CONTROL), timeout=30)
        return harm(lambda seconds: Pair(*threads.map(calls, (tested, other), (seconds, seconds))), break_it)


def harm_to_notifications(
    stage: Stage, worker: Worker, notify_server: Server, break_it: Callable[[], None]
) -> list[str]:
    """What harms notifications of a service whose calls go over a server that breaks."""
    workers = [worker, control(stage, configured(stage.directory, "memory://", notify_server.url, CONTROL))]

    def measure(seconds: float) -> Pair:
        for each in workers:
            each.send("notify", seconds=seconds)
        return Pair(*(p99(each.answer("notify")) for each in workers))

    return harm(measure, break_it)


def test_a_killed_broker_of_notifications_leaves_calls_alone(stage: Stage, rabbit: Rabbit) -> None:
    """RabbitMQ is killed: calls over ZeroMQ are as fast as before and all answered, and notifications go on when it is
    back.
    """
    assert harm_to_calls(stage, rabbit, rabbit.kill) == []
    before = heard(stage)
    assert before
    rabbit.start()
    client = stage.client(timeout=10)
    until(lambda: client.call(None, "work", id="after") and heard(stage) > before, "a notification after the outage")


def test_a_frozen_broker_of_notifications_leaves_calls_alone(stage: Stage, kafka: Kafka) -> None:
    """Kafka stands still: calls over ZeroMQ are as fast as before and all answered."""
    try:
        assert harm_to_calls(stage, kafka, kafka.pause) == []
    finally:
        kafka.resume()


def test_a_frozen_broker_of_calls_leaves_notifications_alone(stage: Stage, rabbit: Rabbit, kafka: Kafka) -> None:
    """RabbitMQ stands still: notifications of the same service over Kafka are as fast as before, and all confirmed."""
    worker = service(stage, configured(stage.directory, rabbit.url, kafka.url))
    try:
        assert harm_to_notifications(stage, worker, kafka, rabbit.pause) == []
    finally:
        rabbit.resume()


def test_a_frozen_broker_of_notifications_leaves_calls_over_a_router_alone(
    stage: Stage, router: Server, kafka: Kafka
) -> None:
    """Kafka stands still: calls over a router are as fast as before and all answered."""
    try:
        assert harm_to_calls(stage, kafka, kafka.pause, rpc_url=routed(router)) == []
    finally:
        kafka.resume()


def test_a_killed_router_leaves_notifications_alone(stage: Stage, router: Server, rabbit: Rabbit) -> None:
    """A router is killed: notifications of the same service over RabbitMQ are as fast as before and all confirmed; when
    it is back, calls go on.
    """
    config = configured(stage.directory, routed(router), rabbit.url)
    worker = service(stage, config)
    with messaging.open_transports(messaging.load_config(config)) as transports:
        client = rpc.Client(transports.rpc, messaging.Target(topic=stage.topic), timeout=10).prepare(
            wait_for_ready=True
        )
        until(lambda: client.call(None, "work", id="before") and heard(stage), "a notification before the outage")
        assert harm_to_notifications(stage, worker, rabbit, router.kill) == []
        router.start()
        assert client.call(None, "work", id="after") == "after"


# The last one: nobody needs the broker after it.
def test_harm_between_transports_is_seen(stage: Stage, rabbit: Rabbit) -> None:
    """A transport whose every try to connect keeps the whole process from running is found by its neighbour's p99."""
    assert harm_to_calls(stage, rabbit, rabbit.kill, "connects_with_a_jolt") != []
