"""What a test may do to a hub: drop, delay or repeat messages, refuse, cut, block or silence connections.

Everything here is called from a test's thread; it takes the hub's lock itself. Random decisions come from one seeded
source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from messaging.drivers.memory.link import Message, Queue

if TYPE_CHECKING:
    from messaging.drivers.memory.hub import Hub

__all__ = ["Faults"]


class Faults:
    """The faults of one hub; none at first. Thread-safe."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.active = False
        self.withholding = False

    def refusal(self) -> Exception | None:
        """Why a connection is refused now, or None."""
        return None

    def apply(self, queue: Queue, message: Message) -> None:
        """Pass a message on to its queue, or do to it what was asked for; the hub's lock is held."""
        self._hub.append(queue, message)
