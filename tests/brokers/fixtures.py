"""The servers as fixtures: one of each kind for the whole session, started when a test first asks for it.

A test that stops, kills or freezes its server takes a private one instead: `with Rabbit() as broker:`, or a fixture of
its own around that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.brokers.artemis import Artemis
from tests.brokers.broker_j import BrokerJ
from tests.brokers.certificates import Certificates
from tests.brokers.kafka import Kafka
from tests.brokers.rabbit import Rabbit
from tests.brokers.redis import Redis
from tests.brokers.router import Router, listed
from tests.brokers.server import ExistingServer, Server
from tests.unit.amqp1_router import Router as RouterInProcess

__all__: list[str] = []


def pytest_report_header() -> str:
    """What differs between machines: on which routers the tests run."""
    return listed()


def _one(kind: type[Server], variable: str, factory: pytest.TempPathFactory) -> Iterator[Server | ExistingServer]:
    url = os.environ.get(variable)
    if url:
        yield ExistingServer(url, variable)
        return
    with kind(factory.mktemp(kind.__name__.lower())) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | ExistingServer]:
    """RabbitMQ; MESSAGING_TEST_RABBIT_URL (rabbit://user:password@host:port/vhost) names one that is there already."""
    yield from _one(Rabbit, "MESSAGING_TEST_RABBIT_URL", tmp_path_factory)


@pytest.fixture(scope="session")
def rabbit_amqp1_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """RabbitMQ that speaks AMQP 1.0 too, on the same port."""
    with Rabbit(tmp_path_factory.mktemp("rabbit-amqp1"), plugins=["rabbitmq_amqp1_0"]) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | ExistingServer]:
    """A redis; MESSAGING_TEST_REDIS_URL (redis://host:port/0) names one that is there already."""
    yield from _one(Redis, "MESSAGING_TEST_REDIS_URL", tmp_path_factory)


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | ExistingServer]:
    """Kafka; MESSAGING_TEST_KAFKA_URL (kafka://host:port/) names one that is there already."""
    yield from _one(Kafka, "MESSAGING_TEST_KAFKA_URL", tmp_path_factory)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that this session has made."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def artemis_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | ExistingServer]:
    """Artemis; MESSAGING_TEST_ARTEMIS_URL (amqp1://host:port/) names one that is there already."""
    yield from _one(Artemis, "MESSAGING_TEST_ARTEMIS_URL", tmp_path_factory)


@pytest.fixture(scope="session")
def broker_j(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | ExistingServer]:
    """Broker-J; MESSAGING_TEST_BROKER_J_URL (amqp1://host:port/vhost) names one that is there already."""
    yield from _one(BrokerJ, "MESSAGING_TEST_BROKER_J_URL", tmp_path_factory)


@pytest.fixture(scope="session")
def qdrouterd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """qpid-dispatch, for tests that exist only where `tests.brokers.router.installed()` finds it."""
    with Router(tmp_path_factory.mktemp("qdrouterd"), "qdrouterd") as server:
        yield server


@pytest.fixture(scope="session")
def skrouterd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """skupper-router, for tests that exist only where `tests.brokers.router.installed()` finds it."""
    with Router(tmp_path_factory.mktemp("skrouterd"), "skrouterd") as server:
        yield server


@pytest.fixture(scope="session")
def router_in_process() -> Iterator[RouterInProcess]:
    """A router in a thread of this process: what the tests of AMQP 1.0 have where no router is installed."""
    with RouterInProcess() as router:
        yield router
