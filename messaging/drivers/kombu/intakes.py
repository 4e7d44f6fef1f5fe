"""What a connection reads: queues and fanouts, the sources that share each of them, and their windows.

Several servers of one topic on one transport share a queue, and each of its messages goes to one of them, the one with
the most room; a fanout goes to all of them. Pure bookkeeping: what is read, and how, is the reader's.
"""

from __future__ import annotations

from collections.abc import Iterator

from messaging.drivers.kombu.names import Place
from messaging.drivers.kombu.session import Reader
from messaging.message import Source, SourceKind

__all__ = ["Intake", "Intakes", "Listening"]


class Listening:
    """One subscribed source, in one generation."""

    __slots__ = ("generation", "source", "unsettled", "window")

    def __init__(self, source: Source, window: int) -> None:
        self.source = source
        self.window = window
        self.generation = 0
        self.unsettled = 0

    @property
    def room(self) -> int:
        """How many more deliveries it may be handed."""
        return self.window if self.source.kind is SourceKind.REPLY else max(0, self.window - self.unsettled)


class Intake:
    """One place that is read for some sources; `reader` is None until it is, and after the connection went."""

    __slots__ = ("listening", "place", "reader")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.listening: list[Listening] = []
        self.reader: Reader | None = None

    @property
    def room(self) -> int:
        """How many messages may be taken: a fanout needs room at everybody."""
        rooms = (each.room for each in self.listening)
        return min(rooms) if self.place.kind is SourceKind.ALL else sum(rooms)

    def takers(self) -> list[Listening]:
        """Who gets the next message."""
        if self.place.kind is SourceKind.ALL:
            return list(self.listening)
        return [max(self.listening, key=lambda each: each.room)]


class Intakes:
    """All that one connection reads, by queue."""

    def __init__(self) -> None:
        self._by_queue: dict[str, Intake] = {}

    def __iter__(self) -> Iterator[Intake]:
        return iter(list(self._by_queue.values()))

    def add(self, place: Place, listening: Listening) -> Intake:
        """Have a source read a place too."""
        intake = self._by_queue.get(place.queue)
        if intake is None:
            intake = self._by_queue[place.queue] = Intake(place)
        if listening not in intake.listening:
            intake.listening.append(listening)
        return intake

    def remove(self, listening: Listening) -> list[Intake]:
        """Take a source out; returns what nobody reads any more."""
        idle = []
        for intake in self:
            if listening in intake.listening:
                intake.listening.remove(listening)
                if not intake.listening:
                    del self._by_queue[intake.place.queue]
                    idle.append(intake)
        return idle

    def own_queues(self) -> list[str]:
        """The queues that belong to this process and are kept while it lives."""
        return [queue for queue, intake in self._by_queue.items() if intake.place.own]
