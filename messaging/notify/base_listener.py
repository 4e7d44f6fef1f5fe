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
import threading
from collections.abc import Callable, Sequence
from random import random
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from messaging.codec import Serializer
from messaging.drivers.base import Role
from messaging.errors import Closed, ConfigError, InvalidTarget, Unsupported
from messaging.lifecycle import ServiceCore, ServiceState, check_count
from messaging.message import Delivery, Outcome, Source, SourceKind
from messaging.notify.batch import Assembler
from messaging.notify.burial import DeadLetterSink, burial_for
from messaging.notify.dispatcher import Dispatcher
from messaging.notify.endings import COUNTS, Endings, Tables
from messaging.notify.handling import Handling, ListenerAround
from messaging.notify.plain import PlainWork
from messaging.notify.redelivery import Redelivery
from messaging.notify.work import InHand, Lanes, Work
from messaging.target import Target, check_name
from messaging.transport import BaseTransport
from messaging.wire.base import Opener, Wire
from messaging.wire.native import KEY_HEADER, LEVEL_HEADER, POOL_HEADER
from messaging.wire.recent import RecentIds

if TYPE_CHECKING:
    from messaging.coroutines import CoroutineJob, CoroutineRunner, LoopTasks

__all__ = ["DEFAULT_POOL", "BaseListener", "ListenerOptions"]

_log = logging.getLogger(__name__)

DEFAULT_POOL = "default"
_LOG_WINDOW = 2_000
"""How many notifications may be unsettled where a settlement means all before it: a log hands out long runs, and what
was not started costs nothing when it comes again. With the 64 of other transports it waited for us most of the time.
"""


class ListenerOptions(TypedDict, total=False):
    """The keyword parameters of every listener, for those that pass them on."""

    pool: str | None
    executor: Literal["threads", "inline"]
    slots: int
    inbox: int
    inbox_bytes: int
    serializer: Serializer | None
    max_attempts: int | None
    backoff: float
    max_backoff: float
    dead_letter: DeadLetterSink | None
    around: Sequence[ListenerAround]


class BaseListener(ServiceCore):
    """A listener without a way of waiting; see `Listener`. Its public methods are thread-safe."""

    _batching: tuple[int, float] | None = None
    """Size and age of a batch, where handlers get batches."""

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
        inbox_bytes: int = 64 * 1024 * 1024,
        serializer: Serializer | None = None,
        max_attempts: int | None = 5,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        dead_letter: DeadLetterSink | None = None,
        around: Sequence[ListenerAround] = (),
    ) -> None:
        super().__init__(transport, Role.LISTENER, executor=executor, slots=slots)
        check_count("inbox", inbox)
        check_count("inbox_bytes", inbox_bytes)
        self._pool = DEFAULT_POOL if pool is None else pool
        if pool is not None and not transport.capabilities.pools:
            raise Unsupported(f"{transport.url.kind}:// has no pools: every listener of a topic is in the default one")
        self._dispatcher = Dispatcher(endpoints, in_batches=self._batching is not None)
        self._targets = _checked(targets, self._pool)
        self._sources = _sources(self._targets, self._pool, self._dispatcher.levels, transport.wire)
        self._burial = burial_for(dead_letter, transport.wire.decode_notification)
        self._any_async = self._dispatcher.any_async or (self._burial is not None and self._burial.is_async)
        self._serializer = serializer
        self._around = around
        self._inbox = inbox
        self._inbox_bytes = inbox_bytes
        self._policy = (max_attempts, backoff, max_backoff)
        Redelivery(*self._policy, random)
        self._assembler = Assembler[InHand](*self._batching) if self._batching is not None else None
        self._batch_timer = float("inf")
        # Batches run side by side, so keys have no order in them.
        self._lanes = Lanes() if self._batching is None else None
        self._tables = Tables()
        self._done = RecentIds(transport.wire.remembers) if transport.wire.remembers else None
        """Set where senders repeat messages: repetitions of what was handled are passed over."""
        self._endings: Endings
        self._plain: PlainWork
        self._works: dict[Work, bool] = {}
        """Going through their handlers step by step."""

    # Life

    def _name(self) -> str:
        topics = ", ".join(dict.fromkeys(str(target.topic) for target in self._targets))
        return f"listener of {topics} in pool {self._pool}"

    def _open(self, on_started: Callable[[Exception | None], None]) -> None:
        operations = self._begin_start(on_started)
        reactor = operations.reactor
        self._count = {name: operations.counters.tally(f"listener.{name}").add for name in COUNTS}
        self._handling = Handling(
            self._dispatcher,
            self._name(),
            self._serializer,
            self._around,
            self._assembler is not None,
            self._count["failed"],
            operations.wire.decode_notification,
        )
        self._endings = Endings(
            reactor,
            self._name(),
            self._tables,
            self._lanes,
            Redelivery(*self._policy, reactor.random),
            self._burial,
            self._tasks,
            self._count,
            self._begin,
            self._drains,
            self._slots,
            operations.wire.decode_notification,
            self._remember if self._done is not None else None,
        )
        self._peer_settles = self._tables.measured = reactor.capabilities.acceptance == "peer"
        self._plain = PlainWork(
            self._handling,
            self._endings,
            self._tables,
            reactor.accept,
            self._dispatcher.levels,
            operations.counters.tally("listener.received"),
            self._count,
            directly=self._handling.plain and not self._peer_settles and self._done is None,
        )
        least = _LOG_WINDOW if reactor.capabilities.settle == "cumulative" else 0
        window = (
            self._inbox
            if self._peer_settles
            else max(2 * self._slots, self._batching[0] if self._batching is not None else 0, least)
        )
        opener = operations.wire.opener("notifications")
        self._subscribe(
            self._sources, window, self._receive if opener is None else functools.partial(self._receive_closed, opener)
        )

    def _hand_back(self, done: Callable[[], None]) -> None:
        rest = self._assembler.rest() if self._assembler is not None else []
        self._endings.hand_back()
        if rest and self._peer_settles:
            self._begin_works([Work(rest)])
        done()

    def _abandon(self) -> None:
        for item in self._tables.everything():
            item.gave_up = True
        for work in list(self._works):
            work.gave_up = True
            if work.job is not None and self._tasks is not None:
                self._tasks.cancel(work.job)
                if not work.job.started:
                    self._never_begun(work)
        self._endings.forget_all()
        super()._abandon()

    def _never_begun(self, work: Work) -> None:
        """Its coroutine got no slot before the listener stopped."""
        if self._works.pop(work, False):
            for item in work.items:
                self._endings.forget(item)

    def _drains(self) -> bool:
        return self._state in (ServiceState.DRAINING, ServiceState.STOPPED)

    def health(self) -> dict[str, Any]:
        """See ServiceCore; and `in_hand`, how many notifications are, and `held`, how many of them wait for another
        attempt.
        """
        return {**super().health(), "in_hand": self._tables.count(), "held": len(self._tables.held)}

    # Receiving; on the owner

    def _receive_closed(self, opener: Opener, batch: Sequence[Delivery]) -> None:
        readable, unreadable = opener(batch)
        for delivery in unreadable:
            self._count["received"]()
            self._count["undecodable"]()
            self._count["dropped"]()
            _log.warning(
                "%s: a notification of %d bytes is refused: it cannot be read", self._name(), len(delivery.body)
            )
        if unreadable:
            self._reactor.settle(unreadable, Outcome.REJECT, reason="it cannot be read")
        repeated = [delivery for delivery in readable if self._repeats(delivery)]
        if repeated:
            for _ in repeated:
                self._count["received"]()
                self._count["ignored"]()
            self._reactor.settle(repeated, Outcome.ACCEPT)
            readable = [delivery for delivery in readable if not self._repeats(delivery)]
        self._receive(readable)

    def _remember(self, delivery: Delivery) -> None:
        if self._done is not None:
            self._done.add(self.transport.wire.unique_id(delivery.body))

    def _repeats(self, delivery: Delivery) -> bool:
        return self._done is not None and self.transport.wire.unique_id(delivery.body) in self._done

    def _receive(self, batch: Sequence[Delivery]) -> None:
        draining = self._drains()
        others = batch if draining else self._plain.take(batch)
        if len(others) < len(batch):
            self._call_workers(len(batch) - len(others))
        if others:
            self._receive_each(others, draining)

    def _receive_each(self, batch: Sequence[Delivery], draining: bool) -> None:
        taken: list[InHand] = []
        passed: list[Delivery] = []
        refused: list[Delivery] = []
        levels = self._dispatcher.levels
        pool = self._pool
        received = self._count["received"]
        room = self._room() if self._peer_settles else len(batch)
        for delivery in batch:
            received()
            headers = delivery.headers
            level = headers.get(LEVEL_HEADER)
            if draining:
                self._count["requeued"]()
                refused.append(delivery)
            elif (type(level) is str and level not in levels) or headers.get(POOL_HEADER, pool) != pool:
                self._count["ignored"]()
                passed.append(delivery)
            elif len(taken) >= room:
                self._count["requeued"]()
                refused.append(delivery)
            else:
                key = delivery.lane or headers.get(KEY_HEADER)
                taken.append(InHand(delivery, delivery.attempt, key if type(key) is str else None))
        if passed:
            self._reactor.settle(passed, Outcome.ACCEPT)
        if refused:
            self._reactor.settle(refused, Outcome.REQUEUE)
        if taken:
            if self._peer_settles:
                self._reactor.settle([item.delivery for item in taken], Outcome.ACCEPT)
            self._admit(taken)

    def _room(self) -> int:
        """How many more this inbox takes; the last one of a batch may go past the bytes."""
        return 0 if self._tables.bytes() >= self._inbox_bytes else self._inbox - len(self._tables.in_hand)

    def _admit(self, items: list[InHand]) -> None:
        self._tables.add(items)
        if self._assembler is None:
            lanes = self._lanes
            self._begin([item for item in items if item.key is None or lanes is None or lanes.enter(item)])
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
        self._begin_works(alone + [Work(batch) for batch in self._assembler.due(now)])
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
            self._begin_works([Work(batch) for batch in self._assembler.due(now)])
            self._watch_batch(now)

    # Working; on workers, on the loop, or on the owner when inline

    def _begin(self, items: Sequence[InHand]) -> None:
        """Let some begin, each by itself, where they belong."""
        if not self._handling.plain:
            self._begin_works([Work([item]) for item in items])
        elif items:
            self._tables.ready.extend(items)
            self._call_workers(len(items))

    def _call_workers(self, ready: int) -> None:
        """Have as many more handled."""
        try:
            # Each job takes what is ready until nothing is. So one for each would do too, at a price; but as many as
            # there are threads have to come, because a handler may keep one for long.
            self._executor.submit([self._plain.run] * min(ready, self._executor.slots))
        except Closed:
            # The pool is draining, and this is what its last work has let go.
            self._plain.run()

    def _begin_works(self, works: Sequence[Work]) -> None:
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
        todo: list[InHand] = []
        self._serve(work, todo)
        while todo:
            self._serve(Work([todo.pop()]), todo)

    def _serve(self, work: Work, todo: list[InHand]) -> None:
        work.items = [item for item in work.items if self._endings.runnable(item, todo)]
        if work.items:
            self._works[work] = True
            self._handling.prepare(work)
            if self._on_loop and self._any_async and not self._inline and self._blocks(work):
                self._resume(work)
            else:
                self._advance(work, todo)

    def _blocks(self, work: Work) -> bool:
        step = work.next_step()
        return step is not None and not step.handler.is_async

    def _advance(self, work: Work, todo: list[InHand]) -> None:
        if self._handling.run(work):
            self._finish(work, todo)
            return
        tasks = self._tasks
        if tasks is None:
            raise TypeError(f"{self._name()} has no loop for its coroutines")
        job = work.job = tasks.job(lambda: self._await(work, job, tasks))
        (tasks.start_here if threading.get_ident() == self._loop_thread else tasks.start)(job)

    async def _await(self, work: Work, job: CoroutineJob, tasks: LoopTasks | CoroutineRunner) -> None:
        try:
            if not job.begun():
                self._never_begun(work)
            elif await self._handling.run_coroutines(work):
                todo: list[InHand] = []
                self._finish(work, todo)
                self._begin(todo)
            else:
                self._resume(work)
        finally:
            tasks.ended(job)

    def _resume(self, work: Work) -> None:
        """Go on where plain functions may block."""

        def go_on() -> None:
            todo: list[InHand] = []
            self._advance(work, todo)
            self._begin(todo)

        try:
            self._executor.submit([go_on])
        except Closed:
            go_on()

    def _finish(self, work: Work, todo: list[InHand]) -> None:
        self._works.pop(work, None)
        for item in work.items:
            self._endings.finish(item, todo)


def _checked(targets: Any, pool: str) -> Sequence[Target]:
    if not isinstance(targets, Sequence) or not targets:
        raise ConfigError(
            'targets must be a list of at least one Target, for example [Target(topic="notifications")], '
            f"not {targets!r}"
        )
    check_name("pool", pool)
    for target in targets:
        if not isinstance(target, Target) or not target.topic:
            raise InvalidTarget(f"a listener's target needs a topic, not {target!r}")
    return targets


def _sources(targets: Sequence[Target], pool: str, levels: frozenset[str], wire: Wire) -> list[Source]:
    sources = [
        Source(SourceKind.POOLS, target.exchange or wire.exchange, topic, pool=pool)
        for target in targets
        for topic in wire.topics(target.topic or "", levels)
    ]
    return list(dict.fromkeys(sources))
