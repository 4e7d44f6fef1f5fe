"""Where each message goes, and what happens to it until somebody has taken it or it has failed.

A message waits in one of three places: in the queue of a ready peer until this pump's flush, at a choice while none
of its candidates is ready, or among the undecided while fixed peers have not yet told what they serve. What a peer
refuses is tried elsewhere, with backoff once all have refused. Only what is proven not to have been handled is ever
sent again.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence

from messaging.backoff import Backoff
from messaging.drivers.zmq.choices import Choice, Choices
from messaging.drivers.zmq.frames import GONE, REJECTED, REPLIES, Batch
from messaging.drivers.zmq.groups import CopyGroup, Fanout, Pools
from messaging.drivers.zmq.link import Copy, Item, Link, outgoing_of
from messaging.drivers.zmq.peer import Peer
from messaging.drivers.zmq.peers import Peers
from messaging.drivers.zmq.runtime import Runtime
from messaging.errors import (
    AuthFailed,
    ConnectFailed,
    DeadlineExceeded,
    Delivered,
    NoRoute,
    Overloaded,
    Rejected,
    ServerLost,
)
from messaging.message import MESSAGE_ID, Outgoing, Route, RouteKind, SentResult, Stage

__all__ = ["Sender"]

_TAKEN = Stage.TAKEN
_ROUNDS = 6
"""How often a message without a deadline is offered to everybody."""
_MUCH = 16
"""So many messages queued for one process are written before the turn ends. With 64 calls in flight the two processes
would otherwise take turns, each idle while the other works through all 64: 38,000 calls a second against 53,000.
"""
_EARLY = 0.05
"""Seconds before its deadline at which a message with copies is answered with what is known, or a tenth of its time."""
_HIGH = 10_000
"""How many messages may wait for peers before the connection tells BLOCKED; READY again at half of it."""


class _Refusal:
    """What a refused message has behind it."""

    __slots__ = ("backoff", "gone", "rounds", "tried")

    def __init__(self, backoff: Backoff) -> None:
        self.tried: set[Peer] = set()
        self.gone = True
        """Whether everybody who refused it does not serve it any more."""
        self.rounds = 0
        self.backoff = backoff


class Sender:
    """Outgoing messages of one connection."""

    def __init__(self, runtime: Runtime, choices: Choices, peers: Peers, write_now: Callable[[], None]) -> None:
        self._runtime = runtime
        self._write_now = write_now
        self._choices = choices
        self._peers = peers
        self._news = runtime.news
        self._refusals: dict[Item, _Refusal] = {}
        self._retries: list[tuple[float, int, Item]] = []
        self._groups: list[tuple[float, int, CopyGroup]] = []
        self._undecided: list[tuple[Outgoing, float]] = []
        self._waiting: set[Choice] = set()
        self._held = 0
        self._expiry = math.inf
        self._serial = itertools.count()
        self.blocked = False

    # Choosing

    def publish(self, outgoing: Outgoing) -> None:
        """Queue a message where it goes; the hot paths come first."""
        route = outgoing.route
        if route[0] is RouteKind.REPLY:
            link = self._runtime.links.get(route[4])
            if link is None:
                self._end(outgoing, None, NoRoute("whoever is to get this message is not connected any more"))
                return
            if len(link.queue) >= _MUCH:
                self._write_now()
            link.queue.append((outgoing, REPLIES, outgoing))
            if not link.dirty:
                self._runtime.mark(link)
            return
        choice = self._choices.one_of.get(route)
        if choice is not None and choice.ready:
            candidate = choice.pick()
            if candidate is not None:
                peer = candidate[0]
                if len(peer.queue) >= _MUCH:
                    self._write_now()
                peer.queue.append((outgoing, candidate[1], outgoing))
                if not peer.dirty:
                    self._runtime.mark(peer)
                if choice.sparse:
                    self._peers.spread(choice, self._runtime.now)
                return
        kind = route[0]
        if kind is RouteKind.ALL or kind is RouteKind.POOLS:
            self._copy(outgoing, self._runtime.now)
        else:
            self._place(outgoing, self._runtime.now)

    def _copy(self, outgoing: Outgoing, now: float, since: float | None = None) -> None:
        """Make a copy for each server or pool."""
        self._peers.refresh(now, self._runtime.turn)
        if self._peers.asking(now if since is None else since, now):
            self._hold_undecided(outgoing, now if since is None else since)
            return
        choices = self._choices.each.get(outgoing.route, {})
        until = math.inf
        if outgoing.deadline:
            until = outgoing.deadline - min(_EARLY, (outgoing.deadline - now) / 10)
        if outgoing.route.kind is RouteKind.ALL:
            if not choices:
                outgoing.stage = Stage.TAKEN
                self._news.ended(outgoing, Stage.TAKEN, None, (0, 0))
                return
            group: CopyGroup = Fanout(outgoing, self._news, choices, until)
        else:
            if not choices:
                self._end(outgoing, None, NoRoute(_nobody(outgoing.route)))
                return
            group = Pools(outgoing, self._news, choices, until)
        if until < math.inf:
            heapq.heappush(self._groups, (until, next(self._serial), group))
            self._runtime.at(until)
        for copy in group.copies:
            self._offer(copy, choices[copy.name], now)

    def _place(self, item: Item, now: float, since: float | None = None) -> None:
        """Give a message, or one copy, to the best candidate, or let it wait for one."""
        outgoing = outgoing_of(item)
        name = item.name if isinstance(item, Copy) else ""
        choice = self._choices.find(outgoing.route, name)
        if choice is None:
            self._peers.refresh(now, self._runtime.turn)
            choice = self._choices.find(outgoing.route, name)
        if choice is not None:
            self._offer(item, choice, now, since)
        elif isinstance(item, Copy):
            self._end(item, None, NoRoute(_nobody(outgoing.route)))
        elif self._peers.asking(now if since is None else since, now):
            self._hold_undecided(outgoing, now if since is None else since)
        else:
            self._end(item, None, self._nobody_reached(outgoing.route))

    def _offer(self, item: Item, choice: Choice, now: float, since: float | None = None) -> None:
        refusal = self._refusals.get(item) if self._refusals else None
        candidate = choice.pick(refusal.tried if refusal is not None else ())
        if candidate is not None:
            candidate[0].queue.append((outgoing_of(item), candidate[1], item))
            self._runtime.mark(candidate[0])
            if choice.sparse:
                self._peers.spread(choice, now)
            return
        if refusal is not None and choice.ready:
            self._refused_by_all(item, refusal, now)
            return
        choice.waiting.append((item, now if since is None else since))
        self._waiting.add(choice)
        self._hold(outgoing_of(item))
        self._peers.spread(choice, now)

    def _nobody_reached(self, route: Route) -> Exception:
        failure = self._peers.unreached()
        if failure is not None:
            return _unreached(f"{_nobody(route)}, but not every peer could be asked", failure)
        return NoRoute(_nobody(route))

    # What comes back

    def settled(self, link: Link, batch: Batch) -> None:
        """A process has settled messages."""
        take = link.unsettled.pop
        awaited = link.awaited
        for sequence in batch.accepted:
            item = take(sequence, None)
            if item is None:
                self._runtime.count("late_settlements")
                continue
            if self._refusals:
                self._refusals.pop(item, None)
            if isinstance(item, Copy):
                item.group.copy_ended(item, None)
                continue
            item.stage = _TAKEN
            if item.confirm:
                self._news.ended(item, _TAKEN, None, link.address)
            elif item.headers.get(MESSAGE_ID) in awaited and item.token is not None:
                # With its answer, a call has no use for the news that it was taken.
                self._news.ended(item, _TAKEN, None, link.address)
        for sequence, why, reason in batch.refused:
            item = take(sequence, None)
            if item is None:
                self._runtime.count("late_settlements")
            else:
                self._refused(link, item, why, reason, self._runtime.now)

    def _refused(self, link: Link, item: Item, why: int, reason: str, now: float) -> None:
        outgoing = outgoing_of(item)
        outgoing.stage = None
        if isinstance(item, Copy):
            item.written = False
        if why == REJECTED:
            self._end(item, None, Rejected(f"the receiver rejected the message: {reason}"))
            return
        if outgoing.withdrawn:
            return
        if outgoing.route.kind is RouteKind.REPLY and why == GONE:
            self._end(item, None, NoRoute("nobody receives at this address any more"))
            return
        refusal = self._refusals.get(item)
        if refusal is None:
            refusal = self._refusals[item] = _Refusal(Backoff(0.01, 1.0, self._runtime.random))
        if isinstance(link, Peer):
            refusal.tried.add(link)
        if why != GONE:
            refusal.gone = False
        if outgoing.route.kind is RouteKind.REPLY:
            self._refused_by_all(item, refusal, now)
        else:
            self._place(item, now)

    def _refused_by_all(self, item: Item, refusal: _Refusal, now: float) -> None:
        """Begin another round after a while, if there is time for it."""
        outgoing = outgoing_of(item)
        if refusal.gone:
            self._end(item, None, NoRoute(_nobody(outgoing.route)))
            return
        refusal.rounds += 1
        refusal.tried.clear()
        refusal.gone = True
        when = now + refusal.backoff.next()
        until = outgoing.deadline
        if isinstance(item, Copy) and until:
            until = item.group.until
        if when >= until - 0.01 if until else refusal.rounds >= _ROUNDS:
            told = f"everybody who could take the message is busy, in {refusal.rounds} rounds of asking"
            self._end(item, None, Overloaded(told))
            return
        heapq.heappush(self._retries, (when, next(self._serial), item))
        self._runtime.at(when)

    def failed(self, failures: Sequence[tuple[Item, Exception]]) -> None:
        """Messages that were not written and never will be."""
        for item, error in failures:
            self._end(item, None, error)

    def link_down(self, link: Link, error: Exception, processed: int | None) -> list[SentResult]:
        """A process is gone: what it had not settled is in doubt, what it never saw goes elsewhere.

        Returns the news of what is in doubt, to be told after the answers that still came.
        """
        doubtful: list[SentResult] = []
        again: list[Item] = []
        unsettled, link.unsettled = link.unsettled, {}
        for sequence, item in unsettled.items():
            outgoing = outgoing_of(item)
            if processed is not None and sequence > processed:
                outgoing.stage = None
                if isinstance(item, Copy):
                    item.written = False
                again.append(item)
                continue
            if self._refusals:
                self._refusals.pop(item, None)
            lost = ServerLost(f"{error}, before it had settled the message")
            lost.__cause__ = error
            if isinstance(item, Copy):
                item.group.copy_ended(item, lost)
            else:
                doubtful.append(SentResult(item, Stage.WRITTEN, lost, link.address or None))
        again += [item for _outgoing, _number, item in link.take_queue()]
        now = self._runtime.now
        for item in again:
            if not outgoing_of(item).withdrawn:
                self._again(item, now)
        return doubtful

    def place_again(self, queued: Sequence[tuple[Outgoing, int, Item]], now: float) -> None:
        """What a peer could not take now goes to others, or waits for it."""
        for outgoing, _number, item in queued:
            if not outgoing.withdrawn:
                self._again(item, now)

    def _again(self, item: Item, now: float) -> None:
        if outgoing_of(item).route.kind is RouteKind.REPLY:
            self._end(item, None, NoRoute("whoever is to get this message is not connected any more"))
        else:
            self._place(item, now)

    def _end(self, item: Item, stage: Stage | None, error: Exception) -> None:
        if self._refusals:
            self._refusals.pop(item, None)
        if isinstance(item, Copy):
            item.group.copy_ended(item, error)
            return
        self._news.ended(item, stage, error)

    # Waiting

    def _hold(self, outgoing: Outgoing) -> None:
        self._held += 1
        if self._held > _HIGH:
            self.blocked = True
        if outgoing.deadline and outgoing.deadline < self._expiry:
            self._expiry = outgoing.deadline
            self._runtime.at(self._expiry)

    def _release(self, count: int) -> None:
        self._held -= count
        if self.blocked and self._held <= _HIGH // 2:
            self.blocked = False

    def _hold_undecided(self, outgoing: Outgoing, since: float) -> None:
        self._undecided.append((outgoing, since))
        self._hold(outgoing)

    def decide(self, now: float) -> None:
        """Something is known that was not: look again at everything that waits."""
        if self._undecided:
            undecided, self._undecided = self._undecided, []
            self._release(len(undecided))
            for outgoing, since in undecided:
                if outgoing.withdrawn:
                    continue
                if outgoing.route.kind is RouteKind.ALL or outgoing.route.kind is RouteKind.POOLS:
                    self._copy(outgoing, now, since)
                else:
                    self._place(outgoing, now, since)
        for choice in list(self._waiting):
            if choice.ready or not choice.candidates:
                self._dispatch(choice, now)

    def peer_failed(self, peer: Peer, now: float) -> None:
        """An attempt to reach a peer has failed: what has tried all its candidates since it began to wait has failed
        too.
        """
        for choice in list(self._waiting):
            oldest = min((found[0].failed_at for found in choice.candidates), default=math.inf)
            if not choice.ready and oldest >= choice.waiting[0][1]:
                self._fail_waiting(choice, oldest, peer.failure)
            elif choice in peer.choices:
                self._peers.spread(choice, now)
        self.decide(now)

    def _fail_waiting(self, choice: Choice, oldest: float, failure: Exception | None) -> None:
        while choice.waiting and choice.waiting[0][1] <= oldest:
            item, _since = choice.waiting.popleft()
            self._release(1)
            if not outgoing_of(item).withdrawn:
                told = f"{_called(outgoing_of(item).route)} is known but cannot be reached"
                self._end(item, None, _unreached(told, failure))
        if not choice.waiting:
            self._waiting.discard(choice)

    def _dispatch(self, choice: Choice, now: float) -> None:
        waiting = list(choice.waiting)
        choice.waiting.clear()
        self._waiting.discard(choice)
        self._release(len(waiting))
        for item, since in waiting:
            if not outgoing_of(item).withdrawn:
                self._place(item, now, since)

    def tick(self, now: float) -> None:
        """Retry, expire, and answer what is due."""
        while self._retries and self._retries[0][0] <= now:
            item = heapq.heappop(self._retries)[2]
            if item not in self._refusals or outgoing_of(item).withdrawn:
                self._refusals.pop(item, None)
            elif outgoing_of(item).route.kind is RouteKind.REPLY:
                self.publish(outgoing_of(item))
            else:
                self._place(item, now)
        while self._groups and (self._groups[0][0] <= now or self._groups[0][2].ended):
            heapq.heappop(self._groups)[2].close()
        if now >= self._expiry:
            self._expire(now)
        if self._retries:
            self._runtime.at(self._retries[0][0])
        if self._groups:
            self._runtime.at(self._groups[0][0])
        self._runtime.at(self._expiry)

    def _expire(self, now: float) -> None:
        """Take out what has expired; with many that expire one by one, look at all of them every 10 ms only."""
        self._expiry = math.inf
        for choice in list(self._waiting):
            waiting = list(choice.waiting)
            choice.waiting.clear()
            for item, since in waiting:
                if self._keeps(outgoing_of(item), item, now):
                    choice.waiting.append((item, since))
            if not choice.waiting:
                self._waiting.discard(choice)
        undecided, self._undecided = self._undecided, []
        self._undecided = [entry for entry in undecided if self._keeps(entry[0], entry[0], now)]
        self._expiry = max(self._expiry, now + 0.01)

    def _keeps(self, outgoing: Outgoing, item: Item, now: float) -> bool:
        if outgoing.withdrawn:
            self._release(1)
            return False
        if outgoing.deadline:
            if outgoing.deadline <= now:
                self._release(1)
                self._end(
                    item,
                    None,
                    DeadlineExceeded(
                        f"the deadline passed before {_called(outgoing.route)} could be reached",
                        phase="connect",
                        delivered=Delivered.NO,
                    ),
                )
                return False
            self._expiry = min(self._expiry, outgoing.deadline)
        return True

    @property
    def waiting(self) -> int:
        """How many messages wait for a peer."""
        return self._held

    def give_up(self, error: Exception) -> None:
        """The connection closes: everything that waits has failed, unwritten."""
        for choice in list(self._waiting):
            while choice.waiting:
                self._end(choice.waiting.popleft()[0], None, error)
        self._waiting.clear()
        undecided, self._undecided = self._undecided, []
        for outgoing, _since in undecided:
            self._end(outgoing, None, error)
        retries, self._retries = self._retries, []
        for _when, _serial, item in retries:
            self._end(item, None, error)
        self._release(self._held)


def _unreached(told: str, failure: Exception | None) -> ConnectFailed:
    """An error of the kind of the last failure: refused credentials stay refused, however often they are tried."""
    kind = AuthFailed if isinstance(failure, AuthFailed) else ConnectFailed
    error = kind(f"{told}: {failure}")
    error.retryable = getattr(failure, "retryable", True)
    error.__cause__ = failure
    return error


def _called(route: Route) -> str:
    what = f"topic {route.topic!r} of exchange {route.exchange!r}"
    return f"server {route.server!r} of {what}" if route.server else f"a server of {what}"


def _nobody(route: Route) -> str:
    what = _called(route).removeprefix("a server of ")
    return f"nobody {'listens to' if route.kind is RouteKind.POOLS else 'serves'} {what}"
