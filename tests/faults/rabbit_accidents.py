"""What an operator, or a crash, can do to a broker's objects while they are used, by name.

Each accident is done to the topic of one fleet where that can be, else to the whole broker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pika

from tests.brokers import Rabbit
from tests.faults.fleet import Fleet, events_pool, requests_queue

__all__ = ["ACCIDENTS", "Accident"]

EXCHANGE = "messaging/messaging"
Accident = Callable[[Rabbit, Sequence[Fleet]], None]


def _administer(broker: Rabbit, work: Callable[[pika.adapters.blocking_connection.BlockingChannel], object]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url_for("amqp", vhost="/")))
    try:
        work(connection.channel())
    finally:
        connection.close()


def pool_queue_deleted(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """The queue of a pool of listeners is deleted; its consumers get basic.cancel."""
    _administer(broker, lambda admin: [admin.queue_delete(events_pool(fleet.topic, "a")) for fleet in fleets])


def requests_queue_deleted(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """The queue of a topic's servers is deleted."""
    _administer(broker, lambda admin: [admin.queue_delete(requests_queue(fleet.topic)) for fleet in fleets])


def reply_queues_deleted(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """The queues in which answers arrive are deleted."""
    names = [queue["name"] for queue in broker.queues() if queue["name"].startswith("messaging/reply/")]
    _administer(broker, lambda admin: [admin.queue_delete(name) for name in names])


def exchange_deleted(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """The exchange of notifications is deleted, and with it every binding; a publisher's channel is closed by that."""
    _administer(broker, lambda admin: admin.exchange_delete(EXCHANGE))


def binding_deleted(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """The binding of a pool's queue is deleted, of which nobody is told."""

    def unbind(admin: pika.adapters.blocking_connection.BlockingChannel) -> None:
        for fleet in fleets:
            admin.queue_unbind(events_pool(fleet.topic, "a"), EXCHANGE, f"messaging/pool/{fleet.topic}-events")

    _administer(broker, unbind)


def queues_crashed(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """The processes of the queues are killed inside the broker: basic.cancel to every consumer, and the queues come
    back by themselves.
    """
    names = [name for fleet in fleets for name in (events_pool(fleet.topic, "a"), requests_queue(fleet.topic))]
    chosen = ", ".join(f'<<"{name}">>' for name in names)
    broker.ctl(
        "eval",
        f'[begin {{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, N)), '
        f"exit(amqqueue:get_pid(Q), kill) end || N <- [{chosen}]], ok.",
    )


def channels_closed(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """Every channel is closed by the broker with 406, as for a client that settles what it was never given."""
    broker.ctl(
        "eval",
        "[gen_server2:cast(C, {method, {'basic.ack', 999999, false}, none, noflow}) || C <- rabbit_channel:list()], "
        "ok.",
    )


def connections_closed(broker: Rabbit, fleets: Sequence[Fleet]) -> None:
    """Every connection is closed by the broker with 320."""
    broker.close_connections()


ACCIDENTS: dict[str, Accident] = {
    accident.__name__: accident
    for accident in (
        connections_closed,
        channels_closed,
        queues_crashed,
        requests_queue_deleted,
        reply_queues_deleted,
        pool_queue_deleted,
        exchange_deleted,
        binding_deleted,
    )
}
"""In the order in which they happen: from those that a connection is told of to those of which nobody is."""
