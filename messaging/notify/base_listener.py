"""What listeners of both faces share: when a notification is settled, started, repeated, handed back or buried. Nothing
here waits.

* Acceptance by the backend: a notification is settled after its handlers have returned. One that failed goes back with
  a delay where the transport can count and delay; elsewhere it stays unsettled and is repeated from memory, so that a
  crash loses nothing either way.
* Acceptance by the peer: it is settled when it stands in the inbox, which is bounded; beyond the bound it is refused.
  One that failed is repeated from memory and then goes to the `dead_letter=` of the listener. Inbox and memory die with
  the process.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from messaging.codec import Serializer
from messaging.drivers.base import Role
from messaging.errors import Closed, ConfigError, DecodeError, InvalidTarget, Unsupported
from messaging.lifecycle import ServiceCore, ServiceState, check_count
from messaging.message import Delivery, Outcome, Source, SourceKind
from messaging.notify.batch import Assembler
from messaging.notify.burial import DeadLetterSink, burial_for
from messaging.notify.dispatcher import Dispatcher
from messaging.notify.handling import Handling, ListenerAround, decoded
from messaging.notify.redelivery import Redelivery
from messaging.notify.work import InHand, Lanes, Letter, Work
from messaging.target import DEFAULT_EXCHANGE, Target
from messaging.transport import BaseTransport
from messaging.wire.native import LEVEL_HEADER, POOL_HEADER

__all__ = ["DEFAULT_POOL", "BaseListener"]

_log = logging.getLogger(__name__)

DEFAULT_POOL = "default"
_COUNTS = (
    "received",
    "handled",
    "ignored",
    "requeued",
    "dead_lettered",
    "dropped",
    "stale",
    "failed",
    "repeated",
    "undecodable",
)
"""`received` is the sum of handled, ignored (no handler wants it), requeued (it comes again), dead_lettered, dropped
(it failed for good, and nothing keeps dead letters), stale (its connection went, so it comes again) and what is in
hand. The other counts are of events on the way.
"""

_STOPPED = "the listener stopped before another attempt"


class BaseListener(ServiceCore):
    """A listener without a way of waiting; see `Listener`. Its public methods are thread-safe."""

    def __init__(
        self,
        transport: BaseTransport,
        targets: Sequence[Target],
        endpoints: Sequence[Any],
        *,
        pool: str | None = None,
        executor: Literal["threads", "inline"] = "threads",
        slots: int = 32,
        inbox: int = 16_384,
        serializer: Serializer | None = None,
        max_attempts: int | None = 5,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        dead_letter: DeadLetterSink | None = None,
        around: Sequence[ListenerAround] = (),
        batching: tuple[int, float] | None = None,
    ) -> None:
        super().__init__(transport, Role.LISTENER, executor=executor, slots=slots)
        check_count("inbox", inbox)
        self._pool = DEFAULT_POOL if pool is None else pool
        self._sources = _sources(targets, self._pool)
        if pool is not None and not transport.capabilities.pools:
            raise Unsupported(
                f"{transport.url.scheme}:// has no pools: every listener of a topic is in the default one"
            )
        self._dispatcher = Dispatcher(endpoints, in_batches=batching is not None)
        self._burial = burial_for(dead_letter)
        self._any_async = self._dispatcher.any_async or (self._burial is not None and self._burial.is_async)
        self._serializer = serializer
        self._around = around
        self._inbox = inbox
        self._policy = (max_attempts, backoff, max_backoff)
        self._redelivery = Redelivery(*self._policy, lambda: 0.0)
        self._batch_size = batching[0] if batching is not None else 1
        self._assembler = Assembler[InHand](*batching) if batching is not None else None
        self._batch_timer = float("inf")
        self._lanes = Lanes()
        self._in_hand: dict[InHand, bool] = {}
        self._waiting: dict[InHand, bool] = {}
        """Not started: whoever takes one out, a worker or the drain, has it."""
        self._held: dict[InHand, bool] = {}
        """Failed, to be repeated from memory; the same."""
        self._works: dict[Work, bool] = {}
        """Going through their handlers."""

    # Life

    def _name(self) -> str:
        topics = ", ".join(source.topic for source in self._sources)
        return f"listener of {topics} in pool {self._pool}"

    def _open(self, on_started: Callable[[Exception | None], None]) -> None:
        operations = self._begin_start(on_started)
        reactor = operations.reactor
        self._redelivery = Redelivery(*self._policy, reactor.random)
        self._count = {name: operations.counters.tally(f"listener.{name}").add for name in _COUNTS}
        self._handling = Handling(
            self._dispatcher,
            self._name(),
            self._serializer,
            self._around,
            self._assembler is not None,
            self._count["failed"],
        )
        self._peer_settles = reactor.capabilities.acceptance == "peer"
        window = self._inbox if self._peer_settles else max(2 * self._slots, self._batch_size)
        self._subscribe(self._sources, window, self._receive)

    def _hand_back(self, done: Callable[[], None]) -> None:
        rest = self._assembler.rest() if self._assembler is not None else []
        held = [item for item in list(self._held) if self._held.pop(item, False)]
        if self._peer_settles:
            # They are this listener's own since they were settled: what has not run will, what waits for another
            # attempt is buried.
            for item in held:
                item.letter = Letter(_STOPPED, item.failure)
                self._waiting[item] = True
            self._begin([Work([item]) for item in held])
            if rest:
                self._begin([Work(rest)])
        else:
            for item in held + [item for item in list(self._waiting) if self._waiting.pop(item, False)]:
                self._requeue(item, 0.0, None)
        done()

    def _abandon(self) -> None:
        for work in list(self._works):
            if work.current is not None:
                work.current.gave_up = True
            if work.job is not None and self._tasks is not None:
                self._tasks.cancel(work.job)
        for table in (self._waiting, self._held):
            for item in list(table):
                if table.pop(item, False):
                    self._end(item, "dropped" if self._peer_settles else "stale", None)
        super()._abandon()

    def _idle(self) -> bool:
        return not self._in_hand

    def health(self) -> dict[str, Any]:
        """See ServiceCore; and `in_hand`, how many notifications are, and `held`, how many of them wait for another
        attempt.
        """
        return {**super().health(), "in_hand": len(self._in_hand), "held": len(self._held)}

    # Receiving; on the owner

    def _receive(self, batch: Sequence[Delivery]) -> None:
        taken: list[InHand] = []
        passed: list[Delivery] = []
        refused: list[Delivery] = []
        levels = self._dispatcher.levels
        draining = self._state in (ServiceState.DRAINING, ServiceState.STOPPED)
        room = self._inbox - len(self._in_hand) if self._peer_settles else len(batch)
        for delivery in batch:
            self._count["received"]()
            headers = delivery.headers
            level = headers.get(LEVEL_HEADER)
            if draining:
                self._count["requeued"]()
                refused.append(delivery)
            elif (type(level) is str and level not in levels) or headers.get(POOL_HEADER, self._pool) != self._pool:
                self._count["ignored"]()
                passed.append(delivery)
            elif len(taken) >= room:
                self._count["requeued"]()
                refused.append(delivery)
            else:
                taken.append(InHand(delivery))
        if passed:
            self._reactor.settle(passed, Outcome.ACCEPT)
        if refused:
            self._reactor.settle(refused, Outcome.REQUEUE)
        if taken:
            if self._peer_settles:
                self._reactor.settle([item.delivery for item in taken], Outcome.ACCEPT)
            self._admit(taken)

    def _admit(self, items: list[InHand]) -> None:
        for item in items:
            self._in_hand[item] = True
            self._waiting[item] = True
        if self._assembler is None:
            self._begin([Work([item]) for item in items if self._lanes.enter(item)])
            return
        now = self._clock()
        alone = []
        for item in items:
            # What comes again comes alone, so that one bad notification does not take its neighbours to the dead
            # letters.
            if item.attempt > 1:
                alone.append(Work([item]))
            else:
                self._assembler.add(item, now)
        self._begin(alone + [Work(batch) for batch in self._assembler.due(now)])
        self._watch_batch(now)

    def _watch_batch(self, now: float) -> None:
        if self._assembler is None:
            return
        due = self._assembler.next_due()
        if due < self._batch_timer:
            self._batch_timer = due
            self._reactor.call_later(due - now, self._batch_is_due)

    def _batch_is_due(self) -> None:
        self._batch_timer = float("inf")
        if self._assembler is not None:
            now = self._clock()
            self._begin([Work(batch) for batch in self._assembler.due(now)])
            self._watch_batch(now)

    # Working; on workers, on the loop, or on the owner when inline

    def _begin(self, works: list[Work]) -> None:
        """Let works begin, where they belong."""
        if not works:
            return
        if self._on_loop and self._any_async:
            # On a loop the coroutines start right here; only blocking handlers go to the pool.
            for work in works:
                self._work_off(work)
            return
        try:
            self._executor.submit([functools.partial(self._work_off, work) for work in works])
        except Closed:
            # The pool is draining, and this is what its last work has let go.
            for work in works:
                self._work_off(work)

    def _work_off(self, work: Work) -> None:
        """Do a work, and then what waited for it in the lane of its key."""
        todo = [work]
        while todo:
            self._serve(todo.pop(), todo)

    def _serve(self, work: Work, todo: list[Work]) -> None:
        work.items = [item for item in work.items if self._start(item, todo)]
        if work.items:
            self._works[work] = True
            self._handling.prepare(work)
            if self._on_loop and self._any_async and not self._inline and self._blocks(work):
                self._resume(work)
            else:
                self._advance(work, todo)

    def _start(self, item: InHand, todo: list[Work]) -> bool:
        """Whether the handlers shall get it now."""
        if not self._waiting.pop(item, False):
            return False
        if item.delivery.stale and not self._peer_settles:
            self._end(item, "stale", todo)
            return False
        if item.letter is None and self._redelivery.fatal(item.delivery.attempt):
            item.letter = Letter(f"handed out {item.delivery.attempt} times without ever being settled", None)
        if item.letter is not None:
            self._bury(item, item.letter, todo)
            return False
        return True

    def _blocks(self, work: Work) -> bool:
        step = work.next_step()
        return step is not None and not step.handler.is_async

    def _advance(self, work: Work, todo: list[Work]) -> None:
        if self._handling.run(work):
            self._finish(work, todo)
            return
        tasks = self._tasks
        if tasks is None:
            raise TypeError(f"{self._name()} has no loop for its coroutines")
        work.job = tasks.job(lambda: self._await(work))
        (tasks.start_here if self._on_loop and self._reactor.is_owner() else tasks.start)(work.job)

    async def _await(self, work: Work) -> None:
        if not await self._handling.run_coroutines(work):
            self._resume(work)
            return
        todo: list[Work] = []
        self._finish(work, todo)
        self._begin(todo)

    def _resume(self, work: Work) -> None:
        """Go on where plain functions may block."""

        def go_on() -> None:
            todo: list[Work] = []
            self._advance(work, todo)
            self._begin(todo)

        try:
            self._executor.submit([go_on])
        except Closed:
            go_on()

    # Endings; on any thread

    def _finish(self, work: Work, todo: list[Work] | None) -> None:
        self._works.pop(work, None)
        for item in work.items:
            if item.failure is not None:
                self._failed(item, item.failure, todo)
                continue
            self._accept(item)
            self._end(item, "handled" if item.wanted else "ignored", todo)

    def _end(self, item: InHand, outcome: str, todo: list[Work] | None) -> None:
        """Count an outcome and let the next of its key go: into `todo`, or at once."""
        if self._in_hand.pop(item, False):
            self._count[outcome]()
        following = self._lanes.leave(item) if self._assembler is None else None
        if following is None:
            return
        if todo is None:
            self._begin([Work([following])])
        else:
            todo.append(Work([following]))

    def _accept(self, item: InHand) -> None:
        if not self._peer_settles:
            try:
                self._reactor.accept(item.delivery)
            except Closed:
                _log.debug(
                    "%s: the transport was closed before a settlement; the notification comes again", self._name()
                )

    def _settle(self, item: InHand, outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        if not self._peer_settles:
            try:
                self._reactor.settle([item.delivery], outcome, delay, reason)
            except Closed:
                _log.debug(
                    "%s: the transport was closed before a settlement; the notification comes again", self._name()
                )

    def _requeue(self, item: InHand, delay: float, todo: list[Work] | None) -> None:
        self._settle(item, Outcome.REQUEUE, delay)
        self._end(item, "requeued", todo)

    def _failed(self, item: InHand, failure: BaseException, todo: list[Work] | None) -> None:
        if isinstance(failure, DecodeError):
            self._count["undecodable"]()
            _log.warning("%s: a notification is refused: %s", self._name(), failure)
        verdict = self._redelivery.judge(failure, item.attempt)
        requeue = self._reactor.capabilities.requeue
        if not verdict.again:
            self._bury(item, Letter(verdict.reason, failure), todo)
        elif not self._peer_settles and (
            requeue == "later" or (requeue != "none" and (self._drains() or len(self._held) >= self._slots))
        ):
            self._requeue(item, verdict.delay, todo)
        else:
            item.attempt += 1
            self._hold(item, verdict.delay)

    # Repeating from memory, and burying

    def _drains(self) -> bool:
        return self._state in (ServiceState.DRAINING, ServiceState.STOPPED)

    def _hold(self, item: InHand, delay: float) -> None:
        """Keep it until its next attempt, or that of its burial; its key keeps waiting."""
        self._held[item] = True
        try:
            self._reactor.call_later(delay, functools.partial(self._repeat, item))
            closed = False
        except Closed:
            closed = True
        # First into the table, then the look at the state; the drain does it the other way round.
        if (closed or self._drains()) and self._held.pop(item, False):
            self._give_up(item)

    def _repeat(self, item: InHand) -> None:
        if self._held.pop(item, False):
            self._count["repeated"]()
            item.failure = None
            self._waiting[item] = True
            self._begin([Work([item])])

    def _give_up(self, item: InHand) -> None:
        """There will be no other attempt."""
        if not self._peer_settles:
            self._requeue(item, 0.0, None)
        elif item.letter is None:
            self._bury(item, Letter(_STOPPED, item.failure), None)
        else:
            self._dispose(item, item.letter.reason, None)

    def _bury(self, item: InHand, letter: Letter, todo: list[Work] | None) -> None:
        item.letter = letter
        event = item.event
        if event is None:
            try:
                event = item.event = decoded(item.delivery, item.attempt)
            except DecodeError:
                # There is no event to give to anybody.
                self._dispose(item, letter.reason, todo)
                return
        burial = self._burial
        if burial is None:
            self._dispose(item, letter.reason, todo)
        elif burial.is_async and self._tasks is not None:
            self._tasks.start(
                self._tasks.job(
                    lambda: burial.bury(event, item.delivery, letter, functools.partial(self._buried, item))
                )
            )
        else:
            burial.bury(event, item.delivery, letter, functools.partial(self._buried, item))

    def _buried(self, item: InHand, failure: Exception | None) -> None:
        if failure is None:
            self._accept(item)
            self._end(item, "dead_lettered", None)
            return
        item.burials += 1
        _log.error("%s: a dead letter could not be handed to dead_letter=: %s", self._name(), failure)
        self._hold(item, self._redelivery.delay(item.burials))

    def _dispose(self, item: InHand, reason: str, todo: list[Work] | None) -> None:
        """Where there is no `dead_letter=`: the transport's own dead letters, or none."""
        kept = not self._peer_settles and self._reactor.capabilities.reject == "dead_letter"
        if not kept:
            _log.error(
                "%s: notification %s is dropped, because nothing keeps dead letters here (see dead_letter=): %s",
                self._name(),
                item.delivery.headers.get("message-id"),
                reason,
            )
        redelivers = self._reactor.capabilities.reject == "redeliver"
        self._settle(item, Outcome.ACCEPT if redelivers else Outcome.REJECT, 0.0, reason)
        self._end(item, "dead_lettered" if kept else "dropped", todo)


def _sources(targets: Any, pool: str) -> list[Source]:
    if not isinstance(targets, Sequence) or not targets:
        raise ConfigError(
            'targets must be a list of at least one Target, for example [Target(topic="notifications")], '
            f"not {targets!r}"
        )
    Target(topic=pool)
    sources = []
    for target in targets:
        if not isinstance(target, Target) or not target.topic:
            raise InvalidTarget(f"a listener's target needs a topic, not {target!r}")
        sources.append(Source(SourceKind.POOLS, target.exchange or DEFAULT_EXCHANGE, target.topic, pool=pool))
    return list(dict.fromkeys(sources))
