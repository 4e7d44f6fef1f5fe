"""What a listener has in hand: one delivery each, the work that is done on one or many of them, and the order of keys.

Data and bookkeeping alone. Deliveries pass between the connection's owner and the workers; whoever takes one out of a
table has it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from messaging.message import Delivery
from messaging.notify.context import CurrentEvent, Served
from messaging.notify.dispatcher import Handler
from messaging.notify.event import Event

if TYPE_CHECKING:
    from messaging.coroutines import CoroutineJob

__all__ = ["InHand", "Lanes", "Letter", "Step", "Turn", "Work", "current_event"]


class Letter(NamedTuple):
    """What is told of a notification that nobody will handle."""

    reason: str
    error: BaseException | None


class InHand(msgspec.Struct, eq=False):
    """One delivery from its receipt to its end.

    A msgspec struct, because one is made per notification, and it takes a third of the time of another class.
    """

    delivery: Delivery
    attempt: int
    """Counts on while it is repeated from memory."""
    key: str | None
    """That of its lane: those of one are handled one after the other."""
    event: Event[Any] | None = None
    failure: BaseException | None = None
    """Why the handlers after this one are not called."""
    wanted: bool = False
    """Whether any handler takes it."""
    letter: Letter | None = None
    """Set when no handler shall get it any more."""
    burials: int = 0
    """How often burying it was tried."""
    gave_up: bool = False

    def current(self) -> CurrentEvent:
        """See Served."""
        return current_event(self, [self])


class Turn:
    """One worker's turn at what waited as it came: `item` is what its handlers have now."""

    __slots__ = ("item",)

    def __init__(self) -> None:
        self.item: InHand | None = None


class Step(NamedTuple):
    """One handler and what it is called with: each delivery with its event, as this handler takes it."""

    handler: Handler
    arguments: list[tuple[InHand, Event[Any]]]


class Work:
    """Deliveries that go through their handlers together, step by step: one, or a batch."""

    __slots__ = ("gave_up", "items", "job", "position", "steps")

    def __init__(self, items: list[InHand]) -> None:
        self.items = items
        self.steps: list[Step] = []
        self.position = 0
        self.gave_up = False
        self.job: CoroutineJob | None = None
        """The coroutine that works on it, for cancelling it."""

    def current(self) -> CurrentEvent:
        """See Served."""
        return current_event(self, self.items)

    def next_step(self) -> Step | None:
        """Return the step to do now, without the deliveries that have failed; None: all are done."""
        while self.position < len(self.steps):
            handler, arguments = self.steps[self.position]
            alive = [each for each in arguments if each[0].failure is None]
            if alive:
                return Step(handler, alive)
            self.position += 1
        return None


def current_event(served: Served, items: Sequence[InHand]) -> CurrentEvent:
    """What the handlers see that are called with these items, of which one at least was decoded."""
    known = [(item.event, item.delivery) for item in items if item.event is not None]
    events = [event for event, _ in known]
    return CurrentEvent(
        served,
        events[0],
        [delivery for _, delivery in known],
        max(event.attempt for event in events),
        any(event.redelivered for event in events),
    )


class Lanes:
    """Lets the deliveries of one key through one after the other, in their order. Thread-safe."""

    __slots__ = ("_lanes", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[InHand]] = {}

    def enter(self, item: InHand) -> bool:
        """Whether it may go now; False: it is let go by whoever leaves before it."""
        if item.key is None:
            return True
        with self._lock:
            lane = self._lanes.get(item.key)
            if lane is None:
                self._lanes[item.key] = deque()
                return True
            lane.append(item)
            return False

    def leave(self, item: InHand) -> InHand | None:
        """Return the one that may go now."""
        if item.key is None:
            return None
        with self._lock:
            lane = self._lanes.get(item.key)
            if lane:
                return lane.popleft()
            self._lanes.pop(item.key, None)
            return None
