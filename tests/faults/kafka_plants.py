"""Bugs inside the driver for Kafka: see plants.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["KAFKA_PLANTS"]


def confirms_what_is_buffered() -> None:
    """A notification counts as taken as soon as the client library has it, as with the predecessor's driver."""
    from messaging.drivers.kafka.notifying import NotifierConnection
    from messaging.message import Outgoing, SentResult, Stage

    write = NotifierConnection._write

    def trusting(self: NotifierConnection, topic: str, outgoing: Outgoing) -> bool:
        done = write(self, topic, outgoing)
        if outgoing.stage is not None:
            self._tell(SentResult(outgoing, Stage.TAKEN))
        return done

    NotifierConnection._write = trusting  # type: ignore[method-assign]


def stays_expelled() -> None:
    """A member that was expelled from its group joins again, and reads nothing of what it is assigned then."""
    from messaging.drivers.kafka.subscription import Subscription

    assigned, lost = Subscription._assigned, Subscription._were_lost
    expelled: set[int] = set()

    def were_lost(self: Subscription, consumer: Any, places: Sequence[Any]) -> None:
        expelled.add(id(self))
        lost(self, consumer, places)

    def forgetful(self: Subscription, consumer: Any, places: Sequence[Any]) -> None:
        assigned(self, consumer, [] if id(self) in expelled else places)

    Subscription._were_lost = were_lost  # type: ignore[method-assign]
    Subscription._assigned = forgetful  # type: ignore[method-assign]


def takes_waiting_for_done() -> None:
    """What was read from a retry topic counts as done while it waits in memory for its time."""
    from messaging.drivers.kafka.delayed import Delayed
    from messaging.message import Delivery

    add = Delayed.add

    def careless(self: Delayed, delivery: Delivery, due: float) -> None:
        add(self, delivery, due)
        partition, offset = delivery.tag.partition, delivery.tag.offset
        del partition.outstanding[offset]
        partition.owner._commits.soon()

    Delayed.add = careless  # type: ignore[method-assign]


KAFKA_PLANTS: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (confirms_what_is_buffered, stays_expelled, takes_waiting_for_done)
}
