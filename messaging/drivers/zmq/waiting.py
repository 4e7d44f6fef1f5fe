"""Messages for which nobody is ready yet: at a choice whose candidates are being connected, or undecided, because
fixed peers have not yet told what they serve.

It holds them, expires them, and says when there are too many; where they go is the sender's business.
"""

from __future__ import annotations

import math

from messaging.drivers.zmq.choices import Choice
from messaging.drivers.zmq.link import Item, is_withdrawn, outgoing_of
from messaging.drivers.zmq.runtime import Runtime

__all__ = ["Waiting"]

_MOST = 10_000
_MOST_BYTES = 64 * 1024 * 1024
"""How many messages, and bytes of bodies, may wait before the connection tells BLOCKED; READY again at half of both."""
_STEP = 0.01
"""Seconds between two looks at all deadlines: with many that expire one by one, a look for each would be quadratic."""

Held = tuple[Item, float]
"""(what waits, since when)."""


class Waiting:
    """What waits on one connection. Withdrawn messages are dropped in silence whenever they are come across."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._choices: set[Choice] = set()
        self._undecided: list[Held] = []
        self._count = 0
        self._bytes = 0
        self._expiry = math.inf
        self.blocked = False
        """Whether so much waits that no more should be published."""

    def __len__(self) -> int:
        return self._count

    def hold(self, item: Item, choice: Choice | None, since: float) -> None:
        """Let a message, or a copy, wait at a choice; None: until it is known who could get it."""
        if choice is None:
            self._undecided.append((item, since))
        else:
            choice.waiting.append((item, since))
            self._choices.add(choice)
        outgoing = outgoing_of(item)
        self._count += 1
        self._bytes += len(outgoing.body)
        if outgoing.deadline and outgoing.deadline < self._expiry:
            self._expiry = outgoing.deadline
            self._runtime.at(self._expiry)
        if not self.blocked and (self._count > _MOST or self._bytes > _MOST_BYTES):
            self.blocked = True
            self._runtime.at(0.0)

    def _released(self, held: list[Held]) -> list[Held]:
        self._count -= len(held)
        self._bytes -= sum(len(outgoing_of(item).body) for item, _since in held)
        if self.blocked and 2 * self._count <= _MOST and 2 * self._bytes <= _MOST_BYTES:
            self.blocked = False
            self._runtime.at(0.0)
        return [(item, since) for item, since in held if not is_withdrawn(item)]

    def take_undecided(self) -> list[Held]:
        """Take what may be decided now."""
        undecided, self._undecided = self._undecided, []
        return self._released(undecided)

    def take_movable(self) -> list[Held]:
        """Take what waits at a choice that has a candidate ready, or has lost them all."""
        found: list[Held] = []
        for choice in [choice for choice in self._choices if choice.ready or not choice.candidates]:
            found += choice.waiting
            choice.waiting.clear()
            self._choices.discard(choice)
        return self._released(found)

    def take_hopeless(self) -> list[Held]:
        """Take what has seen every candidate of its choice fail since it began to wait."""
        found: list[Held] = []
        for choice in list(self._choices):
            oldest = min((peer.failed_at for peer, _number in choice.candidates), default=math.inf)
            while not choice.ready and choice.waiting and choice.waiting[0][1] <= oldest:
                found.append(choice.waiting.popleft())
            if not choice.waiting:
                self._choices.discard(choice)
        return self._released(found)

    def take_expired(self, now: float) -> list[Held]:
        """Take what is past its deadline."""
        if now < self._expiry:
            return []
        self._expiry = math.inf
        ended: list[Held] = []
        for choice in list(self._choices):
            kept = [held for held in choice.waiting if self._keeps(held, now, ended)]
            choice.waiting.clear()
            choice.waiting.extend(kept)
            if not kept:
                self._choices.discard(choice)
        self._undecided = [held for held in self._undecided if self._keeps(held, now, ended)]
        self._expiry = max(self._expiry, now + _STEP)
        return self._released(ended)

    def _keeps(self, held: Held, now: float, ended: list[Held]) -> bool:
        outgoing = outgoing_of(held[0])
        if is_withdrawn(held[0]) or (outgoing.deadline and outgoing.deadline <= now):
            ended.append(held)
            return False
        if outgoing.deadline:
            self._expiry = min(self._expiry, outgoing.deadline)
        return True

    def take_all(self) -> list[Held]:
        """Take everything, because the connection closes."""
        found = self._undecided
        self._undecided = []
        for choice in self._choices:
            found += choice.waiting
            choice.waiting.clear()
        self._choices.clear()
        return self._released(found)

    @property
    def choices(self) -> list[Choice]:
        """Where something waits."""
        return list(self._choices)

    @property
    def next_expiry(self) -> float:
        """When `take_expired` has something to do."""
        return self._expiry
