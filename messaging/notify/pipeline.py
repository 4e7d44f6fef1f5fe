"""Notifications that their sender does not wait for one by one: Futures, and pipelines of many.

Both leave the watching of deadlines to the connection's owner. `around=` wraps the sending here, since nobody waits
inside of it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from operator import itemgetter
from types import TracebackType
from typing import Any, Self

from messaging.around import enter
from messaging.errors import Cancelled, Forked, PipelineFailed, StateError
from messaging.in_flight import InFlight
from messaging.notify.base_notifier import BaseNotifier, Sent
from messaging.notify.burst import Burst
from messaging.notify.event import Event
from messaging.notify.session import Sending
from messaging.notify.verbs import Verbs

__all__ = ["LIMIT", "Everything", "Pipeline", "submit"]

LIMIT = 10_000
"""How many notifications of one pipeline may be under way."""
_STEP = 500
"""After how many it is looked at what has ended."""
_LATE = 0.05
"""Seconds by which whoever ends what is overdue may be late."""
_RAISED = "the pipeline's block raised"


def begin(notifier: BaseNotifier, event: Event[Any], key: str | None, wake: Callable[[], object]) -> Sent:
    """Send one notification whose deadline the owner watches."""
    if not notifier._around:
        return notifier._start(event, key, wake)
    with ExitStack() as stack:
        enter(stack, notifier._around, event)
        return notifier._start(event, key, wake)


def submit(
    notifier: BaseNotifier,
    level: str,
    ctxt: Mapping[str, Any] | None,
    event_type: str,
    payload: Any,
    key: str | None,
    headers: Mapping[str, Any] | None,
) -> concurrent.futures.Future[None]:
    """Start to send and return a Future of the outcome."""
    event = notifier._event(level, ctxt, event_type, payload, headers)
    future = _SentFuture(notifier)
    future.sent = begin(notifier, event, key, future.arrived)
    future.arrived()
    return future


class _SentFuture(concurrent.futures.Future[None]):
    """A Future of a notification; `cancel()` gives it up."""

    sent: Sent | None = None

    def __init__(self, notifier: BaseNotifier) -> None:
        super().__init__()
        self._notifier = notifier
        self._step = itertools.count(1).__next__

    def arrived(self) -> None:
        """The outcome is there, or `sent` is set: whichever comes second delivers. Any thread."""
        sent = self.sent
        if self._step() < 2 or sent is None:
            return
        if any(type(sending.error) is Forked for sending in sent.sendings):
            # A thread of the parent may hold the lock of this Future, and in the child nobody would release it.
            self._condition = threading.Condition()
        failure = self._notifier._failure(sent)
        try:
            if failure is None:
                self.set_result(None)
            else:
                self.set_exception(failure)
        except concurrent.futures.InvalidStateError:
            # It was cancelled at the same moment.
            pass

    def cancel(self) -> bool:
        """Give the notification up, unless it has its outcome."""
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        if self.sent is not None:
            self._notifier._abandon(self.sent, lambda sending: Cancelled("the caller cancelled"))
        return True


class Everything:
    """What a pipeline has sent on the long way, each with its place in the pipeline; what has gone well is forgotten as
    soon as what was sent before has ended.

    Outcomes come nearly in the order of sending, so it keeps little more than what is under way; keeping everything
    cost more in the garbage collector than sending it.
    """

    __slots__ = ("_kept", "_look_in", "_notifier", "_others")

    def __init__(self, notifier: BaseNotifier) -> None:
        self._notifier = notifier
        self._look_in = _STEP
        self._kept: deque[tuple[int, Sent]] = deque()
        """The last of all that was sent."""
        self._others: list[tuple[int, Sent]] = []
        """Of what was sent before: what has failed, and what was overtaken by very many."""

    def add(self, place: int, sent: Sent) -> None:
        """Keep one."""
        self._kept.append((place, sent))
        self._look_in -= 1
        if not self._look_in:
            self._forget()

    def _forget(self) -> None:
        self._look_in = _STEP
        kept = self._kept
        while kept:
            place, first = kept[0]
            if not first.taken:
                if not first.ended:
                    break
                self._others.append((place, first))
            kept.popleft()
        if len(kept) > 2 * LIMIT - _STEP:
            self._others = [(place, each) for place, each in self.all() if not each.taken]
            kept.clear()

    def all(self) -> list[tuple[int, Sent]]:
        """Everything that may be under way or have failed."""
        return [*self._others, *self._kept]

    def remaining(self) -> float:
        """Seconds until the last deadline of all."""
        sendings = [sending for _, sent in self.all() for sending in sent.sendings]
        return max((sending.deadline - sending.session.clock() for sending in sendings), default=0.0)

    def give_up(self, error: Callable[[Sending], BaseException]) -> None:
        """End what has no outcome yet."""
        for _, sent in self.all():
            self._notifier._abandon(sent, error)


def failure(notifier: BaseNotifier, count: int, sent: Iterable[tuple[int, Sent]]) -> PipelineFailed | None:
    """Return the failures of what a pipeline has sent, each with its `.index`, or None; when all have ended."""
    failures: list[Exception] = []
    for place, each in sorted(sent, key=itemgetter(0)):
        error = notifier._failure(each)
        if error is not None:
            error.index = place  # type: ignore[attr-defined]
            failures.append(error)
    return PipelineFailed(f"{len(failures)} of {count} notifications failed", failures) if failures else None


class Pipeline(Verbs[None]):
    """Many notifications at once; made by `Notifier.pipeline()`. Use it from one thread, in a `with` block.

    Its verbs are those of the notifier and return at once, as long as fewer than `LIMIT` are under way.
    """

    def __init__(self, notifier: BaseNotifier) -> None:
        self._notifier = notifier
        self._count = 0
        self._sent = Everything(notifier)
        """What has taken the long way."""
        self._under_way = InFlight(LIMIT)
        self._burst: Burst | None = None
        """What takes the short way."""
        self._bursts: list[Burst] = []
        """What has taken it: one, and in a forked child one more."""
        self._epoch = -1

    def notify(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Start to send a notification of a level given by name."""
        burst = self._burst
        if headers is None and (
            burst is None or self._epoch != self._notifier.transport.epoch or len(burst.under_way) >= LIMIT
        ):
            burst = self._find_burst()
        if burst is None or headers is not None:
            self._start(level, ctxt, event_type, payload, key, headers)
        elif burst.start(self._count, level, ctxt, event_type, payload, key):
            self._count += 1
        else:
            self._start(level, ctxt, event_type, payload, key, None)

    def _find_burst(self) -> Burst | None:
        """What takes the short way now, with room in it; None: there is none for this notifier."""
        notifier = self._notifier
        way = notifier._short_way()
        self._epoch = notifier.transport.epoch
        if way is None:
            return None
        burst = self._burst
        if burst is None or burst.way is not way:
            burst = self._burst = Burst.over(way)
            self._bursts.append(burst)
        # Who has to wait, waits for half of the room: woken for the next end, it would take the interpreter from the
        # thread that brings them, again and again.
        if len(burst.under_way) >= LIMIT and not burst.wait(LIMIT // 2, burst.timeout):
            raise _full()
        return burst

    def _start(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        key: str | None,
        headers: Mapping[str, Any] | None,
    ) -> None:
        """Start to send on the long way."""
        notifier = self._notifier
        if not self._under_way.begin(notifier._timeout):
            raise _full()
        try:
            event = notifier._event(level, ctxt, event_type, payload, headers)
            self._sent.add(self._count, begin(notifier, event, key, self._under_way.ended))
        except BaseException:
            self._under_way.ended()
            raise
        self._count += 1

    def wait(self) -> None:
        """Wait for every outcome; each has its own deadline, so this ends. Raises PipelineFailed."""
        if not self._count:
            return
        transport = self._notifier.transport
        if self._notifier._uses_transport and transport.is_owner():
            raise StateError("a pipeline on the thread that does this transport's I/O would wait for itself")
        # The owner ends what is overdue; this bound is for its being late.
        until = (
            time.monotonic() + max(0.0, self._sent.remaining(), *(burst.remaining() for burst in self._bursts)) + _LATE
        )
        if not self._under_way.wait(until - time.monotonic()):
            self._sent.give_up(lambda sending: sending.expired())
        for burst in self._bursts:
            burst.wait(0, until - time.monotonic())
        troubled = [each for burst in self._bursts for each in burst.troubled().items()]
        error = failure(self._notifier, self._count, [*troubled, *self._sent.all()])
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
            return
        self._sent.give_up(lambda sending: Cancelled(_RAISED))
        for burst in self._bursts:
            burst.give_up(_RAISED)


def _full() -> StateError:
    return StateError(f"{LIMIT} notifications of this pipeline wait for their outcome, and none came in time")
