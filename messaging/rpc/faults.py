"""Exceptions across the wire: what a server tells of one, and what a caller makes of it.

A remote exception is rebuilt as its own class only where this side has declared the class; anything else becomes
RemoteError with the class name, the text and the traceback as data. Nothing is imported by name and nothing is
unpickled, so a server cannot make a client run code.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from messaging import errors
from messaging.codec import encode_any
from messaging.errors import Delivered, EncodeError, MessagingError, RemoteError
from messaging.wire import native

__all__ = ["CODES", "declared_exceptions", "failure_from", "full_name", "rebuild"]

CODES: dict[str, type[MessagingError]] = {
    "remote": RemoteError,
    "method_not_found": errors.MethodNotFound,
    "unsupported_version": errors.UnsupportedVersion,
    "access_denied": errors.AccessDenied,
    "bad_arguments": errors.BadArguments,
    "rejected": errors.Rejected,
    "in_doubt": errors.Rejected,
    "decode": errors.DecodeError,
    "encode": errors.EncodeError,
    "too_large": errors.TooLarge,
}
"""What the code of a failure means to a caller."""

_DELIVERED = {
    "in_doubt": Delivered.MAYBE,
    "decode": Delivered.NO,
    "encode": Delivered.YES,
    "too_large": Delivered.YES,
}
"""What a code says of the handler, where the error's class says something else by default: "decode" is about the
request, "encode" and "too_large" are about the result."""

_CODE_OF: tuple[tuple[type[BaseException], str], ...] = (
    (errors.MethodNotFound, "method_not_found"),
    (errors.UnsupportedVersion, "unsupported_version"),
    (errors.AccessDenied, "access_denied"),
    (errors.BadArguments, "bad_arguments"),
)


def full_name(kind: type[BaseException]) -> str:
    """The name of a class as it goes over the wire."""
    return f"{kind.__module__}.{kind.__qualname__}"


def declared_exceptions(classes: Iterable[type[BaseException]]) -> dict[str, type[BaseException]]:
    """Index classes by their full names and, where only one has it, by their bare names.

    The bare name is for services run as scripts, whose classes are in `__main__` there and in a module here.
    """
    index: dict[str, type[BaseException]] = {}
    bare: dict[str, list[type[BaseException]]] = {}
    for kind in classes:
        index[full_name(kind)] = kind
        bare.setdefault(kind.__qualname__, []).append(kind)
    for name, kinds in bare.items():
        if len(set(kinds)) == 1:
            index.setdefault(name, kinds[0])
    return index


def failure_from(
    error: BaseException,
    *,
    declared: tuple[type[BaseException], ...] = (),
    code: str = "",
    server: str = "",
    with_trace: bool = True,
) -> native.Failure:
    """Make the body that tells a caller of an exception. Never raises: an exception whose parts cannot be written is
    told by its text.
    """
    known = next((kind for kind in declared if isinstance(error, kind)), None)
    if not code:
        code = next((name for kind, name in _CODE_OF if type(error) is kind), "remote")
    try:
        text = str(error)
    except Exception as broken:  # a __str__ that raises must not cost the caller its answer
        text = f"<its text cannot be made: {type(broken).__name__}>"
    args: Any = None
    if known is not None:
        try:
            encode_any(error.args)
            args = list(error.args)
        except EncodeError:
            args = None
    trace = ""
    if with_trace and known is None and code == "remote":
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return native.Failure(
        native.VERSION,
        native.Kind.FAILURE,
        0,
        code,
        full_name(type(error)),
        text,
        trace,
        args,
        server,
        full_name(known) if known is not None else "",
    )


def rebuild(failure: native.Failure, declared: Mapping[str, type[BaseException]]) -> BaseException:
    """Make the exception that a caller gets. A declared one is of its own class, with a RemoteError as its cause."""
    kind = CODES.get(failure.code, RemoteError)
    if kind is not RemoteError:
        if issubclass(kind, RemoteError):
            return kind(failure.text, type=failure.type, text=failure.text, trace=failure.trace, server=failure.server)
        return kind(failure.text, delivered=_DELIVERED.get(failure.code))
    remote = RemoteError(type=failure.type, text=failure.text, trace=failure.trace, server=failure.server)
    for name in (failure.type, failure.declared):
        found = (declared.get(name) or declared.get(name.rpartition(".")[2])) if name else None
        if found is not None:
            return _instance(found, failure, remote)
    return remote


def _instance(kind: type[BaseException], failure: native.Failure, cause: RemoteError) -> BaseException:
    args = failure.args if isinstance(failure.args, list) else [failure.text]
    try:
        # The predecessor's failures have keyword arguments besides.
        error = kind(*args, **(getattr(failure, "kwargs", None) or {}))
    except Exception:
        # Its constructor wants something else than its args; the class is what callers catch.
        error = kind.__new__(kind)
        error.args = tuple(args)
    error.__cause__ = cause
    return error
