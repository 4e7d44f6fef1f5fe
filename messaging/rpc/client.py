"""RPC clients: turn a method and its arguments into a message, and an outcome into a value or an error.

`BaseClient` holds everything but the waiting: prepared targets, encoding, policies, decoding. The blocking client waits on one raw lock
per call; the asyncio client awaits a future; both run the same steps before and after. What can be worked out per prepared client is worked
out once (`_Plan`), because a call has a budget of a few microseconds on this side.
"""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import threading
from _thread import allocate_lock
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, cast, overload

import msgspec

from messaging.codec import Serializer, convert, decode_any, explain_unencodable
from messaging.deadline import current_deadline, timeout_seconds
from messaging.drivers.base import Role
from messaging.errors import (
    Cancelled,
    ConfigError,
    EncodeError,
    InvalidTarget,
    MessagingError,
    PipelineFailed,
    StateError,
    TooLarge,
    Unsupported,
    VersionCapExceeded,
)
from messaging.message import MESSAGE_ID, Delivery, Outgoing, Route
from messaging.pending import deadline_error
from messaging.rpc import faults
from messaging.rpc.dispatcher import exposure_of
from messaging.rpc.session import Call, CallPolicy, Cast, Fanout, Request, RpcSession
from messaging.target import DEFAULT_EXCHANGE, Target, version_compatible
from messaging.transport import BaseTransport, Transport
from messaging.wire import native
from messaging.wire.native import VERSION, RequestBody

__all__ = ["BaseClient", "Client", "ClientAround", "Operation", "Pipeline"]

P = ParamSpec("P")
R = TypeVar("R")

CALL_TIMEOUT = 60.0
CAST_TIMEOUT = 10.0
_UNSET: Any = object()
_STORE_LIMIT = 7 * 86_400.0


class Operation(msgspec.Struct, eq=False):
    """What `around=` of a client sees of an operation before it is sent; `headers` and `context` may be added to."""

    kind: Literal["call", "cast", "fanout"]
    method: str
    target: Target
    context: dict[str, Any]
    headers: dict[str, Any]


ClientAround = Callable[[Operation], AbstractContextManager[Any]]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `prepare` can change, with what the constructor has set."""

    timeout: float | None = None
    retry: int | None = None
    idempotent: bool = False
    wait_for_ready: bool = False
    version_cap: str | None = None
    call_monitor_timeout: float | None = None
    store: float = 0.0
    headers: dict[str, Any] = {}


OPTION_NAMES = frozenset({*Target.__dataclass_fields__, *_Options.__struct_fields__})
"""Names that belong into prepare(), for telling a user who passed one to a verb."""


class _Plan:
    """What is the same for every operation of one prepared client."""

    __slots__ = ("call_timeout", "cast_kind", "cast_route", "cast_timeout", "interval", "policy", "route", "store")

    def __init__(self, target: Target, options: _Options) -> None:
        exchange = target.exchange or DEFAULT_EXCHANGE
        topic = target.topic or ""
        self.route = Route.one(exchange, topic, target.server) if target.server else Route.any(exchange, topic)
        self.cast_route = Route.all(exchange, topic) if target.fanout else self.route
        self.cast_kind: Literal["cast", "fanout"] = "fanout" if target.fanout else "cast"
        self.call_timeout = timeout_seconds(options.timeout, CALL_TIMEOUT)
        self.cast_timeout = timeout_seconds(options.timeout, CAST_TIMEOUT)
        silence = 3.0 if options.call_monitor_timeout is None else options.call_monitor_timeout
        self.interval = silence / 3
        self.policy = CallPolicy(options.retry, options.idempotent, options.wait_for_ready, silence)
        self.store = options.store


class BaseClient:
    """A client without a way of waiting. Immutable, thread-safe; `prepare` makes changed copies."""

    def __init__(
        self,
        transport: BaseTransport,
        target: Target,
        *,
        timeout: float | None = None,
        retry: int | None = None,
        idempotent: bool = False,
        wait_for_ready: bool = False,
        version_cap: str | None = None,
        call_monitor_timeout: float | None = None,
        serializer: Serializer | None = None,
        context: Callable[[], Mapping[str, Any]] | None = None,
        exceptions: Sequence[type[BaseException]] = (),
        around: Sequence[ClientAround] = (),
    ) -> None:
        if not transport.capabilities.rpc:
            raise Unsupported(f"{transport.url.scheme}:// carries notifications only; use another transport for RPC")
        self.transport = transport
        self._serializer = serializer
        self._context = context
        self._declared = faults.declared_exceptions(exceptions)
        self._around = tuple(around)
        self._set(
            target,
            _Options(
                timeout=timeout,
                retry=retry,
                idempotent=idempotent,
                wait_for_ready=wait_for_ready,
                version_cap=version_cap,
                call_monitor_timeout=call_monitor_timeout,
            ),
        )

    def _set(self, target: Target, options: _Options) -> None:
        if not target.topic:
            raise InvalidTarget(f"a client's target needs a topic, not {target!r}")
        if target.server and not self.transport.capabilities.direct:
            raise Unsupported(f"{self.transport.url.scheme}:// cannot address one named server")
        if target.fanout and self.transport.capabilities.fanout == "none":
            raise Unsupported(f"{self.transport.url.scheme}:// has no fanout")
        if options.retry is not None and (type(options.retry) is not int or options.retry < 0):
            raise ConfigError(
                f"retry must be None (as the deadline allows) or a number of repeats from 0, not {options.retry!r}"
            )
        if options.call_monitor_timeout is not None and options.call_monitor_timeout < 0:
            raise ConfigError(
                f"call_monitor_timeout must be seconds, or 0 for none, not {options.call_monitor_timeout!r}"
            )
        if options.store:
            if not 0 < options.store <= _STORE_LIMIT:
                raise ConfigError(
                    f"store must be more than 0 and at most {_STORE_LIMIT:g} seconds, not {options.store!r}"
                )
            if not self.transport.capabilities.storage:
                raise Unsupported(f"{self.transport.url.scheme}:// stores nothing, so store= cannot be kept")
            if not target.server:
                raise InvalidTarget("store= keeps a message for one server: prepare(server=…, store=…)")
        for header in options.headers:
            if not isinstance(header, str):
                raise ConfigError(f"header names are strings, not {header!r}")
        self.target = target
        self._options = options
        self._plan = _Plan(target, options)

    def prepare(
        self,
        *,
        exchange: str | None = _UNSET,
        topic: str | None = _UNSET,
        namespace: str | None = _UNSET,
        version: str | None = _UNSET,
        server: str | None = _UNSET,
        fanout: bool | None = _UNSET,
        timeout: float | None = _UNSET,
        retry: int | None = _UNSET,
        idempotent: bool = _UNSET,
        wait_for_ready: bool = _UNSET,
        version_cap: str | None = _UNSET,
        call_monitor_timeout: float | None = _UNSET,
        store: float = _UNSET,
        headers: Mapping[str, Any] = _UNSET,
    ) -> Self:
        """Return a client like this one, with another target or other options.

        `timeout`: seconds for the whole operation. `retry`: how often what is proven not delivered may be sent again; None: as often as
        the deadline allows. `idempotent`: what may have been delivered may be sent again too. `wait_for_ready`: wait for a server
        within the deadline instead of raising NoRoute. `version_cap`: refuse to send newer versions. `call_monitor_timeout`: seconds
        of silence after which a server that has the call counts as lost; 0: never. `store`: seconds that a cast may wait for a named
        server that is not up. `headers`: travel beside the context, for tracing and the like.

        Raises ConfigError, InvalidTarget or Unsupported.
        """
        place = {
            name: value
            for name, value in (
                ("exchange", exchange),
                ("topic", topic),
                ("namespace", namespace),
                ("version", version),
                ("server", server),
                ("fanout", fanout),
            )
            if value is not _UNSET
        }
        changes = {
            name: value
            for name, value in (
                ("timeout", timeout),
                ("retry", retry),
                ("idempotent", idempotent),
                ("wait_for_ready", wait_for_ready),
                ("version_cap", version_cap),
                ("call_monitor_timeout", call_monitor_timeout),
                ("store", store),
                ("headers", headers if headers is _UNSET else dict(headers)),
            )
            if value is not _UNSET
        }
        other = copy.copy(self)
        other._set(
            self.target(**place) if place else self.target,
            msgspec.structs.replace(self._options, **changes) if changes else self._options,
        )
        return other

    def can_send_version(self, version: str | None = None) -> bool:
        """Whether the version cap allows a version; None asks for the target's own."""
        cap = self._options.version_cap
        wanted = version or self.target.version
        return cap is None or (wanted is not None and version_compatible(cap, wanted))

    # From a verb to a message

    def _check_arguments(self, args: Mapping[str, Any]) -> None:
        for name in args:
            if name in OPTION_NAMES:
                raise ConfigError(
                    f"options go through prepare(): client.prepare({name}=…); if the method has an argument of that "
                    "name, call it by reference"
                )

    def _context_for(self, ctxt: Mapping[str, Any] | None) -> dict[str, Any]:
        if ctxt is None:
            ctxt = self._context() if self._context is not None else {}
        if self._serializer is not None:
            return self._serializer.serialize_context(ctxt)
        if type(ctxt) is dict:
            return ctxt
        if not isinstance(ctxt, Mapping):
            raise ConfigError(
                f"the context must be a mapping or None, not {type(ctxt).__name__}; set a serializer for other types"
            )
        return dict(ctxt)

    def _named(self, method: Any, positional: tuple[Any, ...], args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The name and arguments of a method given by name or by reference."""
        if isinstance(method, str):
            if positional:
                raise TypeError("arguments of a method that is called by name are keywords; pass name=value")
            return method, args
        if not callable(method) or not hasattr(method, "__name__"):
            raise ConfigError(f"method must be a name or a function of an endpoint class, not {method!r}")
        if positional:
            names = list(inspect.signature(method).parameters)
            skip = 1 if hasattr(method, "__self__") else 2
            args = {**dict(zip(names[skip:], positional, strict=False)), **args}
        return method.__name__, args

    def _begin(
        self,
        kind: Literal["call", "cast", "fanout"],
        ctxt: Mapping[str, Any] | None,
        method: Any,
        positional: tuple[Any, ...],
        args: dict[str, Any],
        wake: Callable[[], object],
        watched: bool,
        around: ExitStack | None = None,
    ) -> Request:
        """Encode, register and send one operation; any thread, never waits."""
        plan = self._plan
        target = self.target
        if type(method) is str and not positional:
            name = method
        else:
            name, args = self._named(method, positional, args)
        context = self._context_for(ctxt)
        if self._options.version_cap is not None and not self.can_send_version():
            raise VersionCapExceeded(
                f"this client may send versions up to {self._options.version_cap} and the target says {target.version or 'none'}"
            )
        session: RpcSession = self.transport.attached(Role.RPC_CLIENT, RpcSession)
        clock = session.operations.reactor.clock
        request: Request
        if kind == "call":
            timeout = plan.call_timeout
            deadline = clock() + timeout
            inherited = current_deadline()
            if inherited is not None and inherited < deadline:
                deadline = inherited
                timeout = max(0.0, inherited - clock())
            request = Call(session, kind, plan.policy, timeout, deadline, wake)
            route = plan.route
        else:
            timeout = plan.cast_timeout
            deadline = clock() + timeout
            request = Cast(session, kind, plan.policy, timeout, deadline, wake)
            route = plan.cast_route if kind == plan.cast_kind else Route.all(plan.route.exchange, plan.route.topic)
        headers = (
            {MESSAGE_ID: request.id, **self._options.headers} if self._options.headers else {MESSAGE_ID: request.id}
        )
        if around is not None:
            operation = Operation(kind, name, target, dict(context), headers)
            for enter in self._around:
                around.enter_context(enter(operation))
            context = operation.context
        if self._serializer is not None:
            args = {key: self._serializer.serialize_entity(ctxt, value) for key, value in args.items()}
        is_call = kind == "call"
        try:
            body = native.encode_unchecked(
                RequestBody(
                    VERSION,
                    1 if is_call else 2,
                    0,
                    name,
                    target.namespace,
                    target.version,
                    context,
                    args,
                    plan.interval if is_call else 0.0,
                )
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(
                f"{name}: {explain_unencodable({**args, 'ctxt': context})}; pass plain values, dataclasses or msgspec structs, "
                "or set a serializer"
            ) from error
        if len(body) > session.operations.reactor.capabilities.max_body:
            raise TooLarge(
                f"{name}: the encoded request has {len(body)} bytes, and this transport carries "
                f"{session.operations.reactor.capabilities.max_body}"
            )
        outgoing = Outgoing(
            route,
            body,
            headers,
            request,
            reply_to=is_call,
            budget=is_call,
            deadline=deadline,
            confirm=not is_call,
            store=plan.store,
        )
        session.start(request, outgoing, watched)
        return request

    # From an outcome to a value

    def _value(self, request: Request, method: Any) -> Any:
        """Return what an ended operation gave, or raise its error; in the caller's own thread."""
        error = request.error
        if error is not None:
            raise error
        delivery = request.value
        if type(delivery) is not Delivery:
            return delivery
        reply = native.decode(delivery.body)
        if type(reply) is native.Failure:
            declared = self._declared
            exposed = None if isinstance(method, str) else exposure_of(method)
            if exposed is not None and exposed.raises:
                declared = {**declared, **faults.declared_exceptions(exposed.raises)}
            raise faults.rebuild(reply, declared)
        value = decode_any(reply.value)
        if self._serializer is not None:
            return self._serializer.deserialize_entity(None, value)
        if type(method) is not str:
            wanted = _result_type(method)
            if wanted is not Any:
                return convert(value, wanted, f"the result of {method.__name__}")
        return value

    def _expiry(self, request: Request, method: Any) -> MessagingError:
        reactor = request.session.operations.reactor
        name = method if isinstance(method, str) else method.__name__
        cause = reactor.cause if request.outgoing.stage is None else None
        return deadline_error(
            f"{request.kind} {name} to {self.target!r}", request.timeout, request.outgoing.stage, cause
        )


_result_types: dict[Any, Any] = {}


def _result_type(method: Any) -> Any:
    function = getattr(method, "__func__", method)
    found = _result_types.get(function, _UNSET)
    if found is _UNSET:
        import typing

        try:
            found = typing.get_type_hints(function, include_extras=True).get("return", Any)
        except Exception:
            found = Any
        if len(_result_types) < 10_000:
            _result_types[function] = found
    return found


class Client(BaseClient):
    """A blocking client; thread-safe. Its verbs take the context (a mapping or None) and the method by position, arguments by name.

    The method is a name, or a function of the endpoint's class: then mypy checks the arguments, and the result is converted to the
    function's return annotation. `context`: a function that gives the context where None is passed. `exceptions`: classes that are raised
    as themselves when a server says it raised one. Other parameters: see `prepare`.
    """

    transport: Transport

    @overload
    def call(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    def call(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    def call(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> Any: ...
    def call(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method on one server (or the prepared one) and return its result.

        Raises the declared exception of the handler, RemoteError (or a subclass) for others, DeadlineExceeded, NoRoute, ServerLost, ...:
        each with `.delivered`. StateError when called by the thread that does the I/O (an inline handler), which would wait for itself.
        """
        if self._around:
            with ExitStack() as around:
                return self._wait("call", ctxt, method, args, kwargs, around)
        return self._wait("call", ctxt, method, args, kwargs, None)

    @overload
    def cast(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    def cast(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> None: ...
    def cast(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Hand a request to one server and return when a server or broker has taken it; to all, when prepared with fanout=True."""
        self._cast(self._plan.cast_kind, ctxt, method, args, kwargs)

    @overload
    def fanout(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Fanout: ...
    @overload
    def fanout(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> Fanout: ...
    def fanout(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Fanout:
        """Hand a request to every live server; returns how many took it and how many failed, None where nobody can know."""
        if self.transport.capabilities.fanout == "none":
            raise Unsupported(f"{self.transport.url.scheme}:// has no fanout")
        return cast("Fanout", self._cast("fanout", ctxt, method, args, kwargs))

    def submit(
        self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Start a call and return a Future of its result. Cancelling the future cancels the call and tells the server."""
        self._check_arguments_by_name(method, kwargs)
        future: _CallFuture = _CallFuture()

        def wake() -> None:
            future.finish(self, method)

        with ExitStack() as around:
            future.request = self._begin(
                "call", ctxt, method, args, kwargs, wake, True, around if self._around else None
            )
        future.started()
        return future

    def ping(self, timeout: float = 5.0) -> str:
        """Ask a server (or the prepared one) for its name: a round trip through its handlers."""
        return cast("str", self.prepare(namespace="messaging", version="1.0", timeout=timeout).call(None, "ping"))

    def pipeline(self) -> Pipeline:
        """Return a block in which many operations are sent without waiting; leaving it waits for every outcome.

        Failures are raised together as PipelineFailed, whose members have `.index`.
        """
        return Pipeline(self)

    def _check_arguments_by_name(self, method: Any, kwargs: dict[str, Any]) -> None:
        if type(method) is str and not OPTION_NAMES.isdisjoint(kwargs):
            self._check_arguments(kwargs)

    def _cast(
        self,
        kind: Literal["call", "cast", "fanout"],
        ctxt: Mapping[str, Any] | None,
        method: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        with ExitStack() as around:
            return self._wait(kind, ctxt, method, args, kwargs, around if self._around else None)

    def _wait(
        self,
        kind: Literal["call", "cast", "fanout"],
        ctxt: Mapping[str, Any] | None,
        method: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        around: ExitStack | None,
    ) -> Any:
        if type(method) is str and not OPTION_NAMES.isdisjoint(kwargs):
            self._check_arguments(kwargs)
        bell = allocate_lock()
        bell.acquire()
        request = self._begin(kind, ctxt, method, args, kwargs, bell.release, False, around)
        session = request.session
        reactor = session.operations.reactor
        if reactor.is_owner():
            session.abandon(request, Cancelled("not waited for"))
            raise StateError(
                "a blocking operation on the thread that does this transport's I/O would wait for itself; run the handler with "
                'executor="threads", make it async, or use submit() or cast through another transport'
            )
        try:
            answered = bell.acquire(timeout=max(0.0, request.deadline - reactor.clock()))
        except BaseException:
            # Ctrl-C, or another signal's exception: this caller goes, the others do not notice.
            session.abandon(request, Cancelled("the caller was interrupted"))
            raise
        if not answered and not session.abandon(request, self._expiry(request, method)):
            # Somebody ended it at the same moment, and is between taking it out and ringing: the outcome counts.
            bell.acquire(timeout=1.0)
        return self._value(request, method)


class _CallFuture(concurrent.futures.Future[Any]):
    """A Future of a call; `cancel()` cancels the call."""

    request: Request | None = None
    _early: tuple[Client, Any] | None = None

    def started(self) -> None:
        """The call is on its way; an outcome that came before this is delivered now."""
        if self._early is not None:
            self.finish(*self._early)

    def finish(self, client: Client, method: Any) -> None:
        """Take the outcome; on whatever thread ended the call."""
        request = self.request
        if request is None:
            # The reply overtook the assignment in submit().
            self._early = (client, method)
            if self.request is None:
                return
            request = self.request
        if self.done():
            return
        try:
            value = client._value(request, method)
        except BaseException as error:
            with _suppress_invalid_state():
                self.set_exception(error)
        else:
            with _suppress_invalid_state():
                self.set_result(value)

    def cancel(self) -> bool:
        """Cancel the call, unless it has ended."""
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        request = self.request
        if request is not None:
            request.session.abandon(request, Cancelled("the caller cancelled"))
        return True


class _suppress_invalid_state(AbstractContextManager[None]):  # noqa: N801 - used like contextlib.suppress
    """Two threads may finish one future; the second one's outcome is the same or too late."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, concurrent.futures.InvalidStateError)


class Pipeline:
    """Many operations at once; made by `Client.pipeline()`. Use it from one thread, in a `with` block.

    At most `limit` operations are under way at a time; then the verbs wait, within the deadline of what they wait for.
    """

    limit = 10_000

    def __init__(self, client: Client) -> None:
        self._client = client
        self._requests: list[tuple[Request, Any]] = []
        self._open = threading.Semaphore(self.limit)
        self._results: list[Any] = []

    def call(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a call; its result is in `results()` after the block, at the position of this operation."""
        self._start("call", ctxt, method, args, kwargs)

    def cast(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a cast."""
        self._start(self._client._plan.cast_kind, ctxt, method, args, kwargs)

    def fanout(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Start a fanout."""
        self._start("fanout", ctxt, method, args, kwargs)

    def _start(self, kind: Literal["call", "cast", "fanout"], ctxt: Any, method: Any, args: Any, kwargs: Any) -> None:
        client = self._client
        client._check_arguments_by_name(method, kwargs)
        if not self._open.acquire(timeout=client._plan.call_timeout):
            raise StateError(f"{self.limit} operations of this pipeline wait for their outcome, and none came in time")
        with ExitStack() as around:
            try:
                request = client._begin(
                    kind, ctxt, method, args, kwargs, self._open.release, True, around if client._around else None
                )
            except BaseException:
                self._open.release()
                raise
        self._requests.append((request, method))

    def results(self) -> list[Any]:
        """The values of all operations in their order; None for casts. Complete after the block."""
        return list(self._results)

    def wait(self) -> None:
        """Wait for every outcome; each operation has its own deadline, so this ends. Raises PipelineFailed."""
        failures: list[Exception] = []
        self._await_all()
        self._results = []
        for index, (request, method) in enumerate(self._requests):
            try:
                self._results.append(self._client._value(request, method))
            except Exception as error:
                error.index = index  # type: ignore[attr-defined]
                failures.append(error)
                self._results.append(None)
        if failures:
            raise PipelineFailed(f"{len(failures)} of {len(self._requests)} operations failed", failures)

    def _await_all(self) -> None:
        if not self._requests:
            return
        reactor = self._requests[0][0].session.operations.reactor
        if reactor.is_owner():
            raise StateError("a pipeline on the thread that does this transport's I/O would wait for itself")
        latest = max(request.deadline for request, _ in self._requests)
        for _ in range(self.limit):
            # All permits are back when nothing is under way. The owner ends what is overdue; this bound is for its being late.
            if not self._open.acquire(timeout=max(0.0, latest - reactor.clock()) + 0.05):
                break
        for request, method in self._requests:
            if request.error is None and request.value is None:
                request.session.abandon(request, self._client._expiry(request, method))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:
            for request, _ in self._requests:
                request.session.abandon(request, Cancelled("the pipeline's block raised"))
