"""Notifications that their sender does not wait for one by one: Futures, and pipelines of many.

Both leave the watching of deadlines to the connection's owner. `around=` wraps the sending here, since nobody waits
inside of it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from messaging.around import enter
from messaging.errors import Cancelled, Forked, StateError
from messaging.in_flight import OVERDUE, InFlight
from messaging.notify.base_notifier import BaseNotifier, Sent
from messaging.notify.base_pipeline import LIMIT, RAISED, BasePipeline
from messaging.notify.burst import Burst
from messaging.notify.event import Event
from messaging.notify.verbs import Verbs

__all__ = ["Pipeline", "submit"]

_COLLECT_EVERY = 256
"""Notifications after which the outcomes of earlier ones are fetched, where this thread may do that. For Kafka 12 to
20 % more go through than where the owner fetches them meanwhile, since the two take the interpreter from each other.
Looking after each 128 costs another 0.1 us for each; who looks more seldom, on a slow machine, leaves too much to the
owner.
"""
_LATE = 0.05
"""Seconds by which whoever ends what is overdue may be late."""


def _begin(notifier: BaseNotifier, event: Event[Any], key: str | None, wake: Callable[[], object]) -> Sent:
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
    future.sent = _begin(notifier, event, key, future.arrived)
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


class Pipeline(BasePipeline, Verbs[None]):
    """Many notifications at once; made by `Notifier.pipeline()`. Use it from one thread, in a `with` block.

    Its verbs are those of the notifier and return at once, as long as fewer than `limit` are under way.
    """

    def __init__(self, notifier: BaseNotifier, limit: int = LIMIT) -> None:
        super().__init__(notifier, limit)
        self._under_way = InFlight(limit)
        """Those on the long way."""
        self._bell = threading.Event()
        """Rung when few enough are on the short one."""

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
        burst = self._burst if self._epoch == self._notifier.transport.epoch else self._renewed()
        if burst is not None and headers is None:
            # Who has to wait, waits for half of the room: woken for the next end, it would take the interpreter from
            # the thread that brings them, again and again.
            limit = self._limit
            # `number`, written out: this runs once per notification.
            if len(burst.under_way) + len(burst.aside) >= limit and not self._wait_for(
                burst, limit // 2, burst.timeout + OVERDUE
            ):
                raise self._full()
            if burst.start(self._count, level, ctxt, event_type, payload, key):
                self._count += 1
                if not self._count % _COLLECT_EVERY:
                    burst.collect(0.0)
                return
        notifier = self._notifier
        if not self._under_way.begin(notifier._timeout + OVERDUE):
            raise self._full()
        try:
            event = notifier._event(level, ctxt, event_type, payload, headers)
            self._sent.add(self._count, _begin(notifier, event, key, self._under_way.ended))
        except BaseException:
            self._under_way.ended()
            raise
        self._count += 1

    def wait(self) -> None:
        """Wait for every outcome; each has its own deadline, so this ends. Raises PipelineFailed."""
        if not self._count:
            return
        if self._notifier._uses_transport and self._notifier.transport.is_owner():
            raise StateError("a pipeline on the thread that does this transport's I/O would wait for itself")
        remaining = max(0.0, self._sent.remaining(), *(burst.remaining() for burst in self._bursts))
        # The owner ends what is overdue; this bound is for its being late.
        until = time.monotonic() + remaining + _LATE
        if not self._under_way.wait(until - time.monotonic()):
            self._sent.give_up(lambda sending: sending.expired())
        for burst in self._bursts:
            self._wait_for(burst, 0, until - time.monotonic())
        failure = self._failure()
        if failure is not None:
            raise failure

    def _wait_for(self, burst: Burst, few: int, timeout: float) -> bool:
        """Wait until no more than `few` of a burst are under way; False when `timeout` seconds passed first."""
        until = time.monotonic() + timeout
        burst.wake = self._bell.set
        while True:
            self._bell.clear()
            if burst.is_down_to(few):
                return True
            left = max(0.0, until - time.monotonic())
            if not (left and burst.collect(left)) and not self._bell.wait(left):
                return burst.is_down_to(few)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:
            self._cancel(RAISED)
