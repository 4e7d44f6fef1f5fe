"""What pipelines of both faces share: the way that each notification takes, its place in the pipeline, and what has
become of all. Nothing here waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import itemgetter

from messaging.errors import Cancelled, PipelineFailed, StateError
from messaging.lifecycle import check_count
from messaging.notify.base_notifier import BaseNotifier, Sent
from messaging.notify.burst import Burst
from messaging.notify.session import Sending

__all__ = ["LIMIT", "RAISED", "BasePipeline", "Everything"]

LIMIT = 8_000
"""How many notifications of one pipeline may be under way, unless it says otherwise. A broker that confirms after 10 ms
is kept busy by an eighth of them; with more, brokers and client libraries get larger batches: for Kafka 5 % more went
through than with 2,000 or 4,000, and with 20,000 hardly more than with these.
"""
RAISED = "the pipeline's block raised"
_STEP = 500
"""After how many it is looked at what has ended."""


class Everything:
    """What a pipeline has sent on the long way, each with its place in the pipeline; what has gone well is forgotten as
    soon as what was sent before has ended.

    Outcomes come nearly in the order of sending, so it keeps little more than what is under way; keeping everything
    cost more in the garbage collector than sending it.
    """

    __slots__ = ("_kept", "_look_in", "_most", "_notifier", "_others")

    def __init__(self, notifier: BaseNotifier, most: int) -> None:
        self._notifier = notifier
        self._most = most
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
        if len(kept) >= self._most:
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


class BasePipeline:
    """A pipeline without a way of waiting."""

    def __init__(self, notifier: BaseNotifier, limit: int) -> None:
        check_count("limit", limit)
        self._notifier = notifier
        self._limit = limit
        """How many may be under way on each of the two ways."""
        self._count = 0
        """How many were sent; the place of the next one."""
        self._sent = Everything(notifier, 2 * limit + _STEP)
        """What has taken the long way."""
        self._bursts: list[Burst] = []
        """What has taken the short way: one, and in a forked child one more."""
        self._burst: Burst | None = None
        """That of the process in which the transport had `_epoch`; None: there is no short way for this notifier."""
        self._epoch = -1

    def _renewed(self) -> Burst | None:
        """Return what takes the short way in this process."""
        way = self._notifier._short_way()
        self._epoch = self._notifier.transport.epoch
        self._burst = None
        if way is not None:
            self._burst = Burst.over(way)
            self._bursts.append(self._burst)
        return self._burst

    def _full(self) -> StateError:
        """Build the error for when notifications have all passed their deadline, and have not ended."""
        return StateError(f"{self._limit} notifications of this pipeline wait for their outcome, and none came in time")

    def _failure(self) -> PipelineFailed | None:
        """Return the failures of all together, each with its `.index`, or None; what has no outcome by now has
        expired.
        """
        notifier = self._notifier
        failures: list[Exception] = []
        troubled = [each for burst in self._bursts for each in burst.troubled().items()]
        for place, sent in sorted([*troubled, *self._sent.all()], key=itemgetter(0)):
            error = notifier._failure(sent)
            if error is not None:
                error.index = place  # type: ignore[attr-defined]
                failures.append(error)
        return PipelineFailed(f"{len(failures)} of {self._count} notifications failed", failures) if failures else None

    def _cancel(self, why: str) -> None:
        """End what has no outcome yet."""
        self._sent.give_up(lambda sending: Cancelled(why))
        for burst in self._bursts:
            burst.give_up(why)
