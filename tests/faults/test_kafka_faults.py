"""Kafka, its members and its notifiers, killed, frozen and moved about: nothing that was confirmed is lost.

Each accident is had by a sound fleet and by fleets with a planted bug at the same time; the checks that the first one
passes find the bugs.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupState, TopicPartition
from confluent_kafka.admin import AdminClient

import messaging
from messaging import notify
from messaging.drivers.base import Role, State
from messaging.drivers.kafka import configuration
from messaging.drivers.kafka.options import KafkaSettings
from messaging.drivers.kafka.subscription import Life, Subscription
from messaging.reactor import Reactor
from tests.brokers.kafka import Kafka
from tests.conformance.subjects.kafka_proxy import KafkaProxy
from tests.faults.fleet import Fleet
from tests.faults.processes import Stall, came_true, until

SESSION = 5.0
"""Seconds without a heartbeat after which a member is given up."""
RESUMED = 15.0
"""Seconds after an accident within which every listener has its next notification."""
TRANSPORT = {"session_timeout": SESSION, "partitions": 4, "heartbeat": 3.0}
SLOWER: dict[str, Any] = {"serves": False, "seconds": 0.05, "listener_options": {"slots": 4}}
SLOW = {"serves": False, "seconds": 0.002, "listener_options": {"slots": 8}}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka that is there to be killed and frozen."""
    with Kafka(tmp_path_factory.mktemp("mistreated-kafka")) as server:
        yield server


@contextmanager
def fleets(directory: Path, broker: Kafka, *bugs: str) -> Iterator[dict[str, Fleet]]:
    """A sound fleet, and one for each bug, by their names."""
    made = {
        name: Fleet(directory / name, broker, "kafka", plant="" if name == "sound" else name, transport=TRANSPORT)
        for name in ("sound", *bugs)
    }
    try:
        yield made
    finally:
        for fleet in made.values():
            fleet.close()


def start(made: dict[str, Fleet], *receivers: str, timeout: float = 10.0, rate: int = 3, **settings: Any) -> None:
    """Start receivers in the pool that their names begin with, and a sender, in each fleet, and let it send."""
    for fleet in made.values():
        for name in receivers:
            fleet.receiver(name, pool=name.partition(".")[0], **(settings or SLOW))
        # Topics are there before anybody sends.
        for name in receivers:
            fleet.receivers[name].expect("ready", 40)
        fleet.sender(timeout=timeout)
        fleet.load.expect("ready")
    for fleet in made.values():
        fleet.load.ask("start", every=0.01, notify=rate)


def stop(made: dict[str, Fleet]) -> None:
    for fleet in made.values():
        fleet.load.send("stop")
    for fleet in made.values():
        fleet.load.expect("did stop", 30)


def busiest(fleet: Fleet, since: float, least: int) -> str | None:
    """The member that has handled most since a time, when it has handled enough."""
    counts = {name: fleet.count(name, since) for name in fleet.receivers}
    name = max(counts, key=counts.__getitem__)
    return name if counts[name] >= least else None


def test_members_that_come_and_go_lose_nothing(tmp_path: Path, broker: Kafka) -> None:
    """Members join, and others are killed with notifications in hand, again and again: each that was confirmed is
    handled. Planted: settled on receipt, what a killed member had in hand is lost.
    """
    with fleets(tmp_path, broker, "settles_on_receipt") as made:
        start(made, "a.0", "a.1", rate=0, **SLOWER)
        for round_ in range(3):
            begun = time.monotonic()
            for fleet in made.values():
                assert fleet.load.ask("burst", 60, number=200, first=200 * round_) == 200
            for fleet in made.values():
                # A burst is in few partitions, so most of it is in hand of one member, who has begun little of it.
                victim = until(lambda: busiest(fleet, begun, 10), "a member is busy", 40)  # noqa: B023
                fleet.receivers.pop(victim).kill()
                fleet.receiver(f"a.{round_ + 2}", pool="a", **SLOWER)
            for fleet in made.values():
                fleet.receivers[f"a.{round_ + 2}"].expect("ready", 40)
        histories = {name: fleet.drained(["a"], 40.0 if name == "sound" else 5.0) for name, fleet in made.items()}
    assert histories["sound"].lost("notify", ["a"]) == []
    assert histories["sound"].failed() == []
    assert histories["settles_on_receipt"].lost("notify", ["a"]) != []


def waiting(fleet: Fleet, least: int) -> str | None:
    """The member in whose memory at least so many wait for another attempt."""
    for name, worker in fleet.receivers.items():
        if worker.ask("stats")["driver.waiting_for_retry"] >= least:
            return name
    return None


def test_a_member_killed_while_attempts_wait(tmp_path: Path, broker: Kafka) -> None:
    """Every notification fails at first, and twice the member that keeps what waits for another attempt is killed: each
    one is handled by those who are left. Planted: what waits in memory counts as done.
    """
    fails: dict[str, Any] = {
        "serves": False,
        "fails_first": True,
        "listener_options": {"slots": 8, "backoff": 15.0},
    }
    with fleets(tmp_path, broker, "takes_waiting_for_done") as made:
        start(made, "a.0", "a.1", rate=0, **fails)
        for round_ in range(2):
            for fleet in made.values():
                assert fleet.load.ask("burst", 60, number=200, first=200 * round_) == 200
            victims = [
                until(partial(waiting, fleet, 100), "a hundred wait in one member", 40, every=0.05)
                for fleet in made.values()
            ]
            careless = made["takes_waiting_for_done"]
            retry = f"messaging.{careless.topic}-events..a.retry"
            until(lambda: committed(broker, careless, retry) > 0, "the bug is had", every=0.05)  # noqa: B023
            for fleet, victim in zip(made.values(), victims, strict=True):
                fleet.receivers.pop(victim).kill()
                fleet.receiver(f"a.{round_ + 2}", pool="a", **fails)
            for fleet in made.values():
                fleet.receivers[f"a.{round_ + 2}"].expect("ready", 40)
        # Longer than anything may wait, with the bug too.
        histories = {name: fleet.drained(["a"], 40.0 if name == "sound" else 20.0) for name, fleet in made.items()}
    assert histories["sound"].lost("notify", ["a"]) == []
    assert histories["sound"].failed() == []
    assert histories["takes_waiting_for_done"].lost("notify", ["a"]) != []


def committed(broker: Kafka, fleet: Fleet, topic: str) -> int:
    """How far pool "a" of a fleet is done with the first partition of a topic."""
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": f"a@messaging.{fleet.topic}-events", "log_level": 0}
    )
    try:
        (found,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
    finally:
        consumer.close()
    return int(found.offset)


def test_a_broker_that_is_killed_and_comes_back(tmp_path: Path, broker: Kafka) -> None:
    """SIGKILL under load: all listeners go on when it is back, and what was confirmed before, during and after has
    reached both pools. Planted: a connection that comes back and hands over nothing more.
    """
    with Stall() as stall, fleets(tmp_path, broker, "deaf_after_a_loss") as made:
        start(made, "a", "b", timeout=20.0)
        made["sound"].wait_for(100, "a", "b", within=40)
        broker.kill()
        broker.start()
        back = time.monotonic()
        sound = made["sound"]
        came_true(lambda: max(sound.resumed(back).values()) < RESUMED, RESUMED + 5.0)
        sound.wait_for(100, "a", "b", since=back, within=40)
        stop(made)
        resumed = {name: fleet.resumed(back) for name, fleet in made.items()}
        histories = {name: fleet.drained(["a", "b"], 30.0 if name == "sound" else 1.0) for name, fleet in made.items()}
    assert max(resumed["sound"].values()) < RESUMED + stall.worst
    assert histories["sound"].lost("notify", ["a", "b"]) == []
    assert histories["sound"].unended() == []
    assert histories["sound"].late(stall.worst) == []
    assert histories["deaf_after_a_loss"].lost("notify", ["a", "b"]) != []


def taken_over(fleet: Fleet, since: float) -> bool:
    """Whether all that was confirmed in the second after a time was handled: that of the frozen member's partitions can
    only be when they are another's.
    """
    if time.monotonic() < since + 2.0:
        return False
    confirmed = {entry.id for entry in fleet.entries("ok") if since <= entry.at < since + 1.0}
    return bool(confirmed) and confirmed <= {entry.id for entry in fleet.entries("effect")}


def test_a_member_that_stands_still_is_replaced_and_comes_back(tmp_path: Path, broker: Kafka) -> None:
    """SIGSTOP beyond the session's timeout: another member takes over, the late commits of the frozen one harm nobody,
    and it gets notifications again. Planted: one that stays deaf after it was expelled.
    """
    with fleets(tmp_path, broker, "stays_expelled") as made:

        def silent() -> bool:
            """Whether the planted member gets nothing while the sound one gets twenty."""
            since = time.monotonic()
            made["sound"].wait_for(20, "a.0", since=since, within=40)
            return not made["stays_expelled"].count("a.0", since)

        start(made, "a.0", "a.1")
        made["sound"].wait_for(20, "a.0", "a.1", within=40)
        for fleet in made.values():
            fleet.receivers["a.0"].signal(signal.SIGSTOP)
        stopped = time.monotonic()
        for fleet in made.values():
            until(partial(taken_over, fleet, stopped), "what came to the frozen member is handled by the other one", 40)
        going_on = time.monotonic()
        for fleet in made.values():
            fleet.receivers["a.0"].signal(signal.SIGCONT)
        # What it had in hand it handles once more, that being the price; by its next heartbeat it knows better.
        again = going_on + SESSION
        made["sound"].wait_for(20, "a.0", since=again, within=40)
        # A machine that stands still for a moment may make all that late, so each goes on until it knows.
        stays_silent = came_true(silent, 20.0)
        stop(made)
        histories = {name: fleet.drained(["a"], 30.0 if name == "sound" else 1.0) for name, fleet in made.items()}
    assert histories["sound"].lost("notify", ["a"]) == []
    assert histories["sound"].failed() == []
    assert stays_silent


def test_a_notifier_killed_with_what_it_has_buffered(tmp_path: Path, broker: Kafka) -> None:
    """A notifier is killed while the broker stands still and its buffers fill: nothing that it had reported as sent is
    lost. Planted: what is in the buffer counts as sent.
    """
    with fleets(tmp_path, broker, "confirms_what_is_buffered") as made:
        start(made, "a", timeout=30.0)
        for fleet in made.values():
            fleet.wait_for(50, "a", within=40)
        broker.pause()
        try:
            asked = {name: len(fleet.entries("invoke")) for name, fleet in made.items()}
            # With the bug sending goes on, as if nothing were wrong.
            until(
                lambda: (
                    len(made["confirms_what_is_buffered"].entries("invoke")) > asked["confirms_what_is_buffered"] + 50
                ),
                "the notifier goes on",
            )
            for fleet in made.values():
                fleet.load.kill()
        finally:
            broker.resume()
        histories = {name: fleet.drained(["a"], 20.0 if name == "sound" else 3.0) for name, fleet in made.items()}
    assert len(histories["sound"].ended) > 50
    assert histories["sound"].lost("notify", ["a"]) == []
    assert histories["confirms_what_is_buffered"].lost("notify", ["a"]) != []


def test_a_listener_out_of_its_group_is_connected(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage longer than a session a broker takes a member back when its former self has run out. Until then
    it answers nothing that comes over the connection on which the member has asked to join, so that is not asked, and
    the connection is ready meanwhile and stays so. Planted: a consumer that is asked all the same.
    """
    check = Subscription.check
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    told: dict[str, tuple[bool, bool]] = {}
    """Of each pool whether its consumer was answered, and whether the broker held it off before and after."""

    def is_held(group: str) -> bool:
        found = admin.describe_consumer_groups([group])[group].result(10)
        return bool(found.state is ConsumerGroupState.PREPARING_REBALANCING)

    def asks(self: Subscription) -> Callable[[float], object] | None:
        life, pool = self.life, self.group.partition("@")[0]
        if pool == "careless":
            self.life = Life.LIVE
        try:
            question = check(self)
        finally:
            self.life = life
        if life is not Life.JOINING or pool in told or question is None:
            return question

        def while_held(timeout: float) -> None:
            until(lambda: is_held(self.group), "the broker holds it off", every=0.05)
            answered = False
            try:
                question(timeout)
                answered = True
            finally:
                told[pool] = (answered, is_held(self.group))

        return while_held

    monkeypatch.setattr(Subscription, "check", asks)
    topic = f"t{secrets.token_hex(4)}"
    states: dict[str, list[State]] = {"sound": [], "careless": []}
    listeners: list[notify.Listener] = []
    groups: list[Subscription] = []
    silent = SimpleNamespace(info=lambda *_: None)
    with ExitStack() as stack:
        for pool, seen in states.items():
            transport = stack.enter_context(
                messaging.open_transport(broker.url, session_timeout=10.0, connect_timeout=2.0, heartbeat=3.0)
            )
            listener = notify.Listener(transport, [messaging.Target(topic=topic)], [silent], pool=pool)
            listener.start()
            listeners.append(listener)
            reactor = transport.operations(Role.LISTENER).reactor
            reactor.on_change.append(partial(_note_state, reactor, seen))
            connection: Any = reactor._connection
            groups += connection._groups.values()
        broker.kill()
        until(lambda: all(group.life is Life.JOINING for group in groups), "their sessions are over", 40)
        broker.start()
        until(lambda: len(told) == len(states), "both were asked", 40)
        until(lambda: states["sound"][-1] is State.READY, "the sound one is connected")
        until(lambda: all(listener.health()["consuming"] for listener in listeners), "in the group again", 40)
        for listener in listeners:
            listener.stop()
    assert told == {"sound": (True, True), "careless": (False, True)}
    # Once lost, at the kill, and once ready since.
    assert states["sound"].count(State.READY) == 1


def _note_state(reactor: Reactor, seen: list[State]) -> None:
    if not seen or seen[-1] is not reactor.state:
        seen.append(reactor.state)


def test_a_lost_confirmation_does_not_double_what_is_stored(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker stores a notification, and its answer is lost: the library sends it again, it is confirmed, and stored
    once. Planted: a producer that is not idempotent.
    """
    producer = configuration.producer

    def careless(settings: KafkaSettings, *others: Any) -> dict[str, Any]:
        return producer(settings, *others) | ({"enable.idempotence": False} if settings.client_id == "careless" else {})

    monkeypatch.setattr(configuration, "producer", careless)
    topics = {name: f"t{secrets.token_hex(4)}" for name in ("sound", "careless")}
    proxy = KafkaProxy(broker.proxied_port, broker.proxied_listen)
    with ExitStack() as stack:
        stack.callback(proxy.close)
        threads = stack.enter_context(ThreadPoolExecutor(len(topics)))
        sends = []
        for name, topic in topics.items():
            transport = stack.enter_context(
                messaging.open_transport(
                    f"kafka://127.0.0.1:{broker.proxied_port}/", client_id=name, create_topics="all", heartbeat=0.5
                )
            )
            notifier = notify.Notifier(transport, topics=[topic], timeout=30)
            notifier.info({}, "event", 1)
            connection: Any = transport.operations(Role.NOTIFIER).reactor._connection
            proxy.lose_answers(connection.client_id)
            sends.append(threads.submit(notifier.info, {}, "event", 2))
        for send in sends:
            send.result(40)
    assert stored(broker, topics["sound"]) == 2
    assert stored(broker, topics["careless"]) == 3


def stored(broker: Kafka, topic: str) -> int:
    """How many messages a topic of one partition has."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(f"messaging.{topic}", 0), timeout=10)
    finally:
        consumer.close()
    return int(end)
