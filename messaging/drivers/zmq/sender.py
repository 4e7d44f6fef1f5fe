"""Where each message goes, and what happens to it until somebody has taken it or it has failed.

A message is in one of three places: in the queue of a ready peer until it is written, among the waiting while nobody
is ready for it, or between two rounds of asking when everybody has refused it. Only what is proven not to have been
handled is ever sent again.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence

from messaging.drivers.sweep import Sweep
from messaging.drivers.zmq.choices import Choice, Choices
from messaging.drivers.zmq.frames import GONE, REJECTED, REPLIES, Batch
from messaging.drivers.zmq.groups import CopyGroup, Fanout, Pools
from messaging.drivers.zmq.link import Copy, Item, Link, is_withdrawn, outgoing_of, unmark
from messaging.drivers.zmq.peer import Peer
from messaging.drivers.zmq.peers import Peers
from messaging.drivers.zmq.reasons import gone, nobody, not_reached_in_time, unreached
from messaging.drivers.zmq.refusals import Refusals
from messaging.drivers.zmq.runtime import Runtime
from messaging.drivers.zmq.waiting import Waiting
from messaging.errors import Closed, Delivered, Rejected, ServerLost
from messaging.message import MESSAGE_ID, Outgoing, RouteKind, SentResult, Stage

__all__ = ["Sender"]

# A member of an enumeration costs 70 ns to look up, as much as a call.
_TAKEN = Stage.TAKEN
_REPLY = RouteKind.REPLY
_ALL = RouteKind.ALL
_POOLS = RouteKind.POOLS
_MUCH = 32
"""So many messages queued for one process are written before the turn ends. With 64 calls in flight the two processes
would otherwise take turns, each idle while the other works through all 64: 19 us per call, against 13 when 16 are
written at a time and 10.5 with 32; each write costs 20 us.
"""
_PURGE = 1000
"""After how many messages with copies those that have ended are let go of, with their bodies: the next one whose time
comes may stay for minutes.
"""
_EARLY = 0.05
"""Seconds before its deadline at which a message with copies is answered with what is known, or a tenth of its time."""


class Sender:
    """Outgoing messages of one connection."""

    def __init__(self, runtime: Runtime, choices: Choices, peers: Peers, write_now: Callable[[], None]) -> None:
        self._runtime = runtime
        self._write_now = write_now
        self._choices = choices
        self._peers = peers
        self._news = runtime.news
        self._refusals = Refusals(runtime)
        self.waiting = Waiting(runtime)
        self._groups: list[tuple[float, int, CopyGroup]] = []
        self._sweep = Sweep(_PURGE)
        self._serial = itertools.count()

    # Choosing

    def publish(self, outgoing: Outgoing) -> None:
        """Queue a message where it goes; the hot paths come first."""
        route = outgoing.route
        if route[0] is _REPLY:
            link = self._runtime.links.get(route[4])
            if link is None:
                self._end(outgoing, gone())
                return
            if len(link.queue) >= _MUCH:
                self._write_now()
            link.queue.append((outgoing, REPLIES, outgoing))
            if not link.dirty:
                self._runtime.mark(link)
            return
        choice = self._choices.one_of.get(route)
        if choice is not None and choice.ready:
            ready = choice.ready
            candidate = ready[0] if len(ready) == 1 else choice.pick()
            if candidate is not None:
                peer, number = candidate
                if len(peer.queue) >= _MUCH:
                    self._write_now()
                peer.queue.append((outgoing, number, outgoing))
                if not peer.dirty:
                    self._runtime.mark(peer)
                if choice.sparse:
                    self._peers.spread(choice, self._runtime.now)
                return
        kind = route[0]
        # Messages are published between two turns as well, when `now` may be long past.
        now = self._runtime.clock()
        if kind is _ALL or kind is _POOLS:
            self._copy(outgoing, now)
        else:
            self._place(outgoing, now)

    def _copy(self, outgoing: Outgoing, now: float, since: float | None = None) -> None:
        """Make a copy for each server or pool."""
        since = now if since is None else since
        self._peers.refresh(now, self._runtime.turn)
        if self._peers.asking(since, now):
            self.waiting.hold(outgoing, None, since)
            return
        choices = self._choices.each.get(outgoing.route, {})
        if not choices:
            if outgoing.route.kind is RouteKind.POOLS:
                self._end(outgoing, nobody(outgoing.route))
            else:
                outgoing.stage = _TAKEN
                self._news.ended(outgoing, _TAKEN, None, (0, 0))
            return
        until = math.inf
        if outgoing.deadline:
            until = outgoing.deadline - min(_EARLY, (outgoing.deadline - now) / 10)
        kind = Fanout if outgoing.route.kind is RouteKind.ALL else Pools
        group = kind(outgoing, self._news, choices, until)
        if until < math.inf:
            if self._sweep.is_due(len(self._groups)):
                self._groups = [entry for entry in self._groups if not entry[2].ended]
                heapq.heapify(self._groups)
                self._sweep.done(len(self._groups))
            heapq.heappush(self._groups, (until, next(self._serial), group))
            self._runtime.at(until)
        for copy in group.copies:
            self._offer(copy, choices[copy.name], now, since)

    def _place(self, item: Item, now: float, since: float | None = None) -> None:
        """Give a message, or one copy, to the best candidate, or let it wait for one."""
        since = now if since is None else since
        outgoing = outgoing_of(item)
        name = item.name if isinstance(item, Copy) else ""
        choice = self._choices.find(outgoing.route, name)
        if choice is None:
            self._peers.refresh(now, self._runtime.turn)
            choice = self._choices.find(outgoing.route, name)
        if choice is not None:
            self._offer(item, choice, now, since)
        elif isinstance(item, Copy):
            self._end(item, nobody(outgoing.route))
        elif self._peers.asking(since, now):
            self.waiting.hold(item, None, since)
        else:
            self._end(item, nobody(outgoing.route, self._peers.unreached()))

    def _offer(self, item: Item, choice: Choice, now: float, since: float) -> None:
        tried = self._refusals.tried(item) if self._refusals else ()
        candidate = choice.pick(tried)
        if candidate is not None:
            candidate[0].queue.append((outgoing_of(item), candidate[1], item))
            self._runtime.mark(candidate[0])
            if choice.sparse:
                self._peers.spread(choice, now)
        elif choice.ready:
            self._refused_by_all(item, now)
        else:
            self.waiting.hold(item, choice, since)
            self._peers.spread(choice, now)

    # What comes back

    def settled(self, link: Link, batch: Batch) -> None:
        """A process has settled messages."""
        take = link.unsettled.pop
        awaited = link.awaited
        refusals = bool(self._refusals)
        for sequence in batch.accepted:
            item = take(sequence, None)
            if item is None:
                self._runtime.count("late_settlements")
                continue
            if refusals:
                self._refusals.forget(item, None)
            if isinstance(item, Copy):
                item.group.copy_ended(item, None)
                continue
            item.stage = _TAKEN
            if item.confirm:
                self._news.ended(item, _TAKEN, None, link.address)
            elif awaited and item.token is not None and item.headers.get(MESSAGE_ID) in awaited:
                # With its answer, a call has no use for the news that it was taken.
                self._news.ended(item, _TAKEN, None, link.address)
        for sequence, why, reason in batch.refused:
            item = take(sequence, None)
            if item is None:
                self._runtime.count("late_settlements")
            else:
                self._refused(link, item, why, reason)

    def _refused(self, link: Link, item: Item, why: int, reason: str) -> None:
        outgoing = outgoing_of(item)
        unmark(item)
        if why == REJECTED:
            self._end(item, Rejected(f"the receiver rejected the message: {reason}"))
        elif is_withdrawn(item):
            self._refusals.forget(item, None)
        elif outgoing.route.kind is not RouteKind.REPLY:
            self._refusals.note(item, link, why)
            self._place(item, self._runtime.now)
        elif why == GONE:
            self._end(item, gone())
        else:
            self._refusals.note(item, link, why)
            self._refused_by_all(item, self._runtime.now)

    def _refused_by_all(self, item: Item, now: float) -> None:
        error = self._refusals.next_round(item, now)
        if error is not None:
            self._end(item, error)

    def failed(self, failures: Sequence[tuple[Item, Exception]]) -> None:
        """Messages that were not written and never will be."""
        for item, error in failures:
            self._end(item, error)

    def link_down(self, link: Link, error: Exception, processed: int | None) -> list[SentResult]:
        """A process is gone: what it had not settled is in doubt, what it never saw goes elsewhere.

        Returns the news of what is in doubt, to be told after the answers that still came.
        """
        doubtful: list[SentResult] = []
        again: list[Item] = []
        unsettled, link.unsettled = link.unsettled, {}
        link.awaited.clear()
        for sequence, item in unsettled.items():
            if processed is not None and sequence > processed:
                unmark(item)
                again.append(item)
                continue
            self._refusals.forget(item, None)
            if isinstance(item, Copy):
                item.group.copy_ended(item, _in_doubt(error))
            else:
                doubtful.append(SentResult(item, Stage.WRITTEN, _in_doubt(error), link.address or None))
        again += [item for _outgoing, _number, item in link.take_queue()]
        self._again(again)
        return doubtful

    def place_again(self, queued: Sequence[tuple[Outgoing, int, Item]]) -> None:
        """What a peer could not take now goes to others, or waits for it."""
        self._again([item for _outgoing, _number, item in queued])

    def _again(self, items: Sequence[Item]) -> None:
        for item in items:
            if is_withdrawn(item):
                continue
            if outgoing_of(item).route.kind is RouteKind.REPLY:
                self._end(item, gone())
            else:
                self._place(item, self._runtime.now)

    def _end(self, item: Item, error: Exception) -> None:
        if self._refusals:
            self._refusals.forget(item, None)
        if isinstance(item, Copy):
            item.group.copy_ended(item, error)
        else:
            self._news.ended(item, None, error)

    # What has changed, and time

    def decide(self, now: float) -> None:
        """Something is known that was not: look again at what waits."""
        for item, since in self.waiting.take_undecided():
            outgoing = outgoing_of(item)
            if outgoing.route.kind is RouteKind.ALL or outgoing.route.kind is RouteKind.POOLS:
                self._copy(outgoing, now, since)
            else:
                self._place(item, now, since)
        for item, since in self.waiting.take_movable():
            self._place(item, now, since)

    def peer_failed(self, peer: Peer, now: float) -> None:
        """An attempt to reach a peer has failed."""
        for item, _since in self.waiting.take_hopeless():
            self._end(item, unreached(outgoing_of(item).route, peer.failure))
        for choice in self.waiting.choices:
            if choice in peer.choices:
                self._peers.spread(choice, now)
        self.decide(now)

    def tick(self, now: float) -> None:
        """Retry, expire, and answer what is due."""
        for item in self._refusals.due(now):
            if outgoing_of(item).route.kind is RouteKind.REPLY:
                self.publish(outgoing_of(item))
            else:
                self._place(item, now)
        while self._groups and (self._groups[0][0] <= now or self._groups[0][2].ended):
            heapq.heappop(self._groups)[2].close()
        if self._groups:
            self._runtime.at(self._groups[0][0])
        for item, _since in self.waiting.take_expired(now):
            self._end(item, not_reached_in_time(outgoing_of(item).route))
        self._runtime.at(self.waiting.next_expiry)

    def give_up(self) -> None:
        """The connection closes: everything that waits has failed, unwritten."""
        for item in (*(item for item, _since in self.waiting.take_all()), *self._refusals.take_all()):
            self._end(item, Closed("the transport was closed before the message could be written"))


def _in_doubt(error: Exception) -> Exception:
    told = f"{error}, before the message was settled"
    if isinstance(error, Closed):
        return Closed(told, delivered=Delivered.MAYBE)
    lost = ServerLost(told)
    lost.__cause__ = error
    return lost
