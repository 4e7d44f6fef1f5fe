"""From a method's name to the function that serves it: exposure, access, versions, arguments.

Everything about a method is worked out once, when the server is built: which arguments it takes, of which types,
whether it is a coroutine function, what it may raise. Per request that leaves one dictionary lookup and one typed
decode. No I/O, no threads.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, overload

import msgspec

from messaging.codec import Serializer
from messaging.errors import AccessDenied, BadArguments, ConfigError, MethodNotFound, UnsupportedVersion
from messaging.options import nearest
from messaging.target import Target, version_compatible

__all__ = [
    "ALL_METHODS",
    "EXPOSED",
    "PUBLIC_METHODS",
    "AccessPolicy",
    "Dispatcher",
    "Exposure",
    "Method",
    "Signature",
    "checked",
    "expose",
    "exposure_of",
]

F = TypeVar("F", bound=Callable[..., Any])

DeliveryPolicy = Literal["at_most_once", "strict", "at_least_once"]
DEFAULT_VERSION = "1.0"
"""Version of endpoints and requests that name none, as in the predecessor."""
_EXPOSURE = "__messaging_exposure__"
_decode_plain = msgspec.msgpack.Decoder().decode
_as_dict = msgspec.structs.asdict


class Exposure(NamedTuple):
    """What `@expose` says of a method."""

    raises: tuple[type[BaseException], ...] = ()
    delivery: DeliveryPolicy = "at_most_once"


@overload
def expose(function: F, /) -> F: ...
@overload
def expose(
    *, raises: Sequence[type[BaseException]] = (), delivery: DeliveryPolicy = "at_most_once"
) -> Callable[[F], F]: ...
def expose(
    function: F | None = None,
    /,
    *,
    raises: Sequence[type[BaseException]] = (),
    delivery: DeliveryPolicy = "at_most_once",
) -> F | Callable[[F], F]:
    """Let callers reach a method of an endpoint; usable with and without parentheses.

    `raises`: exceptions that belong to the method's contract: callers get them as their own class and the server logs
    them quietly. `delivery`: "at_most_once" runs a request once or not at all, and once more only where a broker
    delivered it again after a lost acknowledgement; "strict" refuses such a redelivered request (its caller is told
    that the outcome is in doubt); "at_least_once" acknowledges after the method has returned, so a request survives a
    crash and may run twice.

    Raises ConfigError for an unknown delivery policy or something else than exception classes.
    """
    if delivery not in typing.get_args(DeliveryPolicy):
        raise ConfigError(f"delivery must be one of {', '.join(typing.get_args(DeliveryPolicy))}, not {delivery!r}")
    kinds: Sequence[Any] = raises
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ConfigError(f"raises= takes exception classes, not {kind!r}")

    def mark(target: F) -> F:
        setattr(target, _EXPOSURE, Exposure(tuple(raises), delivery))
        return target

    return mark if function is None else mark(function)


def exposure_of(function: Any) -> Exposure | None:
    """Return what `@expose` said of a function or bound method, or None."""
    found = getattr(function, _EXPOSURE, None)
    return found if isinstance(found, Exposure) else None


AccessPolicy = Callable[[Any, str], bool]
"""Given an endpoint and a method's name, tells whether callers may reach it."""


def EXPOSED(endpoint: Any, method: str) -> bool:  # noqa: N802 - it is passed as a constant
    """Only what is marked by `@expose`; the default."""
    return exposure_of(getattr(endpoint, method, None)) is not None


def PUBLIC_METHODS(endpoint: Any, method: str) -> bool:  # noqa: N802 - it is passed as a constant
    """Everything whose name does not start with an underscore; the predecessor's default."""
    return not method.startswith("_")


def ALL_METHODS(endpoint: Any, method: str) -> bool:  # noqa: N802 - it is passed as a constant
    """Everything but what Python itself defines; the predecessor's legacy policy."""
    return not (method.startswith("__") and method.endswith("__"))


def checked(endpoints: object) -> Sequence[Any]:
    """Return a list of endpoints, or refuse what is none. Raises ConfigError."""
    if isinstance(endpoints, str) or not isinstance(endpoints, Sequence):
        raise ConfigError(f"endpoints must be a list of objects, for example [Inventory()], not {endpoints!r}")
    for endpoint in endpoints:
        if isinstance(endpoint, type):
            raise ConfigError(
                f"an endpoint is an object, and {endpoint.__name__} is a class: write {endpoint.__name__}()"
            )
    return endpoints


class Signature:
    """The arguments of a method: how to check, convert and pass them. Thread-safe."""

    __slots__ = ("_decoder", "_fields", "_keywords", "_optional", "_struct", "_untyped", "names", "result")

    def __init__(self, function: Callable[..., Any], where: str) -> None:
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception:
            # An annotation that cannot be resolved (a name that exists for type checkers only) is no reason not to
            # serve.
            hints = {}
        parameters = list(inspect.signature(function).parameters.values())
        if not hasattr(function, "__self__") and parameters:
            parameters = parameters[1:]
        # The first one left is the context.
        if not parameters or parameters[0].kind in (parameters[0].KEYWORD_ONLY, parameters[0].VAR_KEYWORD):
            raise ConfigError(
                f"{where} must take the context as its first argument: def {function.__name__}(self, ctxt, ...)"
            )
        fields: list[Any] = []
        self._keywords = False
        self._optional = False
        self.names: tuple[str, ...] = ()
        arguments = parameters if parameters[0].kind is parameters[0].VAR_POSITIONAL else parameters[1:]
        for parameter in arguments:
            if parameter.kind is parameter.VAR_KEYWORD:
                self._keywords = True
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise ConfigError(
                    f"{where}: argument {parameter.name!r} is positional only, and arguments travel by name"
                )
            annotation = hints.get(parameter.name, Any)
            self.names += (parameter.name,)
            if parameter.default is parameter.empty:
                fields.append((parameter.name, annotation))
            else:
                self._optional = True
                fields.append(
                    (parameter.name, annotation | msgspec.UnsetType if _can_or(annotation) else Any, msgspec.UNSET)
                )
        self.result = hints.get("return", Any)
        self._fields = tuple(name for name, *_ in fields)
        untyped = all(annotation is Any for _, annotation, *_ in fields)
        self._untyped = frozenset(self._fields) if untyped and not self._optional and not self._keywords else None
        # A method that takes **keywords decodes to a dict, and only its named arguments are converted.
        self._struct = msgspec.defstruct(
            "Arguments", fields, kw_only=True, forbid_unknown_fields=not self._keywords, gc=False
        )
        self._decoder = msgspec.msgpack.Decoder(self._struct)

    def decode(self, raw: msgspec.Raw) -> dict[str, Any]:
        """Decode the arguments of a request. Raises BadArguments, naming the one that does not fit."""
        try:
            if self._untyped is not None:
                plain = _decode_plain(raw)
                if type(plain) is dict and plain.keys() == self._untyped:
                    return plain
                # Something is wrong with the names; the other way says what.
            arguments: dict[str, Any] = _as_dict(self._decoder.decode(raw))
            if self._optional:
                arguments = _given(arguments)
            return {**msgspec.msgpack.decode(raw), **arguments} if self._keywords else arguments
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise self._misfit(error) from error

    def convert(self, plain: dict[str, Any]) -> dict[str, Any]:
        """The same for arguments that came as text and are plain values already, where all keys are strings."""
        if plain.keys() == self._untyped:
            return plain
        try:
            arguments = _given(_as_dict(msgspec.convert(plain, self._struct, str_keys=True)))
            return {**plain, **arguments} if self._keywords else arguments
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._misfit(error) from error

    def _misfit(self, error: Exception) -> BadArguments:
        takes = ", ".join(self._fields) or "none"
        return BadArguments(f"{_plain(error)}; the method takes: {takes}{' and any other' if self._keywords else ''}")


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the caller left to its default."""
    return {name: value for name, value in arguments.items() if value is not msgspec.UNSET}


def _can_or(annotation: Any) -> bool:
    try:
        _ = annotation | msgspec.UnsetType
    except TypeError:
        return False
    return annotation is not Any


def _plain(error: BaseException) -> str:
    """A message of msgspec in the words of a caller."""
    text = str(error)
    for found, said in (
        ("Object contains unknown field", "unknown argument"),
        ("Object missing required field", "missing argument"),
        (" - at `$.", " - in argument `"),
    ):
        text = text.replace(found, said)
    return text


class Method:
    """An exposed method of an endpoint, with everything that is known before the first request."""

    __slots__ = (
        "decode",
        "delivery",
        "function",
        "is_async",
        "name",
        "namespace",
        "raises",
        "serializer",
        "signature",
        "version",
    )

    def __init__(self, endpoint: Any, name: str, target: Target, serializer: Serializer | None) -> None:
        self.name = name
        self.namespace = target.namespace
        self.version = target.version or DEFAULT_VERSION
        self.function: Callable[..., Any] = getattr(endpoint, name)
        self.is_async = inspect.iscoroutinefunction(self.function)
        exposure = exposure_of(self.function) or Exposure()
        self.raises = exposure.raises
        self.delivery = exposure.delivery
        self.serializer = serializer
        self.signature = Signature(self.function, f"{type(endpoint).__name__}.{name}")
        self.decode = self.signature.decode if serializer is None else None
        """The short way of `arguments` for those that are encoded, where there is one."""

    def arguments(self, raw: msgspec.Raw | dict[str, Any], context: Any) -> dict[str, Any]:
        """Return the keyword arguments for the function. Raises BadArguments."""
        if self.serializer is None:
            return self.signature.convert(raw) if isinstance(raw, dict) else self.signature.decode(raw)
        try:
            values = raw if isinstance(raw, dict) else msgspec.msgpack.decode(raw)
        except msgspec.DecodeError as error:
            raise BadArguments(str(error)) from error
        if not isinstance(values, dict):
            raise BadArguments(f"arguments must be a map, not {type(values).__name__}")
        return {name: self.serializer.deserialize_entity(context, value) for name, value in values.items()}


class Dispatcher:
    """All endpoints of a server. Immutable after construction, thread-safe.

    Endpoints are asked in the order of their list; the first one whose namespace and version fit and that has the
    method, exposed, serves the request. Raises ConfigError for an endpoint whose `target` is no Target or that exposes
    nothing.
    """

    def __init__(
        self, endpoints: Sequence[Any], access: AccessPolicy = EXPOSED, serializer: Serializer | None = None
    ) -> None:
        if isinstance(endpoints, str) or not isinstance(endpoints, Sequence):
            raise ConfigError("endpoints must be a list of objects")
        self._endpoints: list[tuple[Any, Target]] = []
        self._methods: dict[tuple[int, str], Method] = {}
        self.known: dict[tuple[str | None, str | None, str], Method] = {}
        """What `find` has found, by its arguments."""
        for position, endpoint in enumerate(endpoints):
            target = getattr(endpoint, "target", None)
            if target is None:
                target = Target()
            if not isinstance(target, Target):
                raise ConfigError(f"{type(endpoint).__name__}.target must be a messaging.Target, not {target!r}")
            self._endpoints.append((endpoint, target))
            for name in _method_names(endpoint):
                if access(endpoint, name):
                    self._methods[position, name] = Method(endpoint, name, target, serializer)
            if not any(key[0] == position for key in self._methods):
                raise ConfigError(
                    f"endpoint {type(endpoint).__name__} exposes no method; mark those for callers with @rpc.expose, "
                    "or pass access=rpc.PUBLIC_METHODS"
                )

    @property
    def methods(self) -> list[Method]:
        """Every exposed method, in the order of the endpoints."""
        return list(self._methods.values())

    def find(self, namespace: str | None, version: str | None, name: str) -> Method:
        """Return the method that serves a request. Raises MethodNotFound, UnsupportedVersion or AccessDenied."""
        key = (namespace, version, name)
        found = self.known.get(key)
        if found is None:
            found = self._search(namespace, version or DEFAULT_VERSION, name)
            # Only what was found is remembered: callers choose the names, so misses would be without bound. Versions
            # are bounded by 1,000.
            if len(self.known) < 1_000:
                self.known[key] = found
        return found

    def _search(self, namespace: str | None, version: str, name: str) -> Method:
        in_namespace = [
            (position, endpoint, target)
            for position, (endpoint, target) in enumerate(self._endpoints)
            if namespace in target.accepted_namespaces
        ]
        if not in_namespace:
            offered = sorted({str(space) for _, target in self._endpoints for space in target.accepted_namespaces})
            raise MethodNotFound(f"no endpoint serves namespace {namespace!r}; namespaces here: {', '.join(offered)}")
        try:
            fitting = [item for item in in_namespace if version_compatible(item[2].version or DEFAULT_VERSION, version)]
        except ValueError as error:
            raise UnsupportedVersion(f"malformed version {version!r}") from error
        if not fitting:
            offered = sorted({target.version or DEFAULT_VERSION for _, _, target in in_namespace})
            raise UnsupportedVersion(
                f"version {version} of {namespace or 'the default namespace'} is not served here; "
                f"versions here: {', '.join(offered)}"
            )
        for position, _endpoint, _target in fitting:
            method = self._methods.get((position, name))
            if method is not None:
                return method
        if not name.startswith("_") and any(name in _method_names(endpoint) for _, endpoint, _ in fitting):
            raise AccessDenied(
                f"method {name!r} exists, but is not exposed; its service has to mark it with @rpc.expose"
            )
        known = sorted({known for position, _, _ in fitting for at, known in self._methods if at == position})
        raise MethodNotFound(f"no method {name!r} in {namespace or 'the default namespace'}{nearest(name, known)}")


def _method_names(endpoint: Any) -> list[str]:
    names = []
    for name in dir(endpoint):
        # Looked up on the class first, so that a property is not run by being looked at.
        static = inspect.getattr_static(endpoint, name, None)
        if isinstance(static, property) or (name.startswith("__") and name.endswith("__")):
            continue
        member = getattr(endpoint, name, None)
        if inspect.isroutine(member):
            names.append(name)
    return names
