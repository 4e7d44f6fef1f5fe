"""Exceptions as the predecessor tells them: a JSON text inside the message, of class, module, arguments and traceback.

    {"class": "ValueError", "module": "builtins", "message": "...", "tb": ["...", ...], "args": [...], "kwargs": {}}

Its clients rebuild what they allow by module; ours what they declare by class, and import nothing. Statements about the
request (no such method, no such version) are exceptions of the predecessor's own there, and error classes here.
"""

from __future__ import annotations

from typing import Any

from messaging.errors import EncodeError
from messaging.wire.native import VERSION, Failure, Kind
from messaging.wire.oslo.text import dumps, loads

__all__ = ["RemoteFailure", "failure_from_text", "failure_to_text"]

_DISPATCHER = "oslo_messaging.rpc.dispatcher"
_OURS = "messaging.errors"
_NAMES: dict[str, tuple[str, str]] = {
    "method_not_found": ("NoSuchMethod", _DISPATCHER),
    "access_denied": ("NoSuchMethod", _DISPATCHER),
    "unsupported_version": ("UnsupportedVersion", _DISPATCHER),
    "bad_arguments": ("TypeError", "builtins"),
    "rejected": ("Rejected", _OURS),
    "in_doubt": ("InDoubt", _OURS),
    "decode": ("DecodeError", _OURS),
    "encode": ("EncodeError", _OURS),
    "too_large": ("TooLarge", _OURS),
}
"""As which class a code travels."""
_CODES = {name: code for code, name in reversed(_NAMES.items()) if code != "bad_arguments"}
_REBUILT = "_Remote"
"""What the predecessor's clients add to class and module of an exception that they rebuild."""


class RemoteFailure(Failure, frozen=True, gc=False):
    """A failure with the keyword arguments of the exception, which this format has besides."""

    kwargs: Any = None


def failure_to_text(failure: Failure, error: BaseException | None) -> str:
    """Write a failure; `error` is what it was made of, where there is one. Never raises: what has no JSON form is left
    out.
    """
    name, module = _NAMES.get(failure.code) or _name_of(failure, error)
    args: Any = list(error.args) if error is not None and failure.code == "remote" else failure.args
    kwargs: Any = getattr(error, "kwargs", None) if failure.code == "remote" else None
    told = {
        "class": name,
        "module": module,
        "message": failure.text,
        "tb": failure.trace.splitlines(keepends=True),
        "args": [failure.text] if args is None else args,
        "kwargs": kwargs if isinstance(kwargs, dict) else {},
    }
    try:
        return dumps(told)
    except EncodeError:
        return dumps({**told, "args": [failure.text], "kwargs": {}})


def _name_of(failure: Failure, error: BaseException | None) -> tuple[str, str]:
    if error is None:
        module, _, name = failure.type.rpartition(".")
    else:
        module, name = type(error).__module__, type(error).__name__
    if name.endswith(_REBUILT) and module.endswith(_REBUILT):
        return name.removesuffix(_REBUILT), module.removesuffix(_REBUILT)
    return name, module


def failure_from_text(text: str) -> RemoteFailure:
    """Read a failure. Raises DecodeError; what is missing in it is empty."""
    told = loads(text)
    if not isinstance(told, dict):
        told = {"message": str(told)}
    name, module = _text(told, "class"), _text(told, "module")
    if module == "exceptions":
        # Where Python 2 kept its own.
        module = "builtins"
    trace = told.get("tb")
    args, kwargs = told.get("args"), told.get("kwargs")
    return RemoteFailure(
        VERSION,
        Kind.FAILURE,
        0,
        _CODES.get((name, module), "remote"),
        f"{module}.{name}",
        _text(told, "message"),
        "".join(map(str, trace)) if isinstance(trace, list) else "",
        args if isinstance(args, list) else None,
        kwargs=kwargs if isinstance(kwargs, dict) else None,
    )


def _text(told: dict[str, Any], key: str) -> str:
    value = told.get(key)
    return value if isinstance(value, str) else "" if value is None else str(value)
