"""One request from its bytes to the bytes of its answer: decode, find the method, run it, encode what came of it.

No I/O and no hand-over here: whoever calls these functions is the thread or task that runs the handler. Whatever a
handler raises becomes an answer; nothing escapes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import msgspec

from messaging.around import enter, enter_async
from messaging.codec import Serializer
from messaging.counters import Tally
from messaging.deadline import deadline_scope
from messaging.errors import DecodeError, EncodeError, StateError, TooLarge
from messaging.rpc import faults
from messaging.rpc.context import CurrentRequest
from messaging.rpc.dispatcher import Dispatcher, Method
from messaging.rpc.monitor import InHand
from messaging.wire.base import Wire
from messaging.wire.native import VERSION, Failure, Kind, Result

__all__ = ["Around", "Invocation", "Invoker"]

_log = logging.getLogger(__name__)

_RESULT = int(Kind.RESULT)
_SHORT = 1_000
"""Characters that are left of the text of an error which is too large to be sent whole."""

Around = Callable[[CurrentRequest], Any]
"""Given the request, returns a context manager in which the handler runs: tracing, authorisation, database sessions."""


class Invocation(CurrentRequest, eq=False, kw_only=True):
    """A request that is ready to run: its method was found and its arguments fit. Handlers see it as their request."""

    exposed: Method
    arguments: dict[str, Any]


class Invoker:
    """How one server runs requests. Thread-safe."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        name: str,
        server: str,
        serializer: Serializer | None,
        around: Sequence[Around],
        traces: bool,
        count: Mapping[str, Tally],
        largest: Callable[[], int],
        wire: Wire,
    ) -> None:
        self._wire = wire
        self._decode_request = wire.decode_request
        self._encode_answer = wire.encode_answer
        self._dispatcher = dispatcher
        self._known = dispatcher.known
        self._name = name
        self._server = server
        self._serializer = serializer
        self._around = around
        self._traces = traces
        self._done = count["done"].add
        self._failed = count["failed"].add
        self._largest = largest
        """How many bytes an answer may have, on the connection as it is now."""

    def settles_late(self, item: InHand) -> bool:
        """Whether a request is for a method that is settled after it has returned."""
        try:
            request = self._decode_request(item.delivery.body)
            method = self._dispatcher.find(request.namespace, request.interface, request.method)
        except Exception:
            # What is wrong with it is told when it runs.
            return False
        return method.delivery == "at_least_once"

    def prepare(self, item: InHand) -> Invocation | bytes | None:
        """Decode a request and find its method; else return its answer (None: nobody wants one)."""
        delivery = item.delivery
        method: Method | None = None
        try:
            request = self._decode_request(delivery.body)
            item.interval = request.monitor
            method = self._known.get((request.namespace, request.interface, request.method))
            if method is None:
                method = self._dispatcher.find(request.namespace, request.interface, request.method)
            if delivery.redelivered and method.delivery == "strict":
                error = StateError(
                    f'{method.name} has delivery="strict", and this request came before, so it may have run already'
                )
                return self._failure(item, method, error, ran=False, code="in_doubt")
            context: Any = request.context
            if self._serializer is not None:
                context = self._serializer.deserialize_context(context)
            raw: Any = request.args
            decode = method.decode
            arguments = method.arguments(raw, context) if decode is None or type(raw) is dict else decode(raw)
        except Exception as error:
            return self._failure(item, method, error, ran=False)
        invocation = Invocation(
            delivery,
            request,
            method.version,
            context,
            item.id,
            item.until,
            exposed=method,
            arguments=arguments,
        )
        item.request = invocation
        # A cancel may have come between the last look and this.
        invocation.gave_up = item.gave_up
        return invocation

    def run(self, item: InHand, invocation: Invocation) -> bytes | None:
        """Run a blocking method and return its answer."""
        method = invocation.exposed
        scope = deadline_scope.set(invocation)
        try:
            if self._around:
                with ExitStack() as stack:
                    enter(stack, self._around, invocation)
                    value = method.function(invocation.context, **invocation.arguments)
            else:
                value = method.function(invocation.context, **invocation.arguments)
            return self.result(item, invocation, value)
        except BaseException as error:  # a handler that calls sys.exit() must not cost its caller the answer
            return self._failure(item, method, error, ran=True)
        finally:
            deadline_scope.reset(scope)

    def start(self, invocation: Invocation) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of a coroutine method, to be awaited by the task that calls this.

        Awaited there and not in a coroutine of ours: each of those costs a quarter of a microsecond.
        """
        # The task has a context of its own, so nothing has to be reset.
        deadline_scope.set(invocation)
        if self._around:
            return self._surrounded(invocation)
        function = invocation.exposed.function
        coroutine: Coroutine[Any, Any, Any] = function(invocation.context, **invocation.arguments)
        return coroutine

    async def _surrounded(self, invocation: Invocation) -> Any:
        async with AsyncExitStack() as stack:
            await enter_async(stack, self._around, invocation)
            return await invocation.exposed.function(invocation.context, **invocation.arguments)

    def coroutine_failure(self, item: InHand, invocation: Invocation, error: BaseException) -> bytes | None:
        """Return the answer for what a coroutine method raised; None when it was cancelled because its caller gave
        up.
        """
        if item.job is not None and item.job.cancelled:
            return None
        return self._failure(item, invocation.exposed, error, ran=True)

    def result(self, item: InHand, invocation: Invocation, value: Any) -> bytes | None:
        """Return the answer with what a method returned; None where nobody wants one."""
        self._done()
        method = invocation.exposed
        if not item.reply_to:
            return None
        try:
            if self._serializer is not None:
                value = self._serializer.serialize_entity(invocation.context, value)
            body = self._encode_answer(Result(VERSION, _RESULT, 0, value, self._server), item.delivery.body)
        except EncodeError as error:
            told = EncodeError(
                f"the result of {method.name}, of type {type(value).__name__}, cannot be sent: {error}; "
                "return plain values, dataclasses or msgspec structs, or set a serializer"
            )
            return self._failure(item, method, told, ran=True, code="encode")
        if len(body) > self._largest():
            # Told here, before the transport has anything to refuse.
            too_large = TooLarge(
                f"the result of {method.name} has {len(body)} bytes, and this transport carries {self._largest()}"
            )
            return self._failure(item, method, too_large, ran=True, code="too_large")
        return body

    def _failure(
        self, item: InHand, method: Method | None, error: BaseException, *, ran: bool, code: str = ""
    ) -> bytes | None:
        self._failed()
        declared = method.raises if method is not None and ran else ()
        if ran and method is not None:
            what = f"{self._name}: {method.name} failed for message {item.id}"
            if isinstance(error, declared):
                _log.debug("%s as declared: %s: %s", what, type(error).__name__, error)
            else:
                _log.error(what, exc_info=error)
        else:
            _log.warning("%s: request %s was refused: %s: %s", self._name, item.id, type(error).__name__, error)
        if not item.reply_to:
            return None
        if not code and ran:
            # The handler ran, so even an error class of ours is its own failure and no statement about the request.
            code = "remote"
        elif not code and isinstance(error, DecodeError):
            code = "decode"
        failure = faults.failure_from(error, declared=declared, code=code, server=self._server, with_trace=self._traces)
        body = self._wire.encode_answer(failure, item.delivery.body, error)
        if len(body) > self._largest():
            body = self._wire.encode_answer(_shortened(failure), item.delivery.body)
        return body

    def shorter(self, id: str, answer: bytes, error: TooLarge) -> bytes:
        """Return what the caller of a request is told in place of an answer that the transport refused to carry."""
        _log.error("%s: the answer to message %s was refused: %s", self._name, id, error)
        wire = self._wire
        if wire.kind_of(answer) == Kind.FAILURE and isinstance(failure := wire.decode_reply(answer), Failure):
            # Its caller wants to hear of the handler's own error, not of the size of its traceback.
            return wire.encode_answer(_shortened(failure), answer)
        self._failed()
        too_large = TooLarge(f"the result has {len(answer)} bytes: {error}")
        return wire.encode_answer(faults.failure_from(too_large, code="too_large", server=self._server), answer)


def _shortened(failure: Failure) -> Failure:
    return msgspec.structs.replace(failure, text=failure.text[:_SHORT], trace="", args=None)
