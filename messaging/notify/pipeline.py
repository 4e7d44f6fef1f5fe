"""Notifications that their sender does not wait for one by one: Futures, and pipelines of many.

Both leave the watching of deadlines to the connection's owner. `around=` wraps the sending here, since nobody waits
inside of it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from messaging.around import enter
from messaging.errors import Cancelled, Forked, PipelineFailed, StateError
from messaging.in_flight import InFlight
from messaging.notify.base_notifier import BaseNotifier, Sent
from messaging.notify.event import Event
from messaging.notify.session import Sending
from messaging.notify.verbs import Verbs

__all__ = ["LIMIT", "Everything", "Pipeline", "submit"]

LIMIT = 10_000
"""How many notifications of one pipeline may be under way."""
_STEP = 500
"""After how many it is looked at what has ended."""


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
    """What a pipeline has sent, in order; what has gone well is forgotten as soon as what was sent before has ended.

    Outcomes come nearly in the order of sending, so it keeps little more than what is under way; keeping everything
    cost more in the garbage collector than sending it.
    """

    __slots__ = ("_count", "_kept", "_look_at", "_notifier", "_others")

    def __init__(self, notifier: BaseNotifier) -> None:
        self._notifier = notifier
        self._count = 0
        self._look_at = _STEP
        self._kept: deque[Sent] = deque()
        """The last of all that was sent."""
        self._others: list[tuple[int, Sent]] = []
        """Of what was sent before: what has failed, and what was overtaken by very many."""

    def add(self, sent: Sent) -> None:
        """Keep one."""
        self._kept.append(sent)
        self._count += 1
        if self._count == self._look_at:
            self._forget()

    def _forget(self) -> None:
        self._look_at = self._count + _STEP
        kept = self._kept
        while kept:
            first = kept[0]
            if not first.taken:
                if not first.ended:
                    break
                self._others.append((self._count - len(kept), first))
            kept.popleft()
        if len(kept) > 2 * LIMIT - _STEP:
            self._others = [(index, each) for index, each in self._all() if not each.taken]
            kept.clear()

    def _all(self) -> list[tuple[int, Sent]]:
        return [*self._others, *enumerate(self._kept, self._count - len(self._kept))]

    def sendings(self) -> list[Sending]:
        """Everything that may be under way."""
        return [sending for _, sent in self._all() for sending in sent.sendings]

    def give_up(self, error: Callable[[Sending], BaseException]) -> None:
        """End what has no outcome yet."""
        for _, sent in self._all():
            self._notifier._abandon(sent, error)

    def failure(self) -> PipelineFailed | None:
        """Return the failures of all together, each with its `.index`, or None; when all have ended."""
        failures: list[Exception] = []
        for index, sent in self._all():
            error = self._notifier._failure(sent)
            if error is not None:
                error.index = index  # type: ignore[attr-defined]
                failures.append(error)
        if not failures:
            return None
        return PipelineFailed(f"{len(failures)} of {self._count} notifications failed", failures)


class Pipeline(Verbs[None]):
    """Many notifications at once; made by `Notifier.pipeline()`. Use it from one thread, in a `with` block.

    Its verbs are those of the notifier and return at once, as long as fewer than `LIMIT` are under way.
    """

    def __init__(self, notifier: BaseNotifier) -> None:
        self._notifier = notifier
        self._sent = Everything(notifier)
        self._under_way = InFlight(LIMIT)
        self._ended = self._under_way.ended

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
        notifier = self._notifier
        if not self._under_way.begin(notifier._timeout):
            raise StateError(f"{LIMIT} notifications of this pipeline wait for their outcome, and none came in time")
        try:
            direct = notifier._direct() if headers is None else None
            sent: Sent | None = None
            if direct is not None:
                sent = direct.start(level, ctxt, event_type, payload, key, self._ended)
            if sent is None:
                sent = begin(notifier, notifier._event(level, ctxt, event_type, payload, headers), key, self._ended)
            self._sent.add(sent)
        except BaseException:
            self._ended()
            raise

    def wait(self) -> None:
        """Wait for every outcome; each has its own deadline, so this ends. Raises PipelineFailed."""
        self._await_all()
        failure = self._sent.failure()
        if failure is not None:
            raise failure

    def _await_all(self) -> None:
        sendings = self._sent.sendings()
        if not sendings:
            return
        reactor = sendings[0].session.operations.reactor
        if self._notifier.transport.is_owner():
            raise StateError("a pipeline on the thread that does this transport's I/O would wait for itself")
        latest = max(sending.deadline for sending in sendings)
        # The owner ends what is overdue; this bound is for its being late.
        if not self._under_way.wait(max(0.0, latest - reactor.clock()) + 0.05):
            self._sent.give_up(lambda sending: sending.expired())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:
            self._sent.give_up(lambda sending: Cancelled("the pipeline's block raised"))
