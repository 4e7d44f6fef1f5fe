"""How a notification ends at a listener: settled as done, handed back, repeated from memory, or buried.

What becomes of it depends on who settles and on what the backend can do (see base_listener), and on nothing else: this
knows no handlers, no batches and no event loops. Everything here may be called from any thread. Tables decide between
threads: whoever takes an entry out has it.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from messaging.errors import Closed, DecodeError
from messaging.message import MESSAGE_ID, Delivery, Outcome
from messaging.notify.burial import Burial
from messaging.notify.handling import Decode, decoded
from messaging.notify.redelivery import Redelivery
from messaging.notify.work import InHand, Lanes, Letter, Turn
from messaging.reactor import Reactor

if TYPE_CHECKING:
    from messaging.coroutines import CoroutineRunner, LoopTasks

__all__ = ["COUNTS", "Endings", "Tables"]

_log = logging.getLogger(__name__)

_OUTCOMES = ("handled", "ignored", "requeued", "dead_lettered", "dropped", "stale")
COUNTS = ("received", *_OUTCOMES, "failed", "repeated", "undecodable")
"""`received` is the sum of handled, ignored (no handler wants it), requeued (it comes again), dead_lettered, dropped
(it failed for good, and nothing keeps dead letters), stale (its connection went, so it comes again) and what is in
hand. The other counts are of events on the way.
"""
_LATE = "%s: the transport was closed before a settlement; the notification comes again"
STOPPED = "the listener stopped before another attempt"


class Tables:
    """What a listener has in hand, and where in its life each is."""

    __slots__ = ("_bytes", "_freed", "held", "in_hand", "measured", "ready", "turns", "waiting")

    def __init__(self) -> None:
        self.measured = True
        """Whether the size of all bodies is kept: that is 0.09 of the 0.21 us that the tables cost for each."""
        self.ready: deque[InHand | Delivery] = deque()
        """May begin, where plain work does it. A Delivery waits as it came, and is in no other table before it begins.
        """
        self.turns: dict[Turn, bool] = {}
        """Where it is while its handlers run, for as long as all goes well: an entry of its own in the next table for
        each is 0.19 of 2.7 us.
        """
        self.in_hand: dict[InHand, bool] = {}
        """Everything else that was received and has not ended."""
        self.waiting: dict[InHand, bool] = {}
        """Not started: a worker takes it out, or the drain."""
        self.held: dict[InHand, bool] = {}
        """Failed, and kept for another attempt: a timer takes it out, or the drain."""
        self._bytes = 0
        self._freed: deque[int] = deque()

    def add(self, items: Sequence[InHand]) -> None:
        """Take some in hand; owner only."""
        if self.measured:
            self._bytes += sum([len(item.delivery.body) for item in items])
        new = dict.fromkeys(items, True)
        self.in_hand.update(new)
        self.waiting.update(new)

    def remove(self, item: InHand) -> bool:
        """Take one out of hand, from any thread; False: it was out."""
        if self.measured:
            # Sizes go by way of a queue, because `-=` from several threads would lose some.
            self._freed.append(len(item.delivery.body))
        return self.in_hand.pop(item, False)

    def count(self) -> int:
        """How many were received and have not ended."""
        return len(self.everything()) + sum(type(each) is Delivery for each in list(self.ready))

    def everything(self) -> list[InHand]:
        """What was received and has not ended, but for what waits as it came."""
        return [*list(self.in_hand), *(item for turn in list(self.turns) if (item := turn.item) is not None)]

    def enter_ready(self) -> None:
        """Enter what waits as it came, so that it can be handed back like everything else; owner only."""
        found: list[InHand] = []
        while self.ready:
            try:
                item = self.ready.popleft()
            except IndexError:
                # A worker was faster.
                break
            if type(item) is Delivery:
                found.append(InHand(item, item.attempt, None))
        self.add(found)

    def bytes(self) -> int:
        """The size of all bodies in hand; owner only."""
        while self._freed:
            self._bytes -= self._freed.popleft()
        return self._bytes


class Endings:
    """The endings of one listener's notifications. Thread-safe.

    `begin` lets some begin, each by itself; `draining` tells whether the listener takes nothing more; `held_limit`
    bounds what is kept for another attempt where it could be handed back instead.
    """

    def __init__(
        self,
        reactor: Reactor,
        name: str,
        tables: Tables,
        lanes: Lanes | None,
        redelivery: Redelivery,
        burial: Burial | None,
        tasks: CoroutineRunner | LoopTasks | None,
        count: Mapping[str, Callable[[], object]],
        begin: Callable[[Sequence[InHand]], None],
        draining: Callable[[], bool],
        held_limit: int,
        decode: Decode,
        remember: Callable[[Delivery], None] | None = None,
    ) -> None:
        self._decode = decode
        self._remember = remember
        self._reactor = reactor
        self._name = name
        self._tables = tables
        self._lanes = lanes
        self._redelivery = redelivery
        self._burial = burial
        self._tasks = tasks
        self._count = count
        self._begin = begin
        self._drains = draining
        self._held_limit = held_limit
        self._peer_settles = reactor.capabilities.acceptance == "peer"

    def finish(self, item: InHand, todo: list[InHand]) -> None:
        """End one that has been through its handlers; what may begin now is appended to `todo`."""
        if item.failure is not None:
            self._failed(item, item.failure, todo)
            return
        if self._remember is not None:
            self._remember(item.delivery)
        self._accept(item)
        self.end(item, "handled" if item.wanted else "ignored", todo)

    def runnable(self, item: InHand, todo: list[InHand]) -> bool:
        """Whether the handlers shall get it now; a worker's first question."""
        if not self._tables.waiting.pop(item, False):
            return False
        delivery = item.delivery
        if delivery.attempt == 1 and not delivery.stale and item.letter is None:
            return True
        if item.delivery.stale and not self._peer_settles:
            self.end(item, "stale", todo)
            return False
        if item.letter is None and self._redelivery.fatal(item.delivery.attempt):
            item.letter = Letter(f"handed out {item.delivery.attempt} times without ever being settled", None)
        if item.letter is not None:
            self._bury(item, item.letter, todo)
            return False
        return True

    def hand_back(self) -> None:
        """Give up what was not started, and what waits for another attempt; owner only."""
        tables = self._tables
        held = [item for item in list(tables.held) if tables.held.pop(item, False)]
        if not self._peer_settles:
            tables.enter_ready()
            for item in held + [item for item in list(tables.waiting) if tables.waiting.pop(item, False)]:
                self._requeue(item, 0.0, None)
            return
        # They are this listener's own since they were settled: what has not run will, what waits for another attempt
        # is buried, by a worker.
        for item in held:
            item.letter = item.letter or Letter(STOPPED, item.failure)
            tables.waiting[item] = True
        self._begin(held)

    def forget_all(self) -> None:
        """End what nobody will get to any more, after the time for stopping."""
        for table in (self._tables.waiting, self._tables.held):
            for item in list(table):
                if table.pop(item, False):
                    self.forget(item)

    def forget(self, item: InHand) -> None:
        """End one that no handler was called with; the caller has taken it out of its table."""
        if self._peer_settles:
            self._tell_of_loss(item, STOPPED)
            self.end(item, "dropped", [])
        else:
            self._requeue(item, 0.0, [])

    def end(self, item: InHand, outcome: str, todo: list[InHand] | None) -> None:
        """Count an outcome and let the next of its key go: into `todo`, or at once."""
        if self._tables.remove(item):
            self._count[outcome]()
        if item.key is not None:
            self._let_follow(item, todo)

    def _let_follow(self, item: InHand, todo: list[InHand] | None) -> None:
        if self._lanes is None:
            return
        following = self._lanes.leave(item)
        if following is None:
            return
        if todo is None:
            self._begin([following])
        else:
            todo.append(following)

    def _accept(self, item: InHand) -> None:
        if not self._peer_settles:
            try:
                self._reactor.accept(item.delivery)
            except Closed:
                _log.debug(_LATE, self._name)

    def _settle(self, item: InHand, outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        if not self._peer_settles:
            try:
                self._reactor.settle([item.delivery], outcome, delay, reason)
            except Closed:
                _log.debug(_LATE, self._name)

    def _requeue(self, item: InHand, delay: float, todo: list[InHand] | None) -> None:
        self._settle(item, Outcome.REQUEUE, delay)
        self.end(item, "requeued", todo)

    def _failed(self, item: InHand, failure: BaseException, todo: list[InHand] | None) -> None:
        if isinstance(failure, DecodeError):
            self._count["undecodable"]()
            _log.warning("%s: a notification is refused: %s", self._name, failure)
        verdict = self._redelivery.judge(failure, item.attempt)
        requeue = self._reactor.capabilities.requeue
        if not verdict.again:
            self._bury(item, Letter(verdict.reason, failure), todo)
        elif not self._peer_settles and (
            requeue == "later" or (requeue != "none" and (self._drains() or len(self._tables.held) >= self._held_limit))
        ):
            self._requeue(item, verdict.delay, todo)
        else:
            item.attempt += 1
            self._hold(item, verdict.delay)

    # Repeating from memory, and burying

    def _hold(self, item: InHand, delay: float) -> None:
        """Keep it until its next attempt, or that of its burial; its key keeps waiting."""
        self._tables.held[item] = True
        try:
            self._reactor.call_later(delay, functools.partial(self._repeat, item))
            closed = False
        except Closed:
            closed = True
        # First into the table, then the look at the state; the drain does it the other way round.
        if (closed or self._drains()) and self._tables.held.pop(item, False):
            self._give_up(item)

    def _repeat(self, item: InHand) -> None:
        if self._tables.held.pop(item, False):
            self._count["repeated"]()
            item.failure = None
            self._tables.waiting[item] = True
            self._begin([item])

    def _give_up(self, item: InHand) -> None:
        """There will be no other attempt."""
        if not self._peer_settles:
            self._requeue(item, 0.0, None)
        elif item.letter is None:
            self._bury(item, Letter(STOPPED, item.failure), None)
        else:
            self._dispose(item, item.letter.reason, None)

    def _bury(self, item: InHand, letter: Letter, todo: list[InHand] | None) -> None:
        item.letter = letter
        event = item.event
        if event is None:
            try:
                event = item.event = decoded(self._decode, item.delivery, item.attempt)
            except DecodeError:
                # There is no event to give to anybody.
                self._dispose(item, letter.reason, todo)
                return
        burial = self._burial
        if burial is None:
            self._dispose(item, letter.reason, todo)
        elif burial.is_async and self._tasks is not None:
            self._tasks.start(
                self._tasks.plain_job(
                    lambda: burial.bury(event, item.delivery, letter, functools.partial(self._buried, item))
                )
            )
        else:
            burial.bury(event, item.delivery, letter, functools.partial(self._buried, item))

    def _buried(self, item: InHand, failure: Exception | None) -> None:
        if failure is None:
            self._accept(item)
            self.end(item, "dead_lettered", None)
            return
        item.burials += 1
        _log.error("%s: a dead letter could not be handed to dead_letter=: %s", self._name, failure)
        self._hold(item, self._redelivery.delay(item.burials))

    def _dispose(self, item: InHand, reason: str, todo: list[InHand] | None) -> None:
        """Where there is no `dead_letter=`: the transport's own dead letters, or none."""
        kept = not self._peer_settles and self._reactor.capabilities.reject == "dead_letter"
        if not kept:
            self._tell_of_loss(item, reason)
        redelivers = self._reactor.capabilities.reject == "redeliver"
        self._settle(item, Outcome.ACCEPT if redelivers else Outcome.REJECT, 0.0, reason)
        self.end(item, "dead_lettered" if kept else "dropped", todo)

    def _tell_of_loss(self, item: InHand, reason: str) -> None:
        _log.error(
            "%s: notification %s is dropped, because nothing keeps dead letters here (see dead_letter=): %s",
            self._name,
            item.delivery.headers.get(MESSAGE_ID),
            reason,
        )
