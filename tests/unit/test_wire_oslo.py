"""The bytes of the predecessor's format: what the real package wrote is read and written again byte by byte, values
make the round trip, and nothing that a stranger writes does more than raise DecodeError.

`golden_oslo.json` was captured from the real package; `tests/interop/golden.py` does it anew.
"""

from __future__ import annotations

import bz2
import dataclasses
import datetime
import decimal
import enum
import gzip
import ipaddress
import json
import uuid
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import BadArguments, DecodeError, EncodeError, MessagingError
from messaging.message import CORRELATION_ID, MESSAGE_ID, TRACEPARENT, Delivery, Outgoing, Route, Source
from messaging.rpc.faults import CODES, failure_from, rebuild
from messaging.wire.native import LEVEL_HEADER, Failure, Kind, Level, Notification, RequestBody, Result
from messaging.wire.oslo import OsloWire
from messaging.wire.oslo.failures import failure_from_text, failure_to_text
from messaging.wire.oslo.text import dumps, opened
from tests.faults.mutation import mutations

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden_oslo.json").read_text())
LEVELS = ("audit", "debug", "info", "warn", "error", "critical", "sample")
VALUES: dict[str, Any] = {
    "text": 'schön "so" \\ \n 漢 \U0001f600',
    "number": 2**70,
    "float": 0.1,
    "none": None,
    "flag": True,
    "list": [1, [2, {"x": []}]],
    "moment": datetime.datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - naive, as the capture has it
    "day": datetime.date(2026, 1, 2),
    "uuid": uuid.UUID(int=7),
    "money": decimal.Decimal("1.50"),
    "keys": {1: "one", "two": 2},
}
"""What the capture sends."""
WIRE = OsloWire()


def body_of(name: str) -> bytes:
    """A captured body."""
    return bytes(GOLDEN[name]["body"], "utf-8")


def inner(body: bytes) -> dict[str, Any]:
    """The message inside of an envelope."""
    found: dict[str, Any] = json.loads(json.loads(body)["oslo.message"])
    return found


def sealed(body: bytes, message_id: str, *, call: bool = False) -> Outgoing:
    """A message as it is when its ids are in it."""
    outgoing = Outgoing(Route.any("x", "t"), body, {MESSAGE_ID: message_id}, reply_to=call)
    WIRE.seal(outgoing)
    return outgoing


def with_ids_of(name: str, body: bytes, wire: OsloWire = WIRE) -> bytes:
    """A body of ours with the ids of a captured one."""
    captured = opened(body_of(name))
    outgoing = Outgoing(
        Route.any("x", "t"),
        body,
        {MESSAGE_ID: captured.get("_msg_id", captured.get("message_id", ""))},
        reply_to="_reply_q" in captured,
    )
    wire.seal(outgoing)
    written = outgoing.body if outgoing.encode is None else outgoing.encode(captured["_reply_q"], 20.0)
    return written.replace(opened(written).get("_unique_id", "none").encode(), captured.get("_unique_id", "").encode())


def delivered(body: bytes, contents: Any, headers: dict[str, Any] | None = None) -> Delivery:
    """A delivery that was looked into. Raises DecodeError where it cannot be read."""
    opener = WIRE.opener(contents)
    readable, unreadable = opener([Delivery(Source.reply(), body, dict(headers or {}))])
    if unreadable:
        raise DecodeError("unreadable")
    return readable[0]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("call", ("reserve", "inventory", "1.3", {"user": "bob", "roles": ["a"]}, VALUES, 0.0)),
        ("call_refused", ("refuse", "inventory", "1.3", {}, {}, 0.0)),
        ("call_newer", ("reserve", "inventory", "2.0", {}, {}, 0.0)),
        ("call_monitored", ("slow", "inventory", "1.3", {}, {}, 2.0)),
        ("cast", ("reserve", None, None, {"user": "bob"}, {"count": 1}, 0.0)),
        ("cast_direct", ("reserve", "inventory", "1.3", {}, {}, 0.0)),
        ("fanout", ("reserve", "inventory", "1.3", {}, {}, 0.0)),
    ],
)
def test_requests_are_byte_for_byte_those_of_the_real_package(name: str, body: tuple[Any, ...]) -> None:
    """What a client of ours writes is what the predecessor's wrote, and is read back as it was meant."""
    method, namespace, version, context, args, monitor = body
    kind = Kind.CALL if name.startswith("call") else Kind.CAST
    ours = WIRE.encode_request(
        RequestBody(1, kind, 0, method, namespace, version, context, args, WIRE.interval(monitor))
    )
    assert with_ids_of(name, ours) == body_of(name)
    read = WIRE.decode_request(body_of(name))
    assert (read.kind, read.method, read.namespace, read.interface) == (kind, method, namespace, version)
    assert read.context == context
    assert read.monitor == monitor / 2
    assert read.args == json.loads(dumps(args))


@pytest.mark.parametrize("name", ["result", "result_late"])
def test_results_are_byte_for_byte_those_of_the_real_package(name: str) -> None:
    """The answer of a server of ours is what the predecessor's wrote."""
    message = inner(body_of(name))
    request = dumps({"_msg_id": message["_msg_id"]}).encode()
    ours = WIRE.encode_answer(Result(1, Kind.RESULT, 0, message["result"], "host"), request)
    assert ours.replace(inner(ours)["_unique_id"].encode(), message["_unique_id"].encode()) == body_of(name)
    assert WIRE.kind_of(body_of(name)) == Kind.RESULT
    read = WIRE.decode_reply(body_of(name))
    assert isinstance(read, Result)
    assert read.value == message["result"]


def test_failures_are_byte_for_byte_those_of_the_real_package() -> None:
    """An exception of a handler of ours is told as the predecessor's server told it."""
    message = inner(body_of("failure"))
    error = KeyError("A1", 2)
    failure = failure_from(error, with_trace=False)
    ours = WIRE.encode_answer(failure, dumps({"_msg_id": message["_msg_id"]}).encode(), error)
    assert ours.replace(inner(ours)["_unique_id"].encode(), message["_unique_id"].encode()) == body_of("failure")
    assert WIRE.kind_of(body_of("failure")) == Kind.FAILURE
    read = WIRE.decode_reply(body_of("failure"))
    assert isinstance(read, Failure)
    assert (read.code, read.type, read.args) == ("remote", "builtins.KeyError", ["A1", 2])


def test_signs_of_life_are_byte_for_byte_those_of_the_real_package() -> None:
    """One message for each call, which is no answer."""
    message = inner(body_of("alive"))
    (ours,) = WIRE.encode_alive([message["_msg_id"]], "host")
    assert ours.replace(inner(ours)["_unique_id"].encode(), message["_unique_id"].encode()) == body_of("alive")
    assert WIRE.kind_of(body_of("alive")) == Kind.ALIVE
    assert WIRE.decode_control(body_of("alive")).ids == [message["_msg_id"]]


def test_the_refusals_of_the_real_package_are_the_errors_they_mean() -> None:
    """No such method and no such version are classes of ours, and travel as the predecessor's."""
    for name, code in (("no_method", "method_not_found"), ("no_version", "unsupported_version")):
        read = WIRE.decode_reply(body_of(name))
        assert isinstance(read, Failure)
        assert read.code == code
        told = json.loads(inner(body_of(name))["failure"])
        ours = json.loads(failure_to_text(failure_from(CODES[code](told["message"])), None))
        assert ours == told


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["messagingv2", "messaging"])
def test_notifications_are_byte_for_byte_those_of_the_real_package(form: str, level: Level) -> None:
    """Both forms, with an envelope and without, at every level."""
    name = f"{form}_{level}"
    wire = OsloWire(notification_format=form)
    payload: Any = VALUES if level == "info" else {"id": 12}
    context = {"user": "bob", "roles": ["a"]} if level == "info" else {}
    moment = datetime.datetime(2026, 5, 13, 12, 53, 0, 123456, datetime.UTC).timestamp()
    ours = wire.encode_notification(
        Notification(1, Kind.NOTIFICATION, 0, "compute.create", "compute.host1", level, moment, context, payload)
    )
    assert with_ids_of(name, ours, wire) == body_of(name)
    assert GOLDEN[name]["routing_key"] == wire.topic("notifications", level)
    delivery = delivered(body_of(name), "notifications")
    assert delivery.headers[LEVEL_HEADER] == level
    assert delivery.headers[MESSAGE_ID] == opened(body_of(name))["message_id"]
    read = wire.decode_notification(delivery.body)
    assert (read.event_type, read.publisher_id, read.level) == ("compute.create", "compute.host1", level)
    assert read.timestamp == pytest.approx(moment, abs=1e-6)
    assert read.context == context
    tagged = form == "messaging" and level == "info"
    assert read.payload == ({**VALUES, "keys": {"1": "one", "two": 2}} if tagged else json.loads(dumps(payload)))


def test_notifications_on_kafka_are_byte_for_byte_those_of_the_real_package() -> None:
    """There the context is one member and there is no unique id."""
    wire = OsloWire(context_inside=True)
    moment = datetime.datetime(2026, 5, 13, 12, 53, 0, 123456, datetime.UTC).timestamp()
    ours = wire.encode_notification(
        Notification(
            1, Kind.NOTIFICATION, 0, "compute.create", "compute.host1", "info", moment, {"user": "bob"}, {"id": 12}
        )
    )
    assert with_ids_of("kafka", ours, wire) == body_of("kafka")
    assert wire.decode_notification(body_of("kafka")).context == {"user": "bob"}


def test_an_older_answer_comes_in_two_messages() -> None:
    """The result, and then its end; whatever stands between belongs to other calls."""
    opener = WIRE.opener("answers")

    def comes(**message: Any) -> list[Delivery]:
        readable, unreadable = opener([Delivery(Source.reply(), dumps(message).encode(), {})])
        assert not unreadable
        return list(readable)

    assert comes(_msg_id="a", result={"x": 1}, failure=None, ending=False) == []
    (other,) = comes(_msg_id="b", result=2, failure=None, ending=True)
    assert WIRE.decode_reply(other.body) == Result(1, Kind.RESULT, 0, 2)
    (whole,) = comes(_msg_id="a", result=None, failure=None, ending=True)
    assert whole.headers[CORRELATION_ID] == "a"
    assert WIRE.decode_reply(whole.body) == Result(1, Kind.RESULT, 0, {"x": 1})
    failure = failure_to_text(failure_from(ValueError("no")), None)
    assert comes(_msg_id="c", result=None, failure=failure, ending=False) == []
    (failed,) = comes(_msg_id="c", ending=True)
    assert WIRE.kind_of(failed.body) == Kind.FAILURE


def test_requests_are_opened_for_the_patterns() -> None:
    """The ids and the address for the answer stand where a server looks for them; a trace comes out of the context."""
    call = delivered(body_of("call"), "requests")
    assert call.reply_to.startswith("reply_")
    assert call.headers[MESSAGE_ID] == inner(body_of("call"))["_msg_id"]
    cast = delivered(body_of("cast"), "requests")
    assert cast.reply_to == ""
    assert cast.headers[MESSAGE_ID] == WIRE.unique_id(cast.body) == inner(body_of("cast"))["_unique_id"]
    traced = dumps({"method": "m", "_context_traceparent": "00-1-2-01"}).encode()
    assert delivered(traced, "requests").headers[TRACEPARENT] == "00-1-2-01"
    on_kafka = dumps({"event_type": "e", "priority": "INFO", "_context": {"traceparent": "00-1-2-02"}}).encode()
    assert delivered(on_kafka, "notifications").headers[TRACEPARENT] == "00-1-2-02"
    nameless = delivered(dumps({"method": "m"}).encode(), "requests", {MESSAGE_ID: "7"})
    assert MESSAGE_ID not in nameless.headers


@pytest.mark.parametrize(
    ("compression", "compress"),
    [("application/x-gzip", zlib.compress), ("application/x-bz2", bz2.compress)],
)
def test_compressed_bodies_are_read(compression: str, compress: Any) -> None:
    """As the predecessor writes them with kombu_compression."""
    body = compress(body_of("cast"))
    assert WIRE.decode_request(delivered(body, "requests", {"compression": compression}).body).method == "reserve"
    for broken in (body[:-3], b"", gzip.compress(b"x"), body_of("cast")):
        with pytest.raises(DecodeError):
            delivered(broken, "requests", {"compression": compression})
    with pytest.raises(DecodeError):
        delivered(body, "requests", {"compression": "application/x-other"})


def test_a_few_bytes_cannot_ask_for_all_memory() -> None:
    """A body that grows beyond what a broker carries is refused while it grows."""
    bomb = zlib.compress(b'"' + b"a" * 2**28)
    with pytest.raises(DecodeError, match="larger than"):
        opened(bomb, "application/x-gzip")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"oslo.version": "3.0", "oslo.message": "{}"}',
        b'{"oslo.version": "2.1", "oslo.message": "{}"}',
        b'{"oslo.version": "2.0", "oslo.message": "[]"}',
        b'{"oslo.version": "2.0", "oslo.message": {}}',
        b'{"oslo.version": "2.0", "oslo.message": "{"}',
        b'{"a": {"__type__": "pickle", "__value__": "x"}}',
        b'{"a": {"__type__": [], "__value__": "x"}}',
        b'{"a": {"__type__": "uuid", "__value__": {"hex": 7}}}',
        b'{"a": {"__type__": "decimal", "__value__": "x"}}',
        b'{"n": 1' + b"1" * 5_000 + b"}",
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    """One error for everything, whichever end reads it."""
    for contents in ("requests", "answers", "notifications"):
        with pytest.raises(DecodeError):
            delivered(body, contents)


def test_mutated_messages_raise_nothing_else() -> None:
    """Whatever stands in a body, reading it gives a value or DecodeError."""
    samples = [body_of(name) for name in ("call", "failure", "messaging_info", "alive")]
    for body in mutations(samples, 3_000, seed=4):
        for contents, read in (
            ("requests", WIRE.decode_request),
            ("answers", WIRE.decode_reply),
            ("notifications", WIRE.decode_notification),
        ):
            opener: Any = WIRE.opener(contents)  # type: ignore[arg-type]
            for delivery in opener([Delivery(Source.reply(), body, {})]).readable:
                try:
                    read(delivery.body)
                except DecodeError:
                    pass


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)
NAMES = st.text(min_size=1)


@given(NAMES, st.none() | NAMES, st.dictionaries(NAMES, PLAIN, max_size=3), st.dictionaries(NAMES, PLAIN, max_size=3))
def test_requests_make_the_round_trip(
    method: str, namespace: str | None, context: dict[str, Any], args: dict[str, Any]
) -> None:
    """Whatever characters stand in names and values, the marks of the ids are not mistaken."""
    body = RequestBody(1, Kind.CALL, 0, method, namespace, "1.0", context, args, 0.0)
    outgoing = sealed(WIRE.encode_request(body), "message-1", call=True)
    assert outgoing.encode is not None
    written = outgoing.encode("reply_1", None)
    assert inner(written)["_msg_id"] == "message-1"
    assert inner(written)["_reply_q"] == "reply_1"
    assert len(inner(written)["_unique_id"]) == 32
    assert inner(outgoing.encode("reply_1", None))["_unique_id"] != inner(written)["_unique_id"]
    read = WIRE.decode_request(written)
    assert (read.method, read.namespace, read.context) == (method, namespace, context)
    plain: Any = read.args
    assert plain == args


@given(st.sampled_from(["messagingv2", "messaging", "kafka"]), st.text(), NAMES, st.dictionaries(NAMES, PLAIN), PLAIN)
def test_notifications_make_the_round_trip(
    form: str, message_id: str, event_type: str, context: dict[str, Any], payload: Any
) -> None:
    """In each form, whatever stands in the id, which may have come from elsewhere."""
    wire = OsloWire(notification_format=form, context_inside=form == "kafka")
    body = Notification(1, Kind.NOTIFICATION, 0, event_type, "p", "warn", 1_700_000_000.25, context, payload)
    outgoing = Outgoing(Route.pools("x", "t"), wire.encode_notification(body), {MESSAGE_ID: message_id})
    wire.seal(outgoing)
    delivery = delivered(outgoing.body, "notifications")
    assert delivery.headers[MESSAGE_ID] == message_id
    if not _has_tags(payload) and not _has_tags(context):
        assert wire.decode_notification(delivery.body) == body


def _has_tags(value: Any) -> bool:
    return "__type__" in json.dumps(value)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    sku: str
    due: datetime.datetime
    colours: frozenset[Colour]


def test_values_without_a_json_form_are_written_as_plain_ones() -> None:
    """Dataclasses, structs, enums, sets, bytes and addresses; and a moment keeps its zone."""
    zone = datetime.timezone(datetime.timedelta(hours=2))
    order = Order("A1", VALUES["moment"], frozenset({Colour.RED}))
    written = dumps(
        {
            "order": order,
            "struct": msgspec.defstruct("S", [("a", int)])(1),
            "bytes": b"text",
            "zoned": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone),
            "address": ipaddress.ip_address("::1"),
            "tuple": (1, 2),
            "error": ValueError("no"),
            "time": datetime.time(1, 2),
        }
    )
    assert json.loads(written) == {
        "order": {"sku": "A1", "due": "2026-01-02T03:04:05.000000", "colours": ["red"]},
        "struct": {"a": 1},
        "bytes": "text",
        "zoned": "2026-01-02T03:04:05.000000+02:00",
        "address": "::1",
        "tuple": [1, 2],
        "error": "ValueError('no')",
        "time": "01:02:00",
    }


@pytest.mark.parametrize("value", [object(), b"\xff", {(1, 2): 3}, float], ids=["object", "bytes", "key", "class"])
def test_what_has_no_form_is_refused_by_its_name(value: Any) -> None:
    """The argument is named, and nothing was sent."""
    with pytest.raises(EncodeError, match="argument 'bad'"):
        WIRE.encode_request(RequestBody(1, Kind.CAST, 0, "m", None, None, {}, {"good": 1, "bad": value}))
    with pytest.raises(EncodeError, match="created: payload"):
        WIRE.encode_notification(Notification(1, Kind.NOTIFICATION, 0, "created", "p", "info", 0.0, {}, value))
    with pytest.raises(EncodeError):
        WIRE.encode_answer(Result(1, Kind.RESULT, 0, value), b'{"_msg_id": "a"}')


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_statements_of_our_servers_keep_their_meaning(code: str) -> None:
    """Between two of ours a failure is the same error as on the native wire; what the predecessor has no word for is a
    class of ours to it. Two meanings share a word there.
    """
    text = failure_to_text(Failure(1, Kind.FAILURE, 0, code, "x.Y", "why"), None)
    read = failure_from_text(text)
    assert read.code == {"access_denied": "method_not_found", "bad_arguments": "remote"}.get(code, code)
    assert read.text == "why"
    assert isinstance(rebuild(read, {}), MessagingError)


class Refused(Exception):
    def __init__(self, message: str = "", **kwargs: Any) -> None:
        super().__init__(message)
        self.kwargs = kwargs


def test_declared_exceptions_are_rebuilt_with_their_arguments() -> None:
    """By name, from any module, with the keyword arguments that this format carries besides."""
    text = failure_to_text(failure_from(Refused("no", sku="A1")), Refused("no", sku="A1"))
    assert json.loads(text)["kwargs"] == {"sku": "A1"}
    error = rebuild(failure_from_text(text), {"Refused": Refused})
    assert isinstance(error, Refused)
    assert error.kwargs == {"sku": "A1"}
    assert not isinstance(rebuild(failure_from_text(text), {}), Refused)


def test_a_failure_always_has_a_form() -> None:
    """Arguments that JSON cannot hold are left out, a rebuilt exception travels under its first name, and what is
    missing in a failure is empty.
    """
    error = ValueError(object())
    assert json.loads(failure_to_text(failure_from(error), error))["args"] == [str(error)]
    remote = type("Lost_Remote", (Exception,), {"__module__": "shop.errors_Remote"})("x")
    told = json.loads(failure_to_text(failure_from(remote), remote))
    assert (told["class"], told["module"]) == ("Lost", "shop.errors")
    assert failure_from_text("{}").text == ""
    assert failure_from_text('"text"').text == "text"
    assert failure_from_text('{"class": "ValueError", "module": "exceptions"}').type == "builtins.ValueError"


def test_arguments_from_text_fit_the_signature() -> None:
    """Keys of a dict are text in JSON, moments too; what does not fit is named."""
    from messaging.rpc.dispatcher import Signature

    def method(self: Any, ctxt: Any, days: dict[int, datetime.date], rest: float = 1.0) -> None: ...

    signature = Signature(method, "method")
    assert signature.convert({"days": {"1": "2026-01-02"}}) == {"days": {1: datetime.date(2026, 1, 2)}}
    for wrong in ({"days": {"x": "2026-01-02"}}, {"days": {}, "other": 1}, {}):
        with pytest.raises(BadArguments):
            signature.convert(wrong)
