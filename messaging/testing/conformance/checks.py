"""How scenarios say what must be so: plain functions that raise `Failure`, and waits that end.

No test framework is behind this, so the suite runs from any of them, and from none. A scenario waits for what it
expects, with a bound; it never sleeps for a time in which something has probably happened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

__all__ = [
    "PATIENCE",
    "TOLERANCE",
    "Caught",
    "Failure",
    "Log",
    "check",
    "equal",
    "eventually",
    "once_each",
    "punctual",
    "raises",
]

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which something that should have happened counts as missing. No scenario that passes waits that
long."""
TOLERANCE = 0.1
"""Seconds by which an operation may end after its deadline."""


class Failure(AssertionError):
    """A promise was broken; the text says which, and what was seen instead."""


def check(condition: object, message: str) -> None:
    """Raise Failure unless the condition holds."""
    if not condition:
        raise Failure(message)


def equal(got: Any, wanted: Any, what: str) -> None:
    """Raise Failure unless two values are equal; `what` names the first."""
    if got != wanted:
        raise Failure(f"{what}: {_short(got)} instead of {_short(wanted)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:280]}... ({len(text)} characters)"


class Caught:
    """The exception that a block of `raises` ended with."""

    error: Any = None


@contextmanager
def raises(*kinds: type[BaseException], what: str = "") -> Iterator[Caught]:
    """Expect the block to raise one of these exceptions; it is in `.error` afterwards. Raises Failure otherwise."""
    caught = Caught()
    wanted = " or ".join(kind.__name__ for kind in kinds)
    about = f"{what}: " if what else ""
    try:
        yield caught
    except kinds as error:
        caught.error = error
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"{about}{type(error).__name__} instead of {wanted}: {error}") from error
    else:
        raise Failure(f"{about}nothing was raised instead of {wanted}")


def eventually(predicate: Callable[[], T], what: str | Callable[[], str], seconds: float = PATIENCE) -> T:
    """Wait until a predicate is true, and return what it returned; `what` says, at the end, what did not come.

    For facts that nobody tells, such as counters. Where somebody does, wait for him: `Log.wait`, a future, an event.
    """
    pause = threading.Event()
    until = time.monotonic() + seconds
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() >= until:
            told = what if isinstance(what, str) else what()
            raise Failure(f"within {seconds:g} s it did not come about: {told}")
        pause.wait(0.005)


class Log(Generic[T]):
    """What handlers have seen, in order; any number of threads may add and wait."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._changed = threading.Condition()

    def add(self, item: T) -> None:
        """Append an item and tell those who wait."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    @property
    def items(self) -> list[T]:
        """A copy of everything so far."""
        with self._changed:
            return list(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def wait(self, count: int, what: str, seconds: float = PATIENCE) -> list[T]:
        """Wait until there are `count` items, and return them all."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._items) >= count, seconds):
                raise Failure(
                    f"{what}: {len(self._items)} instead of {count} within {seconds:g} s: {_short(self._items)}"
                )
            return list(self._items)


@contextmanager
def punctual(deadline: float, what: str, tolerance: float = TOLERANCE) -> Iterator[None]:
    """Expect the block to end no later than `deadline` seconds and the tolerance after its start.

    A witness waits for the same time with nothing but an event. What it oversleeps is the machine's doing and is
    allowed to the block too: a loaded machine must not look like a late library.
    """
    overslept: Future[float] = Future()
    started = time.monotonic()

    def witness() -> None:
        threading.Event().wait(deadline)
        overslept.set_result(time.monotonic() - started - deadline)

    threading.Thread(target=witness, name="conformance-witness", daemon=True).start()
    yield
    took = time.monotonic() - started
    if took > deadline + tolerance:
        allowed = deadline + tolerance + max(0.0, overslept.result(deadline + PATIENCE))
        check(took <= allowed, f"{what}: it took {took:.3f} s, and {deadline:g} s and {tolerance:g} s are allowed")


def once_each(items: Collection[Any], wanted: Collection[Any], what: str) -> None:
    """Raise Failure unless `items` are exactly the wanted ones, each once, in any order."""
    counts: dict[Any, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    missing = [item for item in wanted if item not in counts]
    repeated = {item: count for item, count in counts.items() if count > 1}
    strange = [item for item in counts if item not in set(wanted)]
    if missing or repeated or strange:
        raise Failure(
            f"{what}: {len(missing)} missing {_short(missing[:5])}, repeated {_short(repeated)}, "
            f"not expected {_short(strange[:5])}"
        )
