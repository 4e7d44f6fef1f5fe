"""Confirmations that are believed only when the queue has been seen after them, on a peer that confirms what it drops.

RabbitMQ 3 says "accepted" of a message to a queue that somebody has deleted under the link. Whether the queue is there
it tells when a link is attached to an address of it that has to exist. So what it has accepted is held until such a
link, attached afterwards, stands. One look serves all that was accepted before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from messaging.drivers.amqp1.engine import Engine, Pointer
from messaging.message import Outgoing

__all__ = ["Look", "Looks"]


class Look(NamedTuple):
    """What one look is for."""

    address: str
    held: list[Outgoing]


class Looks:
    """The looks of one life of a connection. `proof`: where to look for an address; `name`: how links are called."""

    def __init__(self, engine: Engine, proof: Callable[[str], str], name: str) -> None:
        self._engine = engine
        self._proof = proof
        self._name = name
        self._number = 0
        self._held: dict[str, list[Outgoing]] = {}
        """Accepted by the peer since the last look at their address began."""
        self._under_way: dict[Pointer, Look] = {}

    def hold(self, address: str, outgoing: Outgoing) -> None:
        """Keep a message to `address` that was accepted, until that has been looked at."""
        self._held.setdefault(address, []).append(outgoing)
        if all(look.address != address for look in self._under_way.values()):
            self._begin(address)

    def _begin(self, address: str) -> None:
        held = self._held.pop(address, None)
        if held:
            self._number += 1
            name = f"{self._name}/look/{self._number}"
            # A receiver, though it never gets credit: for a sender nothing is looked up.
            pointer = self._engine.receiver(name, self._proof(address), (), durable=False, settled=False)
            self._under_way[pointer] = Look(address, held)

    def ended(self, pointer: Pointer) -> Look | None:
        """Take a look that the peer has answered, however; None: this link was none."""
        look = self._under_way.pop(pointer, None)
        if look is not None:
            self._engine.end(pointer, detach=False)
            self._begin(look.address)
        return look

    def links(self) -> list[Pointer]:
        """The links of the looks that are under way."""
        return list(self._under_way)

    def everything(self) -> list[Outgoing]:
        """All that is held."""
        lists = [look.held for look in self._under_way.values()] + list(self._held.values())
        return [outgoing for held in lists for outgoing in held]
