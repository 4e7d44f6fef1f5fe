"""Requests, answers and signs of life of RPC, in the predecessor's form.

    {"method": ..., "args": {...}, "namespace": ..., "version": ...,      namespace and version only where there is one
     "_msg_id": ..., "_reply_q": ..., "_timeout": ...,                    a call alone
     "_unique_id": ..., "_context_KEY": ..., ...}
    {"result": ..., "failure": null, "ending": true, "_msg_id": ..., "_unique_id": ...}

The ids and the address for the answer stand inside of the message, and are known later than its arguments: the address
only when it is written. So a request is encoded with marks in their places, bytes that no JSON text holds, and `stamp`
puts them in.
"""

from __future__ import annotations

import uuid
from typing import Any

from messaging.errors import DecodeError, EncodeError
from messaging.wire.native import VERSION, Alive, Failure, Kind, Request, RequestBody, Result
from messaging.wire.oslo.failures import failure_from_text, failure_to_text
from messaging.wire.oslo.text import dumps, enveloped, quoted

__all__ = [
    "MESSAGE_MARK",
    "REPLY_MARK",
    "UNIQUE_MARK",
    "alive",
    "alive_from",
    "answer",
    "answer_from",
    "is_alive",
    "new_id",
    "request",
    "request_from",
]

MESSAGE_MARK = b"\x00"
REPLY_MARK = b"\x01"
UNIQUE_MARK = b"\x02"
_CALL = quoted(', "_msg_id": "') + "\x00" + quoted('", "_reply_q": "') + "\x01" + quoted('", "_timeout": ')
_UNIQUE = quoted(', "_unique_id": "') + "\x02" + quoted('"')
CONTEXT = "_context_"


def new_id() -> str:
    """A message id, or a unique id."""
    return uuid.uuid4().hex


def request(body: RequestBody) -> bytes:
    """Write a call or a cast with marks in the places of its ids. Raises EncodeError, naming the argument."""
    message: dict[str, Any] = {"method": body.method, "args": body.args}
    if body.namespace is not None:
        message["namespace"] = body.namespace
    if body.interface is not None:
        message["version"] = body.interface
    try:
        head = quoted(dumps(message)[:-1])
        context = context_members(body.context)
    except EncodeError as error:
        raise EncodeError(f"{body.method}: {_explained(body, error)}") from error
    if body.kind == Kind.CALL:
        head = f"{head}{_CALL}{_timeout(body.monitor)}"
    return enveloped(f"{head}{_UNIQUE}{context}}}")


def context_members(context: dict[str, Any]) -> str:
    """The members of a context, quoted, each behind a comma. Raises EncodeError."""
    if not context:
        return ""
    return quoted(", " + dumps({f"{CONTEXT}{key}": value for key, value in context.items()})[1:-1])


def _timeout(monitor: float) -> str:
    if not monitor:
        return "null"
    return str(int(monitor)) if monitor == int(monitor) else repr(monitor)


def _explained(body: RequestBody, error: EncodeError) -> str:
    for name, value in {**body.args, "ctxt": body.context}.items():
        try:
            dumps(value)
        except EncodeError as found:
            return f"argument {name!r} of type {type(value).__name__}: {found}"
    return str(error)


def request_from(message: dict[str, Any]) -> Request:
    """Read a call or a cast. Raises DecodeError."""
    method, args = message.get("method"), message.get("args")
    if not isinstance(method, str):
        raise DecodeError("a request without the name of a method")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise DecodeError(f"the arguments of {method} are no JSON object")
    namespace, version = message.get("namespace"), message.get("version")
    plain: Any = args
    return Request(
        VERSION,
        Kind.CALL if message.get("_msg_id") else Kind.CAST,
        0,
        method,
        namespace if namespace is None else str(namespace),
        version if version is None else str(version),
        context_of(message),
        plain,
        _interval(message.get("_timeout")),
    )


def context_of(message: dict[str, Any]) -> dict[str, Any]:
    """The context that stands in a message, member by member."""
    start = len(CONTEXT)
    return {key[start:]: value for key, value in message.items() if key.startswith(CONTEXT)}


def _interval(timeout: object) -> float:
    """Signs of life go at twice the rate that the caller needs; a caller of a second or less gets none there either."""
    if isinstance(timeout, int | float) and timeout >= 2:
        return min(float(timeout), 86_400.0) / 2
    return 0.0


def answer(reply: Result | Failure, message_id: str, error: BaseException | None) -> bytes:
    """Write the answer to the call of that id. Raises EncodeError for a result without a JSON form."""
    if isinstance(reply, Failure):
        return _reply(None, failure_to_text(reply, error), True, message_id)
    return _reply(reply.value, None, True, message_id)


def alive(message_id: str) -> bytes:
    """Write that a call is still running."""
    return _reply(None, None, False, message_id)


def _reply(result: Any, failure: str | None, ending: bool, message_id: str) -> bytes:
    message = {
        "result": result,
        "failure": failure,
        "ending": ending,
        "_msg_id": message_id,
        "_unique_id": new_id(),
    }
    return enveloped(quoted(dumps(message)))


def is_alive(message: dict[str, Any]) -> bool:
    """Whether what came to a reply queue only says that a call is still running."""
    return not message.get("ending") and message.get("result") is None and not message.get("failure")


def alive_from(message: dict[str, Any]) -> Alive:
    """Read a sign of life."""
    return Alive(VERSION, Kind.ALIVE, 0, [str(message.get("_msg_id", ""))])


def answer_from(message: dict[str, Any]) -> Result | Failure:
    """Read an answer. Raises DecodeError."""
    failure = message.get("failure")
    if failure:
        return failure_from_text(failure if isinstance(failure, str) else dumps(failure))
    return Result(VERSION, Kind.RESULT, 0, message.get("result"))
