"""Notifications that go through their handlers by themselves and at once: the handlers are functions, get one at a
time, and nothing runs around them.

Nearly all do, so `run` is one loop, written out: it takes 1.5 us for each, and took 2.6 with a function for each step
and an entry for each in the tables from its receipt on. What comes for the first time and has neither key nor lane
needs nothing but to be handled: until then it waits as it came, and while its handlers run, its worker's turn is where
it is noted. Whatever does not go well is left to Endings.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from messaging.counters import Tally
from messaging.deadline import detached
from messaging.errors import Closed
from messaging.message import Delivery
from messaging.notify.context import running_event
from messaging.notify.dispatcher import Handler
from messaging.notify.endings import Endings, Tables
from messaging.notify.event import Event
from messaging.notify.handling import Handling, decoded, raise_if_requeued, undecodable
from messaging.notify.work import InHand, Step, Turn
from messaging.wire.native import KEY_HEADER, LEVEL_HEADER, POOL_HEADER

__all__ = ["PlainWork"]

_log = logging.getLogger(__name__)


class PlainWork:
    """Handles what is ready at one listener. Thread-safe.

    `directly`: whether deliveries may wait as they came; not where they are settled at their receipt, or remembered.
    """

    def __init__(
        self,
        handling: Handling,
        endings: Endings,
        tables: Tables,
        accept: Callable[[Delivery], None],
        levels: Collection[str],
        received: Tally,
        count: Mapping[str, Callable[[], object]],
        *,
        directly: bool,
    ) -> None:
        self._handling = handling
        self._endings = endings
        self._tables = tables
        self._accept = accept
        self._levels = levels
        self._received = received
        self._count = count
        self._directly = directly

    def take(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Keep those that need nothing but to be handled; return the others. Owner only."""
        if not self._directly:
            return batch
        levels = self._levels
        plain: list[Delivery] = []
        others: list[Delivery] = []
        for delivery in batch:
            headers = delivery.headers
            level = headers.get(LEVEL_HEADER)
            if (
                type(level) is str
                and level in levels
                and KEY_HEADER not in headers
                and POOL_HEADER not in headers
                and delivery.attempt == 1
                and not delivery.lane
            ):
                plain.append(delivery)
            else:
                others.append(delivery)
        self._received.add_many(len(plain))
        self._tables.ready.extend(plain)
        return others

    def run(self) -> None:
        """Handle what is ready, and what waits for it in the lane of its key, until nothing is. Any thread."""
        ready = self._tables.ready
        if not ready:
            # Others have taken it all: with quick handlers that is so for nearly every job.
            return
        # What a handler sees is taken away at the end of the block, not after each.
        token = running_event.set(None)
        turn = Turn()
        self._tables.turns[turn] = True
        try:
            with detached():
                self._run(ready, turn)
        finally:
            del self._tables.turns[turn]
            running_event.reset(token)

    def _run(self, ready: deque[InHand | Delivery], turn: Turn) -> None:
        handling, endings, in_hand = self._handling, self._endings, self._tables.in_hand
        decode, dispatcher, converts = handling.decode, handling.dispatcher, handling.dispatcher.converts
        find, known = dispatcher.find, dispatcher.known
        as_it_came = handling.serializer is None
        accept, run_as = self._accept, running_event.set
        handled, ignored, stale = (self._count[name] for name in ("handled", "ignored", "stale"))
        arguments: dict[Handler, Event[Any]] = {}
        todo: list[InHand] = []
        while True:
            try:
                found = todo.pop() if todo else ready.popleft()
            except IndexError:
                return
            if isinstance(found, Delivery):
                delivery = found
                if delivery.stale:
                    stale()
                    continue
                item = turn.item = InHand(delivery, 1, None)
            elif endings.runnable(found, todo):
                item, delivery = found, found.delivery
            else:
                continue
            try:
                event = item.event = decoded(decode, delivery, item.attempt) if as_it_came else handling.event(item)
                handlers = known.get((event.level, event.event_type))
                if handlers is None:
                    handlers = find(event)
                if converts:
                    arguments = {handler: handler.argument(event) for handler in handlers}
            except Exception as error:  # a serializer is the user's code and may raise anything
                item.failure = undecodable(error)
                handlers = ()
            if handlers:
                item.wanted = True
                run_as(item)
            for handler in handlers:
                try:
                    result = handler.call(arguments[handler] if converts else event)
                    if result is not None:
                        raise_if_requeued(result)
                except BaseException as error:  # a handler that calls sys.exit() has failed like any other
                    handling.note_failure(Step(handler, [(item, event)]), error)
                    break
            if item is not turn.item:
                endings.finish(item, todo)
            elif item.failure is not None:
                in_hand[item] = True
                turn.item = None
                endings.finish(item, todo)
            else:
                # As Endings.finish does it.
                try:
                    accept(delivery)
                except Closed:
                    _log.debug("the transport was closed before a settlement; the notification comes again")
                turn.item = None
                (handled if handlers else ignored)()
