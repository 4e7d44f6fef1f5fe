"""Where messages go on RabbitMQ, and what is declared for it: names, arguments, and what a newer broker refuses."""

from __future__ import annotations

from typing import Any

import pytest

from messaging.drivers.rabbit.methods import Bind, DeclareExchange, DeclareQueue, passive
from messaging.drivers.rabbit.topology import NativeTopology, queue_name
from messaging.message import Outgoing, Route, Source, SourceKind

SOURCES = [
    Source(SourceKind.ANY, "x", "t", "s"),
    Source(SourceKind.ONE, "x", "t", "s"),
    Source(SourceKind.ALL, "x", "t", "s"),
    Source(SourceKind.POOLS, "x", "t", "s", "p"),
    Source(SourceKind.DEAD, "x", "t", "", "p"),
    Source.reply(),
]


def topology(**options: Any) -> NativeTopology:
    return NativeTopology("identity", **options)


def queues(made: NativeTopology) -> list[DeclareQueue]:
    """Every queue that is ever declared."""
    found = [method for source in SOURCES for method in made.intake(source).methods]
    stored = Outgoing(Route.one("x", "t", "s"), b"", {}, store=60.0)
    found += made.mailbox(stored).needs
    found += made.delayed(SOURCES[3], "q", 3.0).address.needs
    dead = made.dead(SOURCES[3], "q", "why")
    assert dead is not None
    found += dead.address.needs
    return [method for method in found if isinstance(method, DeclareQueue)]


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_no_queue_is_what_newer_brokers_refuse(queue_type: str) -> None:
    """RabbitMQ 4.3 refuses queues that are neither durable nor exclusive; a quorum queue is durable and not
    exclusive. An exclusive one would not outlive a reconnect.
    """
    for queue in queues(topology(queue_type=queue_type)):
        assert (queue.durable, queue.exclusive, queue.auto_delete) == (True, False, False), queue


def test_the_type_of_a_queue_is_always_said() -> None:
    """A vhost can have a default of its own, so what is left out may mean different things to two processes."""
    for queue in queues(topology()):
        assert queue.arguments["x-queue-type"] == "classic", queue
    shared = [topology(queue_type="quorum").intake(SOURCES[index]).methods for index in (0, 3, 4)]
    for methods in shared:
        declared = next(method for method in methods if isinstance(method, DeclareQueue))
        assert declared.arguments["x-queue-type"] == "quorum"


def test_what_belongs_to_one_process_expires() -> None:
    """Reply, fanout, server and mailbox queues go when nobody uses them; topic and pool queues only by option."""
    made = topology(expires=60.0)
    for source in SOURCES:
        declared = [method for method in made.intake(source).methods if isinstance(method, DeclareQueue)]
        expires = source.kind in (SourceKind.ONE, SourceKind.ALL, SourceKind.REPLY)
        assert all(("x-expires" in queue.arguments) is expires for queue in declared), source
    kept = topology(topic_expires=3600.0).intake(SOURCES[0]).methods[0]
    assert isinstance(kept, DeclareQueue)
    assert kept.arguments["x-expires"] == 3_600_000


def test_what_is_shared_is_bounded_and_refuses_more() -> None:
    """Topic, pool and server queues tell the sender that they are full; dead letters drop their oldest."""
    made = topology(max_length=5)
    for index in (0, 1, 3):
        queue = next(each for each in made.intake(SOURCES[index]).methods if isinstance(each, DeclareQueue))
        assert queue.arguments["x-max-length"] == 5
        assert queue.arguments["x-overflow"] == "reject-publish"
    dead = made.intake(SOURCES[4]).methods[0]
    assert isinstance(dead, DeclareQueue)
    assert dead.arguments["x-max-length"] == 100_000
    assert "x-overflow" not in dead.arguments


def test_publishers_create_no_queues() -> None:
    """What a route needs is an exchange at most; the mailbox of a stored message is the exception."""
    made = topology()
    for route in (Route.any("x", "t"), Route.one("x", "t", "s"), Route.all("x", "t"), Route.pools("x", "t")):
        for method in made.address(Outgoing(route, b"", {})).needs:
            assert isinstance(method, DeclareExchange)
            assert method.durable
    assert made.address(Outgoing(Route.reply("a"), b"", {})).needs == ()


def test_both_ends_meet() -> None:
    """A message for a route goes where a source of that kind is read."""
    made = topology()
    for route, source in [
        (Route.any("x", "t"), SOURCES[0]),
        (Route.one("x", "t", "s"), SOURCES[1]),
        (Route.all("x", "t"), SOURCES[2]),
        (Route.pools("x", "t"), SOURCES[3]),
        (Route.reply(made.intake(SOURCES[5]).address), SOURCES[5]),
    ]:
        address = made.address(Outgoing(route, b"", {}))
        intake = made.intake(source)
        binds = [method for method in intake.methods if isinstance(method, Bind)]
        if address.exchange:
            assert [(bind.exchange, bind.key) for bind in binds] == [(address.exchange, address.key)]
        else:
            assert address.key in intake.queues
    stored = made.mailbox(Outgoing(Route.one("x", "t", "s"), b"", {}, store=60.0))
    assert stored.key in made.intake(SOURCES[1]).queues
    dead = made.dead(SOURCES[3], "q", "why")
    assert dead is not None
    assert dead.address.key in made.intake(SOURCES[4]).queues
    assert dead.address.needs[0] in made.intake(SOURCES[4]).methods


def test_only_fanouts_may_reach_nobody() -> None:
    """All others ask the broker to say so."""
    made = topology()
    assert not made.address(Outgoing(Route.all("x", "t"), b"", {})).mandatory
    for route in (Route.any("x", "t"), Route.one("x", "t", "s"), Route.pools("x", "t"), Route.reply("a")):
        assert made.address(Outgoing(route, b"", {})).mandatory
    assert not made.address(Outgoing(Route.reply("amq.rabbitmq.reply-to.g1h2"), b"", {})).mandatory


def test_names_are_never_the_same_by_accident() -> None:
    """A slash in a name is no border between names, and two exchanges are two places."""
    assert queue_name("any", "a/b", "c") != queue_name("any", "a", "b/c")
    assert queue_name("any", "a%2Fb", "c") != queue_name("any", "a/b", "c")


def test_no_name_is_too_long() -> None:
    """The longest targets give names of 255 bytes at most, each its own."""
    one, two = (queue_name("one", "é" * 200, "t" * 200, "s" * 199 + last) for last in "ab")
    assert len(one.encode()) <= 255
    assert len(two.encode()) <= 255
    assert one != two


def test_a_delay_goes_back_to_its_own_queue() -> None:
    """Its expiration is the delay itself, its queue is one of few, and it comes back to that queue alone."""
    made = topology()
    names = set()
    for delay in (0.01, 0.5, 1.0, 1.5, 3.0, 4.0, 100.0):
        copy = made.delayed(SOURCES[3], "the queue", delay)
        (declared,) = copy.address.needs
        assert isinstance(declared, DeclareQueue)
        assert copy.address.expires == delay
        assert declared.arguments["x-dead-letter-routing-key"] == "the queue"
        assert declared.arguments["x-dead-letter-exchange"] == ""
        # Nobody reads it: it has to outlive what it holds, counted from the last time that it was declared.
        assert declared.arguments["x-expires"] / 1000 > copy.address.fresh + 2 * delay
        names.add(copy.address.key)
    assert len(names) == 4


def test_whoever_may_not_declare_only_asks() -> None:
    """declare=no: everything is passive, and bindings, for which nobody can ask, are left out."""
    for source in SOURCES:
        for method in passive(topology().intake(source).methods):
            assert isinstance(method, DeclareExchange | DeclareQueue)
            assert method.passive
