"""Who may get a message: the matchmaker's table turned round, from routes to candidates, so that choosing is one
dictionary look-up.

A *choice* is a set of candidates of which one gets the message: all servers of a topic (ANY), those of a name (ONE),
the consumers of a pool (POOLS, one choice per pool), or a single server (ALL, one choice each). Rebuilt when the
membership changes, updated when a peer becomes ready or stops being so; both are rare.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable

from messaging.drivers.zmq.link import Item, Link
from messaging.drivers.zmq.peer import Peer, PeerState
from messaging.message import Route, RouteKind, SourceKind

__all__ = ["SPREAD", "Candidate", "Choice", "Choices"]

Candidate = tuple[Peer, int]
"""A peer and the number of its subscription."""

_LOOKED_AT = 16
"""How many candidates are compared for one message: with more, the best of 16 is as good and the cost stays bounded."""
SPREAD = 8
"""To how many peers of one choice connections are opened before they are needed."""


class Choice:
    """Candidates, and what waits for one of them to be ready."""

    __slots__ = ("candidates", "ready", "sparse", "turn", "waiting")

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.ready: list[Candidate] = []
        self.sparse = False
        """Whether more candidates should be connected at the next message."""
        self.turn = 0
        self.waiting: deque[tuple[Item, float]] = deque()
        """(what waits, since when)."""

    def update(self) -> None:
        """Look again which candidates are ready."""
        self.ready = [found for found in self.candidates if found[0].state is PeerState.READY]
        self.sparse = len(self.ready) < min(len(self.candidates), SPREAD)

    def pick(self, avoid: Container[Link] = ()) -> Candidate | None:
        """The ready candidate with the fewest unsettled messages, in turn among equals; None: there is none."""
        ready = self.ready
        if len(ready) == 1:
            return ready[0] if ready[0][0] not in avoid else None
        best: Candidate | None = None
        least = looked_at = 0
        count = len(ready)
        self.turn += 1
        for step in range(count):
            candidate = ready[(self.turn + step) % count]
            if candidate[0] in avoid:
                continue
            load = candidate[0].load
            if best is None or load < least:
                best, least = candidate, load
            looked_at += 1
            if not load or looked_at == _LOOKED_AT:
                break
        return best


class Choices:
    """All choices, by route. `random` gives each process its own order, so that they do not all begin with the same
    server.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self.one_of: dict[Route, Choice] = {}
        """ANY and ONE."""
        self.each: dict[Route, dict[str, Choice]] = {}
        """ALL by subscription, POOLS by pool."""

    def rebuild(self, peers: Iterable[Peer]) -> None:
        """Make the table from what listed peers serve. What waits at a choice that lost all candidates stays there."""
        before = [*self.one_of.values(), *(choice for group in self.each.values() for choice in group.values())]
        for choice in before:
            choice.candidates = []
        for peer in sorted(peers, key=lambda _peer: self._random()):
            peer.choices = []
            if peer.listed and peer.sources:
                self._add(peer)
        self.one_of = {route: choice for route, choice in self.one_of.items() if choice.candidates}
        for route, group in list(self.each.items()):
            left = {name: choice for name, choice in group.items() if choice.candidates}
            if left:
                self.each[route] = left
            else:
                del self.each[route]
        for choice in (*self.one_of.values(), *(choice for group in self.each.values() for choice in group.values())):
            choice.update()

    def _add(self, peer: Peer) -> None:
        for number, source in (peer.sources or {}).items():
            kind = source.kind
            if kind is SourceKind.ANY:
                choice = self.one_of.setdefault(Route.any(source.exchange, source.topic), Choice())
            elif kind is SourceKind.ONE:
                choice = self.one_of.setdefault(Route.one(source.exchange, source.topic, source.server), Choice())
            elif kind is SourceKind.ALL:
                group = self.each.setdefault(Route.all(source.exchange, source.topic), {})
                choice = group.setdefault(f"{peer.record.instance}/{number}", Choice())
            elif kind is SourceKind.POOLS:
                group = self.each.setdefault(Route.pools(source.exchange, source.topic), {})
                choice = group.setdefault(source.pool, Choice())
            else:
                continue
            choice.candidates.append((peer, number))
            peer.choices.append(choice)

    def find(self, route: Route, name: str) -> Choice | None:
        """The choice of a message (`name` empty) or of one of its copies."""
        if route.kind is RouteKind.ALL or route.kind is RouteKind.POOLS:
            return self.each.get(route, {}).get(name)
        return self.one_of.get(route)
