"""One notification, or one batch, through its handlers: decode, find who wants it, call them in order, note what
failed.

No I/O and no hand-over here: whoever calls these functions is the thread or task that runs the handlers. Nothing that a
handler raises escapes; it is noted on the deliveries that the handler was called with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

from messaging.around import enter, enter_async
from messaging.codec import Serializer
from messaging.deadline import detached
from messaging.errors import DecodeError
from messaging.message import MESSAGE_ID, Delivery
from messaging.notify.context import CurrentEvent, running_event
from messaging.notify.dispatcher import Dispatcher, Handler
from messaging.notify.event import LEVELS, REQUEUE, Event, Reject, Retry
from messaging.notify.work import InHand, Step, Work
from messaging.wire.native import POOL_HEADER, Notification

__all__ = ["Decode", "Handling", "ListenerAround", "decoded"]

_log = logging.getLogger(__name__)

_LEVELS = frozenset(LEVELS)
_AS_THEY_ARE: dict[Handler, Event[Any]] = {}
_REQUEUED = "the handler returned REQUEUE"

ListenerAround = Callable[[CurrentEvent], Any]
"""Given the notification, returns a context manager in which each handler runs: tracing, authorisation, database
sessions.
"""


Decode = Callable[[bytes], Notification]
"""How the wire format of a transport reads the body of a notification."""


def decoded(decode: Decode, delivery: Delivery, attempt: int) -> Event[Any]:
    """Read a delivery as it came, without a serializer. Raises DecodeError."""
    body = decode(delivery.body)
    if body.level not in _LEVELS:
        raise DecodeError(f"a notification of level {body.level!r}, which is none")
    headers = delivery.headers
    if POOL_HEADER in headers:
        # A dead letter that was sent again: the name of its pool is for listeners, not for handlers.
        headers = {name: value for name, value in headers.items() if name != POOL_HEADER}
    message_id = headers.get(MESSAGE_ID, "")
    return Event(
        event_type=body.event_type,
        publisher_id=body.publisher_id,
        level=body.level,
        payload=body.payload,
        context=body.context,
        timestamp=body.timestamp,
        message_id=message_id if type(message_id) is str else repr(message_id),
        headers=headers,
        attempt=attempt,
        redelivered=delivery.redelivered or attempt > 1,
    )


class Handling:
    """How one listener runs handlers. Thread-safe."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        name: str,
        serializer: Serializer | None,
        around: Sequence[ListenerAround],
        in_batches: bool,
        failed: Callable[[], object],
        decode: Decode,
    ) -> None:
        self._decode = decode
        self._dispatcher = dispatcher
        self._name = name
        self._serializer = serializer
        self._around = tuple(around)
        self._in_batches = in_batches
        self._failed = failed
        self.plain = not (dispatcher.any_async or self._around or in_batches)
        """Whether `run_plain` serves all that comes."""
        self._order = {handler: position for position, handler in enumerate(dispatcher.handlers)}

    def prepare(self, work: Work) -> None:
        """Decode everything and find its handlers; what cannot be decoded has failed."""
        wanted: dict[Handler, list[tuple[InHand, Event[Any]]]] = {}
        for item in work.items:
            try:
                event = item.event = self._event(item)
                handlers = self._dispatcher.find(event)
                item.wanted = bool(handlers)
                arguments = [(handler, handler.argument(event)) for handler in handlers]
            except Exception as error:  # a serializer is the user's code and may raise anything
                item.failure = error if isinstance(error, DecodeError) else _undecodable(error)
                continue
            for handler, argument in arguments:
                wanted.setdefault(handler, []).append((item, argument))
        work.steps = [Step(handler, wanted[handler]) for handler in sorted(wanted, key=self._order.__getitem__)]
        work.position = 0

    def _event(self, item: InHand) -> Event[Any]:
        event = decoded(self._decode, item.delivery, item.attempt)
        if self._serializer is not None:
            event.context = self._serializer.deserialize_context(event.context)
            event.payload = self._serializer.deserialize_entity(event.context, event.payload)
        return event

    @contextmanager
    def many(self) -> Iterator[None]:
        """The block in which `run_plain` is called: what a handler sees is taken away at its end, not after each."""
        token = running_event.set(None)
        try:
            with detached():
                yield
        finally:
            running_event.reset(token)

    def run_plain(self, item: InHand) -> None:
        """`prepare` and `run` in one, for a single delivery and handlers that are functions: of all that is done per
        notification this is the most, and a third of the time when it is done step by step. Inside of `many`.
        """
        try:
            event = item.event = (
                decoded(self._decode, item.delivery, item.attempt) if self._serializer is None else self._event(item)
            )
            handlers = self._dispatcher.find(event)
            converted = {each: each.argument(event) for each in handlers} if self._dispatcher.converts else _AS_THEY_ARE
        except Exception as error:  # a serializer is the user's code and may raise anything
            item.failure = error if isinstance(error, DecodeError) else _undecodable(error)
            return
        if not handlers:
            return
        item.wanted = True
        running_event.set(item)
        for handler in handlers:
            try:
                result = handler.call(converted.get(handler, event))
                if result is not None and isinstance(result, str) and result == REQUEUE:
                    raise Retry(_REQUEUED)
            except BaseException as error:  # a handler that calls sys.exit() has failed like any other
                self._note_failure(Step(handler, [(item, event)]), error)
                return

    def run(self, work: Work) -> bool:
        """Call handlers up to the next coroutine function; True when none is left."""
        while (step := work.next_step()) is not None:
            if step.handler.is_async:
                return False
            self._run(work, step)
            work.position += 1
        return True

    async def run_coroutines(self, work: Work) -> bool:
        """Await handlers up to the next plain function, which might block the loop; True when none is left."""
        while (step := work.next_step()) is not None:
            if not step.handler.is_async:
                return False
            await self._run_async(work, step)
            work.position += 1
        return True

    def _run(self, work: Work, step: Step) -> None:
        token = running_event.set(work)
        try:
            with detached():
                if self._around:
                    with ExitStack() as stack:
                        enter(stack, self._around, work.current())
                        result = self._call(step)
                else:
                    result = self._call(step)
            self._note(step, result)
        except BaseException as error:  # a handler that calls sys.exit() has failed like any other
            self._note_failure(step, error)
        finally:
            running_event.reset(token)

    async def _run_async(self, work: Work, step: Step) -> None:
        token = running_event.set(work)
        try:
            with detached():
                async with AsyncExitStack() as stack:
                    await enter_async(stack, self._around, work.current())
                    result = await self._call(step)
            self._note(step, result)
        except BaseException as error:  # a cancelled handler has failed too, and its slot has to be given back
            self._note_failure(step, error)
        finally:
            running_event.reset(token)

    def _call(self, step: Step) -> Any:
        events = [event for _, event in step.arguments]
        return step.handler.call_batch(events) if self._in_batches else step.handler.call(events[0])

    def _note(self, step: Step, result: Any) -> None:
        # The predecessor's constants are plain strings of the same text.
        if isinstance(result, str) and result == REQUEUE:
            self._note_failure(step, Retry(_REQUEUED))

    def _note_failure(self, step: Step, error: BaseException) -> None:
        self._failed()
        first = step.arguments[0][1]
        more = f" and {len(step.arguments) - 1} more" if len(step.arguments) > 1 else ""
        told = f"{self._name}: {step.handler.name} failed for {first.event_type} {first.message_id}{more}"
        if isinstance(error, Retry | Reject):
            _log.info("%s: %s: %s", told, type(error).__name__, error)
        else:
            _log.error("%s, attempt %d", told, first.attempt, exc_info=error)
        for item, _ in step.arguments:
            item.failure = error


def _undecodable(error: Exception) -> DecodeError:
    refusal = DecodeError(f"the serializer could not read it: {type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal
