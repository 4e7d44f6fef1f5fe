"""What the client library reports of messages, taken by whoever polls: the owner of the connection, or a thread that
sends very many and collects.

The library serves its reports to any thread that polls, in calls of Python. Two threads that do so, or one that sends
while another polls, take the interpreter from each other; so while somebody collects, the owner leaves the reports to
him. Nothing is told from here: what is stored waits for its teller, and what has failed is the connection's business.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from messaging.drivers.kafka.clients import CAP
from messaging.message import Outgoing, Stage

__all__ = ["Report", "Reports"]

_LEFT = 0.02
"""Seconds for which reports are left to whoever has collected some: he comes again sooner, or not at all."""
_TAKEN = Stage.TAKEN


class Report(msgspec.Struct, gc=False):
    """Takes the library's report on one message; called in whoever polls.

    Not for the garbage collector, like all that is made for each message and is in no circle.
    """

    outgoing: Outgoing
    reports: Reports

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        outgoing = self.outgoing
        if error is None:
            outgoing.stage = _TAKEN
            if outgoing.confirm:
                self.reports.stored.append(outgoing)
        else:
            self.reports.failed(outgoing, error, str(message.topic()))


class Reports:
    """The reports of one connection's producers. Thread-safe.

    `failed(outgoing, error, topic)` is called in whoever polls, for a message that nobody has stored, as far as the
    library knows.
    """

    __slots__ = ("_clock", "failed", "last", "left_until", "stored")

    def __init__(self, clock: Callable[[], float], failed: Callable[[Outgoing, KafkaError, str], None]) -> None:
        self._clock = clock
        self.failed = failed
        self.stored: deque[Outgoing] = deque()
        """Reported as stored, and not told yet."""
        self.left_until = 0.0
        """Until when they are left to whoever collects."""
        self.last = 0.0
        """When the brokers last confirmed something, or nothing was under way."""

    def collect(self, producer: Producer, timeout: float) -> list[Outgoing]:
        """Take what there is, or comes within `timeout` seconds (and CAP), and return what is stored. Any thread.

        A signal handler that raises meanwhile costs what was just taken: it ends at its deadlines, as MAYBE.
        """
        self.left_until = math.inf
        try:
            producer.poll(min(timeout, CAP))
        finally:
            self.left_until = self._clock() + _LEFT
        taken = self.take()
        if taken:
            self.last = self._clock()
        return taken

    def take(self) -> list[Outgoing]:
        """Take out what is stored, while others add to it and take from it."""
        taken: list[Outgoing] = []
        try:
            while True:
                taken.append(self.stored.popleft())
        except IndexError:
            return taken
