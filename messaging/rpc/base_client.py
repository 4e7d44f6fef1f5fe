"""What RPC clients of both faces share: from a method and its arguments to a message, and from an outcome to a value or
an error.

Everything but the waiting: prepared targets, encoding, policies, decoding. The blocking client waits on one raw lock
per call, the asyncio client awaits a future; both run these same steps before and after. What is the same for every
operation of a prepared client is worked out once (`_Plan`), because a call has a budget of a few microseconds on this
side.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Self

import msgspec

from messaging.codec import Serializer, convert, explain_unencodable
from messaging.deadline import deadline_scope, timeout_seconds
from messaging.drivers.base import Role
from messaging.errors import (
    ConfigError,
    EncodeError,
    InvalidTarget,
    TooLarge,
    Unsupported,
    VersionCapExceeded,
)
from messaging.message import MESSAGE_ID, Delivery, Outgoing, Route
from messaging.rpc import faults
from messaging.rpc.dispatcher import exposure_of
from messaging.rpc.session import Call, CallPolicy, Cast, Request, RpcSession
from messaging.target import Target, check_target, version_compatible
from messaging.transport import BaseTransport, check_transport
from messaging.wire.base import Wire, check_headers, with_headers
from messaging.wire.native import VERSION, Failure, RequestBody

__all__ = ["BaseClient", "ClientAround", "Kind", "Operation"]

CALL_TIMEOUT = 60.0
CAST_TIMEOUT = 10.0
_UNSET: Any = object()
_STORE_LIMIT = 7 * 86_400.0


Kind = Literal["call", "cast", "fanout"]


class Operation(msgspec.Struct, eq=False):
    """What `around=` of a client sees of an operation before it is sent; `headers` and `context` may be added to."""

    kind: Kind
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

    __slots__ = (
        "call_timeout",
        "cast_kind",
        "cast_route",
        "cast_timeout",
        "confirms_calls",
        "encode",
        "interval",
        "namespace",
        "policy",
        "route",
        "seal",
        "store",
        "unusual",
        "version",
    )

    def __init__(self, target: Target, options: _Options, unusual: bool, wire: Wire) -> None:
        exchange = target.exchange or wire.exchange
        topic = target.topic or ""
        self.route = Route.one(exchange, topic, target.server) if target.server else Route.any(exchange, topic)
        self.cast_route = Route.all(exchange, topic) if target.fanout else self.route
        self.cast_kind: Literal["cast", "fanout"] = "fanout" if target.fanout else "cast"
        self.call_timeout = timeout_seconds(options.timeout, CALL_TIMEOUT)
        self.cast_timeout = timeout_seconds(options.timeout, CAST_TIMEOUT)
        silence = wire.silence if options.call_monitor_timeout is None else options.call_monitor_timeout
        self.interval = wire.interval(silence)
        self.confirms_calls = bool(silence) and not wire.tells_acceptance
        """Whether being taken by the broker is the only news of a call before its first sign of life."""
        self.encode = wire.encode_request
        self.seal = wire.seal
        self.policy = CallPolicy(options.retry, options.idempotent, options.wait_for_ready, silence)
        self.store = options.store
        self.namespace = target.namespace
        self.version = target.version
        self.unusual = unusual or options.version_cap is not None or bool(options.headers)
        """Whether operations need the steps that most can leave out."""


class BaseClient:
    """A client without a way of waiting. Immutable, thread-safe; `prepare` makes changed copies."""

    _face: ClassVar[type[BaseTransport]]
    """The kind of transport that this face can wait for."""

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
        check_transport(transport, self._face)
        check_target(target)
        if not transport.capabilities.rpc:
            raise Unsupported(transport.why_no_rpc())
        self.transport = transport
        self._serializer = serializer
        self._context = context
        self._bare = context is None and serializer is None
        """Whether no context is an empty one."""
        self._declared = faults.declared_exceptions(exceptions)
        self._around = tuple(around)
        self._epoch = -1
        """Of the transport, when the session was looked up: a forked child has others."""
        self._session: RpcSession
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
            raise Unsupported(f"{self.transport.url.kind}:// cannot address one named server")
        if target.fanout and self.transport.capabilities.fanout == "none":
            raise Unsupported(f"{self.transport.url.kind}:// has no fanout")
        if options.retry is not None and (type(options.retry) is not int or options.retry < 0):
            raise ConfigError(
                f"retry must be None (as the deadline allows) or a number of repeats from 0, not {options.retry!r}"
            )
        wire = self.transport.wire
        silence = options.call_monitor_timeout
        if silence is not None and silence < 0:
            raise ConfigError(f"call_monitor_timeout must be seconds, or 0 for none, not {silence!r}")
        if silence and silence < wire.least_silence:
            raise Unsupported(
                f"servers on wire={wire.name} give no signs of life for a call_monitor_timeout under "
                f"{wire.least_silence:g} s, so it cannot be {silence!r}"
            )
        if options.store:
            if not 0 < options.store <= _STORE_LIMIT:
                raise ConfigError(
                    f"store must be more than 0 and at most {_STORE_LIMIT:g} seconds, not {options.store!r}"
                )
            if not self.transport.capabilities.storage:
                raise Unsupported(f"{self.transport.url.kind}:// stores nothing, so store= cannot be kept")
            if not wire.has_mailboxes:
                raise Unsupported(f"servers on wire={wire.name} have no mailboxes, so store= cannot be kept")
            if not target.server:
                raise InvalidTarget("store= keeps a message for one server: prepare(server=…, store=…)")
        for header in options.headers:
            if not isinstance(header, str):
                raise ConfigError(f"header names are strings, not {header!r}")
        check_headers(wire, options.headers)
        self.target = target
        self._options = options
        self._plan = _Plan(target, options, self._serializer is not None, wire)

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

        `timeout`: seconds for the whole operation. `retry`: how often what is proven not delivered may be sent again;
        None: as often as the deadline allows. `idempotent`: what may have been delivered may be sent again too.
        `wait_for_ready`: wait for a server within the deadline instead of raising NoRoute. `version_cap`: refuse to
        send newer versions. `call_monitor_timeout`: seconds of silence after which a server that has the call counts as
        lost; 0: never. `store`: seconds that a cast may wait for a named server that is not up. `headers`: travel
        beside the context, for tracing and the like.

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

    def _request(
        self,
        kind: Kind,
        ctxt: Mapping[str, Any] | None,
        method: Any,
        positional: tuple[Any, ...],
        args: dict[str, Any],
        wake: Callable[[], object],
        operation: Operation | None = None,
    ) -> Request:
        """Encode one operation and make everything ready to send it; any thread, never waits."""
        plan = self._plan
        if type(method) is str and not positional:
            name = method
            if not OPTION_NAMES.isdisjoint(args):
                self._check_arguments(args)
        else:
            name, args = self._named(method, positional, args)
        if operation is not None:
            context = operation.context
        elif ctxt is None and self._bare:
            context = {}
        elif type(ctxt) is dict and self._serializer is None:
            context = ctxt
        else:
            context = self._context_for(ctxt)
        transport = self.transport
        if self._epoch == transport.epoch:
            session = self._session
        else:
            session = self._session = transport.attached(Role.RPC_CLIENT, RpcSession)
            self._epoch = transport.epoch
        now = session.clock()
        request: Request
        if kind == "call":
            code, route, timeout = 1, plan.route, plan.call_timeout
            deadline = now + timeout
            scope = deadline_scope.get()
            if scope is not None and scope.until is not None and scope.until < deadline:
                deadline = scope.until
                timeout = max(0.0, deadline - now)
            make: type[Request] = Call
        else:
            code, timeout, make = 2, plan.cast_timeout, Cast
            route = plan.cast_route if kind == plan.cast_kind else Route.all(plan.route.exchange, plan.route.topic)
            deadline = now + timeout
        request = make(
            id=session.next_id(),
            kind=kind,
            timeout=timeout,
            deadline=deadline,
            wake=wake,
            session=session,
            method=name,
            target=self.target,
            policy=plan.policy,
        )
        headers: dict[str, Any] = {MESSAGE_ID: request.id}
        if plan.unusual or operation is not None:
            args = self._complete(headers, args, ctxt, operation)
            context = with_headers(self.transport.wire, context, headers)
        try:
            body = plan.encode(
                RequestBody(VERSION, code, 0, name, plan.namespace, plan.version, context, args, plan.interval)
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(
                f"{name}: {explain_unencodable({**args, 'ctxt': context})}; "
                "pass plain values, dataclasses or msgspec structs, or set a serializer"
            ) from error
        largest = session.operations.reactor.capabilities.max_body
        if len(body) > largest:
            raise TooLarge(f"{name}: the encoded request has {len(body)} bytes, and this transport carries {largest}")
        is_call = code == 1
        request.outgoing = Outgoing(
            route,
            body,
            headers,
            request,
            reply_to=is_call,
            budget=is_call,
            deadline=deadline,
            confirm=not is_call or plan.confirms_calls,
            store=plan.store,
        )
        if plan.seal is not None:
            plan.seal(request.outgoing)
        return request

    def _complete(
        self, headers: dict[str, Any], args: dict[str, Any], ctxt: Any, operation: Operation | None
    ) -> dict[str, Any]:
        """What few clients have: a version cap, headers of their own, a serializer. Returns the arguments to send."""
        if self._options.version_cap is not None and not self.can_send_version():
            raise VersionCapExceeded(
                f"this client may send versions up to {self._options.version_cap}, "
                f"and the target says {self.target.version or 'none'}"
            )
        headers.update(self._options.headers)
        if operation is not None:
            check_headers(self.transport.wire, operation.headers)
            headers.update(operation.headers)
        if self._serializer is None:
            return args
        return {name: self._serializer.serialize_entity(ctxt, value) for name, value in args.items()}

    def _operation(self, kind: Kind, ctxt: Mapping[str, Any] | None, method: Any) -> Operation:
        """What `around` gets to see, and to add to, before the message is made."""
        name = method if isinstance(method, str) else getattr(method, "__name__", repr(method))
        return Operation(kind, name, self.target, dict(self._context_for(ctxt)), {})

    # From an outcome to a value

    def _value(self, request: Request, method: Any) -> Any:
        """Return what an ended operation gave, or raise its error; in the caller's own thread."""
        error = request.error
        if error is not None:
            raise error
        delivery = request.value
        if type(delivery) is not Delivery:
            return delivery if request.kind == "fanout" else None
        reply = request.session.decode_reply(delivery.body)
        if isinstance(reply, Failure):
            declared = self._declared
            exposed = None if isinstance(method, str) else exposure_of(method)
            if exposed is not None and exposed.raises:
                declared = {**declared, **faults.declared_exceptions(exposed.raises)}
            raise faults.rebuild(reply, declared)
        value = reply.value
        if self._serializer is not None:
            return self._serializer.deserialize_entity(None, value)
        if type(method) is not str:
            wanted = _result_type(method)
            if wanted is not Any:
                return convert(value, wanted, f"the result of {method.__name__}")
        return value


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
