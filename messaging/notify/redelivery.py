"""What becomes of a notification whose handler failed: once more, and when, or never. Pure arithmetic; nothing is
settled or kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from messaging.errors import ConfigError, DecodeError
from messaging.notify.event import Reject, Retry

__all__ = ["Redelivery", "Verdict"]

_REASON_LENGTH = 1_000
"""Characters of a reason; it becomes a header, and brokers limit those."""
_FATAL_FACTOR = 4


class Verdict(NamedTuple):
    """`again` after `delay` seconds; or else to the dead letters with `reason`."""

    again: bool
    delay: float
    reason: str


class Redelivery:
    """How often and how soon a failed notification is delivered again. Immutable, thread-safe.

    `max_attempts`: how many deliveries altogether, the first included; None: without limit. `backoff`: seconds before
    the second attempt, doubled for each further one up to `max_backoff`, each shortened by up to half at random, so
    that what failed together does not come back together. Raises ConfigError.
    """

    __slots__ = ("_backoff", "_max_backoff", "_random", "max_attempts")

    def __init__(
        self, max_attempts: int | None, backoff: float, max_backoff: float, random: Callable[[], float]
    ) -> None:
        if max_attempts is not None and (type(max_attempts) is not int or max_attempts < 1):
            raise ConfigError(
                f"max_attempts must be a whole number of at least 1, or None for no limit, not {max_attempts!r}"
            )
        for name, value in (("backoff", backoff), ("max_backoff", max_backoff)):
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must be a finite number of seconds from 0, not {value!r}")
        self.max_attempts = max_attempts
        self._backoff = backoff
        self._max_backoff = max(backoff, max_backoff)
        self._random = random

    def judge(self, failure: BaseException, attempt: int) -> Verdict:
        """Decide on a failure at the attempt of this number, counted from 1."""
        if isinstance(failure, Reject | DecodeError):
            # What does not fit a handler's types will not fit them next time.
            return Verdict(False, 0.0, _told(failure))
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return Verdict(False, 0.0, _told(failure))
        after = failure.after if isinstance(failure, Retry) else None
        return Verdict(True, self.delay(attempt) if after is None else after, _told(failure))

    def delay(self, attempt: int) -> float:
        """Seconds between this attempt and the next."""
        bound = min(self._backoff * 2.0 ** min(attempt - 1, 60), self._max_backoff)
        return bound * (0.5 + 0.5 * self._random())

    def fatal(self, attempt: int) -> bool:
        """Whether a notification has been handed out so often, without ever being settled, that it must be what kills
        its handlers.
        """
        return self.max_attempts is not None and attempt > _FATAL_FACTOR * self.max_attempts


def _told(failure: BaseException) -> str:
    text = str(failure) if isinstance(failure, Reject | Retry) else f"{type(failure).__name__}: {failure}"
    return text[:_REASON_LENGTH]
