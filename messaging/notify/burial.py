"""Dead letters where the transport keeps none: the listener's own `dead_letter=`, a function or a notifier.

A letter counts as buried when the function has returned, or when the notifier's message is taken. What cannot be buried
is tried again by the listener, which keeps it meanwhile. It knows nothing of settling.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from messaging.errors import ConfigError
from messaging.message import DEAD_ATTEMPT, DEAD_REASON, Delivery
from messaging.notify.base_notifier import OWN_HEADERS, BaseNotifier, Countdown, Sent
from messaging.notify.event import Event
from messaging.notify.handling import Decode, decoded
from messaging.notify.work import Letter

__all__ = ["Burial", "DeadLetterSink", "burial_for"]

DeadLetterSink = Callable[[Event[Any], str, BaseException | None], Any] | BaseNotifier
"""A function of (event, reason, error), which may be a coroutine function, or a notifier, which sends the event on to
its own topics with the headers `dead-reason` and `dead-attempt`.
"""
Done = Callable[[Exception | None], None]


class Burial:
    """One way to bury; `is_async` says whether `bury` has to be awaited."""

    is_async = False

    def bury(self, event: Event[Any], delivery: Delivery, letter: Letter, done: Done) -> Any:
        """Bury an event and call `done` with None or with what went wrong, once, on any thread."""
        raise TypeError("a way to bury says how")


class _ByFunction(Burial):
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def bury(self, event: Event[Any], delivery: Delivery, letter: Letter, done: Done) -> None:
        try:
            self._function(event, *letter)
        except Exception as failure:  # a function of the user's
            done(failure)
        else:
            done(None)


class _ByCoroutine(Burial):
    is_async = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    async def bury(self, event: Event[Any], delivery: Delivery, letter: Letter, done: Done) -> None:
        try:
            await self._function(event, *letter)
        except Exception as failure:  # a function of the user's
            done(failure)
        else:
            done(None)


class _ByNotifier(Burial):
    def __init__(self, notifier: BaseNotifier, decode: Decode) -> None:
        self._notifier = notifier
        self._decode = decode

    def bury(self, event: Event[Any], delivery: Delivery, letter: Letter, done: Done) -> None:
        # As it came: the listener's serializer has made other values of it, which the notifier might not be able to
        # write.
        plain = decoded(self._decode, delivery, event.attempt)
        own = {DEAD_REASON: letter.reason, DEAD_ATTEMPT: event.attempt}
        plain.headers = {name: value for name, value in plain.headers.items() if name not in OWN_HEADERS} | own
        outcome: list[Sent] = []
        # The news may overtake the return of _start; whichever comes second tells. The outcome is taken out: what wakes
        # a sending must not lead back to it, or every letter stays.
        steps = Countdown(2, lambda: done(self._notifier._failure(outcome.pop())))
        try:
            outcome.append(self._notifier._start(plain, None, steps))
        except Exception as failure:  # a sink of the notifier's may be the user's
            done(failure)
        else:
            steps()


def burial_for(sink: DeadLetterSink | None, decode: Decode) -> Burial | None:
    """Return how to bury in what a user gave as `dead_letter=`; `decode` reads what came. Raises ConfigError."""
    if sink is None:
        return None
    if isinstance(sink, BaseNotifier):
        return _ByNotifier(sink, decode)
    if not callable(sink):
        raise ConfigError(f"dead_letter must be a function of (event, reason, error) or a notifier, not {sink!r}")
    return _ByCoroutine(sink) if inspect.iscoroutinefunction(sink) else _ByFunction(sink)
