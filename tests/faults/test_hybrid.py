"""A service with calls on one transport and notifications on another: when the server behind one of them is killed or
stands still, the other does not feel it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import messaging
from messaging import rpc
from tests.brokers import Kafka, Rabbit, Router, Server
from tests.brokers.router import RouterOfTests, installed
from tests.faults.conftest import Stage
from tests.faults.pace import p99, paced
from tests.faults.processes import Stall, Worker, until

# Two brokers are started within the first test.
pytestmark = pytest.mark.timeout(120)

WARM, SECONDS = 0.5, 2.0
UNHARMED = 3.0
"""How many times longer the 99th percentile may be beside an outage."""
NOISE = 0.050
"""Seconds by which two measurements differ when other programs take one of two processors for a while. The planted
bug costs ten times as much, or more.
"""


@dataclass(frozen=True)
class Beside:
    """The 99th percentile before and during an outage of the other side, and how long this machine stood still."""

    before: float
    during: float
    stalled: float

    def harm(self) -> list[str]:
        """What is wrong, a line for people; nothing wrong is []."""
        print(f"p99 before {self.before * 1e3:.1f} ms, beside the outage {self.during * 1e3:.1f} ms")
        allowed = UNHARMED * self.before + NOISE + self.stalled
        return [] if self.during <= allowed else [f"{self.during:.3f} s beside the outage, {self.before:.3f} s before"]


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


def configured(directory: Path, rpc_url: str, notify_url: str) -> Path:
    """The file that says which transports a service has."""
    path = directory / "service.toml"
    path.write_text(f'[messaging.rpc]\nurl = "{rpc_url}"\n[messaging.notify]\nurl = "{notify_url}"\n', "utf-8")
    return path


def service(stage: Stage, config: Path, plant: str = "") -> Worker:
    """Start the service; it can be reached when this returns."""
    worker = stage.worker("hybrid", plant, config=str(config), topic=stage.topic)
    worker.expect("ready")
    return worker


def heard(stage: Stage) -> int:
    """How many notifications have been handled."""
    return sum(entry.operation == "heard" for entry in stage.entries("effect"))


def beside(measure: Callable[[float], list[float]], break_it: Callable[[], None]) -> Beside:
    """Measure one side for so many seconds, break the other, and measure again."""
    measure(WARM)
    before = p99(measure(SECONDS))
    break_it()
    with Stall() as stall:
        during = p99(measure(SECONDS))
    return Beside(before, during, stall.worst)


def routed(router: Server) -> str:
    """The URL by which calls go over a router."""
    return f"{router.url}?profile=router"


def calls_beside_an_outage(
    stage: Stage, notify_server: Server, break_it: Callable[[], None], plant: str = "", rpc_url: str = ""
) -> Beside:
    """Calls over ZeroMQ, or what `rpc_url` says, and notifications over a broker that breaks."""
    config = configured(stage.directory, rpc_url or stage.url, notify_server.url)
    service(stage, config, plant)
    with messaging.open_transports(messaging.load_config(config)) as transports:
        client = rpc.Client(transports.rpc, messaging.Target(topic=stage.topic), timeout=10)
        return beside(
            lambda seconds: paced(lambda number: client.submit(None, "work", id=f"i{number}"), seconds), break_it
        )


def test_a_killed_broker_of_notifications_leaves_calls_alone(stage: Stage, rabbit: Rabbit) -> None:
    """RabbitMQ is killed: calls over ZeroMQ are as fast as before and all answered, and notifications go on when it is
    back.
    """
    assert calls_beside_an_outage(stage, rabbit, rabbit.kill).harm() == []
    before = heard(stage)
    assert before
    rabbit.start()
    client = stage.client(timeout=10)
    until(lambda: client.call(None, "work", id="after") and heard(stage) > before, "a notification after the outage")


def test_a_frozen_broker_of_notifications_leaves_calls_alone(stage: Stage, kafka: Kafka) -> None:
    """Kafka stands still: calls over ZeroMQ are as fast as before and all answered."""
    try:
        assert calls_beside_an_outage(stage, kafka, kafka.pause).harm() == []
    finally:
        kafka.resume()


def test_a_frozen_broker_of_calls_leaves_notifications_alone(stage: Stage, rabbit: Rabbit, kafka: Kafka) -> None:
    """RabbitMQ stands still: notifications of the same service over Kafka are as fast as before, and all confirmed."""
    worker = service(stage, configured(stage.directory, rabbit.url, kafka.url))
    try:
        assert beside(lambda seconds: worker.ask("notify", seconds=seconds), rabbit.pause).harm() == []
    finally:
        rabbit.resume()


def test_a_frozen_broker_of_notifications_leaves_calls_over_a_router_alone(
    stage: Stage, router: Server, kafka: Kafka
) -> None:
    """Kafka stands still: calls over a router are as fast as before and all answered."""
    try:
        assert calls_beside_an_outage(stage, kafka, kafka.pause, rpc_url=routed(router)).harm() == []
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
        assert beside(lambda seconds: worker.ask("notify", seconds=seconds), router.kill).harm() == []
        router.start()
        assert client.call(None, "work", id="after") == "after"


# The last one: nobody needs the broker after it.
def test_harm_between_transports_is_seen(stage: Stage, rabbit: Rabbit) -> None:
    """A transport whose every try to connect keeps the whole process from running is found by its neighbour's p99."""
    assert calls_beside_an_outage(stage, rabbit, rabbit.kill, "connects_with_a_jolt").harm() != []
