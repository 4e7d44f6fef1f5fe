"""What a test may do to a hub: lose, delay or repeat messages; refuse, cut, block or silence connections; keep
confirmations back.

`hub(name).faults` of messaging.drivers.memory, or `connection.hub.faults`. Everything is thread-safe and takes effect
at once; it takes the hub's lock, so it must not be called with that held. Random decisions come from one seeded
source: the same seed and the same order of messages give the same faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from messaging.drivers.memory.link import Link
from messaging.drivers.memory.queue import Message, Queue
from messaging.errors import ConnectFailed, ConnectionLost
from messaging.message import SourceKind, Stage

if TYPE_CHECKING:
    from messaging.drivers.memory.hub import Hub

__all__ = ["Faults", "Rule"]


class Rule:
    """What happens to some messages, between the exchange and a queue. `hits` counts those that it happened to."""

    __slots__ = ("_act", "_count", "_kinds", "_probability", "_topic", "hits")

    def __init__(
        self,
        act: Callable[[Queue, Message], list[Message]],
        kinds: tuple[SourceKind, ...],
        topic: str | None,
        probability: float,
        count: int | None,
    ) -> None:
        self._act = act
        self._kinds = frozenset(kinds)
        self._topic = topic
        self._probability = probability
        self._count = count
        self.hits = 0

    def apply(self, queue: Queue, message: Message, roll: Callable[[], float]) -> list[Message]:
        """Return what goes on to the queue in place of the message."""
        if (
            (self._count is not None and self.hits >= self._count)
            or (self._kinds and queue.source.kind not in self._kinds)
            or (self._topic is not None and queue.source.topic != self._topic)
            or (self._probability < 1.0 and roll() >= self._probability)
        ):
            return [message]
        self.hits += 1
        return self._act(queue, message)


class Faults:
    """The faults of one hub; none at first.

    Rules about messages take the kinds of queue that they are for (none: all), and optionally a `topic`, a
    `probability` from 0 to 1, and a `count` of messages after which they are spent. Several rules apply one after the
    other. Where a connection is meant, it is named by its `address`; None means all that are connected now.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._rules: list[Rule] = []
        self._random = random.Random(0)
        self._refusals: int | None = 0
        self._refusal: Exception | None = None
        self._lost_settlements = 0
        self.active = False
        """There are rules about messages."""
        self.withholding = False
        """Confirmations are kept back."""

    def seed(self, number: int) -> None:
        """Start the random decisions afresh."""
        self._random = random.Random(number)

    def clear(self) -> None:
        """End all faults: what was kept back goes on, and connections are accepted. What was lost stays lost."""
        with self._hub.lock:
            self._rules = []
            self.active = False
            self._lost_settlements = 0
        self.accept_connections()
        self.unblock()
        self.resume()
        self.release_confirms()

    # Messages

    def lose(
        self, *kinds: SourceKind, topic: str | None = None, probability: float = 1.0, count: int | None = None
    ) -> Rule:
        """Drop messages after their sender was told that they are taken. `lose(SourceKind.REPLY, count=1)` loses an
        answer.
        """
        return self._add(lambda queue, message: [], kinds, topic, probability, count)

    def delay(
        self,
        seconds: float,
        *kinds: SourceKind,
        topic: str | None = None,
        probability: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Let messages reach their queue only after some seconds; later ones overtake them unless they are delayed as
        long.
        """

        def act(queue: Queue, message: Message) -> list[Message]:
            self._later(seconds, queue, message)
            return []

        return self._add(act, kinds, topic, probability, count)

    def reorder(
        self,
        within: float,
        *kinds: SourceKind,
        topic: str | None = None,
        probability: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Delay each message by a random time of at most `within` seconds."""

        def act(queue: Queue, message: Message) -> list[Message]:
            self._later(self._random.random() * within, queue, message)
            return []

        return self._add(act, kinds, topic, probability, count)

    def duplicate(
        self,
        *kinds: SourceKind,
        redelivered: bool = False,
        topic: str | None = None,
        probability: float = 1.0,
        count: int | None = None,
    ) -> Rule:
        """Put messages into their queue twice. `redelivered` is what the second says of itself: brokers do not always
        know.
        """

        def act(queue: Queue, message: Message) -> list[Message]:
            return [message, message.copy(redelivered)]

        return self._add(act, kinds, topic, probability, count)

    def remove(self, rule: Rule) -> None:
        """End one rule."""
        with self._hub.lock:
            self._rules.remove(rule)
            self.active = bool(self._rules)

    def _add(
        self,
        act: Callable[[Queue, Message], list[Message]],
        kinds: tuple[SourceKind, ...],
        topic: str | None,
        probability: float,
        count: int | None,
    ) -> Rule:
        rule = Rule(act, kinds, topic, probability, count)
        with self._hub.lock:
            self._rules.append(rule)
            self.active = True
        return rule

    def _later(self, seconds: float, queue: Queue, message: Message) -> None:
        self._hub.schedule(self._hub.clock() + seconds, partial(queue.append, message))
        # Whoever published may be no owner, and so nobody may be about to look.
        self._hub.call_all()

    def apply(self, queue: Queue, message: Message) -> None:
        """Pass a message on to its queue, through all rules; for the hub, which holds its lock."""
        messages = [message]
        for rule in self._rules:
            messages = [kept for each in messages for kept in rule.apply(queue, each, self._random.random)]
        for each in messages:
            queue.append(each)

    # Connections

    def refuse_connections(self, cause: Exception | None = None, count: int | None = None) -> None:
        """Refuse whoever connects, `count` times or until `accept_connections`. With AuthFailed it is not tried
        again.
        """
        with self._hub.lock:
            self._refusal = cause
            self._refusals = count

    def accept_connections(self) -> None:
        """Accept whoever connects."""
        with self._hub.lock:
            self._refusals = 0

    def refusal(self) -> Exception | None:
        """Why a connection is refused now, or None; for connections, which hold the hub's lock."""
        if self._refusals == 0:
            return None
        if self._refusals is not None:
            self._refusals -= 1
        return self._refusal or ConnectFailed(f"{self._hub.title} refuses connections")

    def disconnect(self, address: str | None = None, cause: Exception | None = None) -> None:
        """Cut connections. They come back by themselves, after a backoff."""
        with self._hub.lock:
            for link in self._links(address):
                self._hub.cut(link, cause or ConnectionLost(f"{self._hub.title} has closed the connection"))

    def block(self, address: str | None = None) -> None:
        """Ask connections to publish nothing more, as a broker does that runs out of memory."""
        with self._hub.lock:
            for link in self._links(address):
                link.held = True
                link.open = False
                link.call()

    def unblock(self, address: str | None = None) -> None:
        """End `block`."""
        with self._hub.lock:
            for link in self._links(address):
                link.held = False
                link.call()

    def silence(self, address: str | None = None) -> None:
        """Let connections hear nothing more of the hub, nor it of them, without an end of the connection: a broken
        network.

        They notice by themselves, after two heartbeats. What they write until then is lost, unless `resume` comes
        first.
        """
        with self._hub.lock:
            for link in self._links(address):
                link.stalled = True
                link.open = False
                link.call()

    def resume(self, address: str | None = None) -> None:
        """End `silence`: everything that was written meanwhile arrives."""
        with self._hub.lock:
            for link in self._links(address):
                link.stalled = False
                link.call()

    def withhold_confirms(self) -> None:
        """Take messages, but do not tell their senders. A connection that is cut then leaves them in doubt."""
        with self._hub.lock:
            self.withholding = True

    def release_confirms(self) -> None:
        """End `withhold_confirms`, and tell what was kept back."""
        with self._hub.lock:
            self.withholding = False
            for link in self._links(None):
                for result in link.unconfirmed:
                    result.outgoing.stage = Stage.TAKEN
                link.answers += link.unconfirmed
                link.unconfirmed = []
                link.call()

    def lose_settlements(self, count: int = 1) -> None:
        """Let the next settlements, `count` calls of them, be written but never arrive. At the next `disconnect` their
        deliveries come again.
        """
        with self._hub.lock:
            self._lost_settlements += count

    def settlement_lost(self) -> bool:
        """Whether the settlement that is being written is one of them; for connections, which hold the hub's lock."""
        if self._lost_settlements:
            self._lost_settlements -= 1
            return True
        return False

    def _links(self, address: str | None) -> Iterator[Link]:
        for link in list(self._hub.links.values()):
            if link.attached and address in (None, link.address):
                yield link
