"""One notification, or one batch, through its handlers: decode, find who wants it, call them in order, note what
failed.

No I/O and no hand-over here: whoever calls these functions is the thread or task that runs the handlers. Nothing that a
handler raises escapes; it is noted on the deliveries that the handler was called with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from messaging.around import enter, enter_async
from messaging.codec import Serializer
from messaging.deadline import detached
from messaging.errors import DecodeError
from messaging.message import MESSAGE_ID, Delivery
from messaging.notify.context import CurrentEvent, running_event
from messaging.notify.dispatcher import Dispatcher, Handler
from messaging.notify.event import REQUEUE, Event, Reject, Retry
from messaging.notify.work import InHand, Step, Work
from messaging.wire.native import POOL_HEADER, Notification

__all__ = ["Decode", "Handling", "ListenerAround", "decoded", "raise_if_requeued", "undecodable"]

_log = logging.getLogger(__name__)

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
    headers = delivery.headers
    if POOL_HEADER in headers:
        # A dead letter that was sent again: the name of its pool is for listeners, not for handlers.
        headers = {name: value for name, value in headers.items() if name != POOL_HEADER}
    message_id = headers.get(MESSAGE_ID, "")
    # By position: names cost as much again as the object (0.2 us against 0.1).
    return Event(
        body.event_type,
        body.publisher_id,
        body.level,
        body.payload,
        body.context,
        body.timestamp,
        message_id if type(message_id) is str else repr(message_id),
        headers,
        attempt,
        delivery.redelivered or attempt > 1,
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
        self.decode = decode
        self.dispatcher = dispatcher
        self._name = name
        self.serializer = serializer
        self._around = tuple(around)
        self._in_batches = in_batches
        self._failed = failed
        self.plain = not (dispatcher.any_async or self._around or in_batches)
        """Whether every notification goes through its handlers by itself and at once: see PlainWork."""
        self._order = {handler: position for position, handler in enumerate(dispatcher.handlers)}

    def prepare(self, work: Work) -> None:
        """Decode everything and find its handlers; what cannot be decoded has failed."""
        wanted: dict[Handler, list[tuple[InHand, Event[Any]]]] = {}
        for item in work.items:
            try:
                event = item.event = self.event(item)
                handlers = self.dispatcher.find(event)
                item.wanted = bool(handlers)
                arguments = [(handler, handler.argument(event)) for handler in handlers]
            except Exception as error:  # a serializer is the user's code and may raise anything
                item.failure = undecodable(error)
                continue
            for handler, argument in arguments:
                wanted.setdefault(handler, []).append((item, argument))
        work.steps = [Step(handler, wanted[handler]) for handler in sorted(wanted, key=self._order.__getitem__)]
        work.position = 0

    def event(self, item: InHand) -> Event[Any]:
        """Read a delivery as handlers see it. Raises DecodeError, or what the serializer raises."""
        event = decoded(self.decode, item.delivery, item.attempt)
        if self.serializer is not None:
            event.context = self.serializer.deserialize_context(event.context)
            event.payload = self.serializer.deserialize_entity(event.context, event.payload)
        return event

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
            raise_if_requeued(result)
        except BaseException as error:  # a handler that calls sys.exit() has failed like any other
            self.note_failure(step, error)
        finally:
            running_event.reset(token)

    async def _run_async(self, work: Work, step: Step) -> None:
        token = running_event.set(work)
        try:
            with detached():
                async with AsyncExitStack() as stack:
                    await enter_async(stack, self._around, work.current())
                    result = await self._call(step)
            raise_if_requeued(result)
        except BaseException as error:  # a cancelled handler has failed too, and its slot has to be given back
            self.note_failure(step, error)
        finally:
            running_event.reset(token)

    def _call(self, step: Step) -> Any:
        events = [event for _, event in step.arguments]
        return step.handler.call_batch(events) if self._in_batches else step.handler.call(events[0])

    def note_failure(self, step: Step, error: BaseException) -> None:
        """Note on the deliveries of a step what its handler has raised."""
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


def raise_if_requeued(result: object) -> None:
    """Treat the answer REQUEUE like a Retry that was raised."""
    # The predecessor's constants are plain strings of the same text.
    if isinstance(result, str) and result == REQUEUE:
        raise Retry(_REQUEUED)


def undecodable(error: Exception) -> DecodeError:
    """What is told of a body that could not be read: a serializer is the user's code and may raise anything."""
    if isinstance(error, DecodeError):
        return error
    refusal = DecodeError(f"the serializer could not read it: {type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal
