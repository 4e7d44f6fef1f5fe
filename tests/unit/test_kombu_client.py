"""py-amqp as a protocol engine: what it is given and what it writes, and that everything replaced in it is there.

No broker here: what a broker says is made of py-amqp's own frames, so that it can say what none of them would.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from typing import Any

import amqp
import kombu
import pytest
from amqp import spec
from amqp.serialization import dumps
from kombu.transport import pyamqp

from messaging import open_transport
from messaging.drivers.rabbit import methods
from messaging.drivers.rabbit.client import Login
from messaging.drivers.rabbit.kombu.client import KombuClient
from messaging.drivers.rabbit.properties import Properties
from messaging.errors import ConfigError

_LOGIN = Login(
    mechanism="PLAIN",
    username="guest",
    password="s3cret",
    vhost="/",
    heartbeat=10,
    frame_max=8192,
    client_properties={"product": "test"},
)


class News:
    """ClientEvents that write everything down."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *what: self.told.append((name, what))

    def names(self) -> list[str]:
        """What was told, without its details."""
        return [name for name, _ in self.told]


class Broker:
    """The other end, spoken by hand: `say` feeds a method to the client, `heard` is what that wrote."""

    def __init__(self, login: Login = _LOGIN) -> None:
        self.news: Any = News()
        self.heard: list[bytes] = []
        self.client = KombuClient(login, self.news, self.heard.append)

    def say(self, channel: int, method: tuple[int, int], arguments: str = "", *values: Any, cut: int = 0) -> None:
        """Feed a method, in pieces of `cut` bytes."""
        body = struct.pack(">HH", *method) + (dumps(arguments, values) if arguments else b"")
        self.feed(_frame(1, channel, body), cut)

    def feed(self, data: bytes, cut: int = 0) -> None:
        """Feed bytes, in pieces of `cut`."""
        for start in range(0, len(data), cut or len(data)):
            self.client.feed(data[start : start + (cut or len(data))])

    def methods(self) -> list[tuple[int, tuple[int, ...]]]:
        """The methods that were heard since the last call: (channel, class and method)."""
        found = []
        for data in self.heard:
            kind, channel, _ = struct.unpack_from(">BHI", data)
            if kind == 1:
                found.append((channel, struct.unpack_from(">HH", data, 7)))
        self.heard.clear()
        return found

    def greet(self, cut: int = 0, mechanisms: str = "PLAIN AMQPLAIN", frame_max: int = 131_072) -> Broker:
        """Go through the login."""
        self.client.start()
        assert self.heard.pop() == b"AMQP\x00\x00\x09\x01"
        capabilities = {"capabilities": {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True}}
        self.say(0, spec.Connection.Start, "ooFSS", 0, 9, capabilities, mechanisms, "en_US", cut=cut)
        self.say(0, spec.Connection.Tune, "BlB", 100, frame_max, 60, cut=cut)
        self.say(0, spec.Connection.OpenOk, "s", "", cut=cut)
        return self

    def channel(self) -> int:
        """Have the client open a channel."""
        number = self.client.open_channel(self.news.opened)
        self.say(number, spec.Channel.OpenOk, "S", "")
        self.heard.clear()
        self.news.told.clear()
        return number


def _frame(kind: int, channel: int, body: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(body)) + body + b"\xce"


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_the_login_goes_through_however_the_bytes_are_cut(cut: int) -> None:
    """One frame at a time, byte by byte: the same answers, and the smaller size of frames."""
    broker = Broker().greet(cut)
    assert broker.methods() == [(0, spec.Connection.StartOk), (0, spec.Connection.TuneOk), (0, spec.Connection.Open)]
    assert broker.news.names() == ["on_open"]
    assert broker.client.frame_max == 8192


def test_the_brokers_frames_may_be_smaller() -> None:
    """What is agreed is the smaller of both sides."""
    assert Broker().greet(frame_max=4096).client.frame_max == 4096


def test_a_refused_login_is_told_as_the_broker_says_it() -> None:
    """Connection.close before open-ok: code and text, answered with close-ok."""
    broker = Broker()
    broker.client.start()
    broker.say(0, spec.Connection.Start, "ooFSS", 0, 9, {}, "PLAIN", "en_US")
    broker.heard.clear()
    broker.say(0, spec.Connection.Close, "BsBB", 403, "ACCESS_REFUSED", 0, 0)
    assert broker.news.told == [("on_closed", (403, "ACCESS_REFUSED"))]
    assert broker.methods() == [(0, spec.Connection.CloseOk)]


@pytest.mark.parametrize(
    "data",
    [
        b"AMQP\x00\x01\x00\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(20_000),
        _frame(1, 0, b"\x00\x0a\x00\x0a")[:-1] + b"\x00",
        _frame(2, 0, bytes(14)),
        _frame(1, 0, b"\x00\x0a"),
        _frame(1, 0, struct.pack(">HH", 10, 10) + b"\x00\x09\xff\xff\xff\xff"),
        struct.pack(">BHI", 1, 0, 2**31) + bytes(100),
    ],
    ids=[
        "another version",
        "http",
        "no end of a frame",
        "a body without a method",
        "half a method",
        "bad table",
        "huge",
    ],
)
def test_what_is_no_amqp_is_told_and_not_raised(data: bytes) -> None:
    """A stranger on the port ends the connection, by `on_broken`."""
    broker = Broker()
    broker.client.start()
    broker.feed(data)
    assert broker.news.names() == ["on_broken"]


def test_a_broker_without_a_common_login_is_told() -> None:
    """No mechanism in common: said, not raised; the password is in no text."""
    broker = Broker()
    broker.client.start()
    broker.say(0, spec.Connection.Start, "ooFSS", 0, 9, {}, "GSSAPI", "en_US")
    ((name, (error,)),) = broker.news.told
    assert name == "on_broken"
    assert "PLAIN" in str(error)
    assert "s3cret" not in str(error)


def test_requests_never_wait_and_are_answered_in_order() -> None:
    """Nine requests are written at once; each answer goes to its own."""
    broker = Broker().greet()
    number = broker.channel()
    answers: list[tuple[str, methods.Answer]] = []
    asked: list[tuple[methods.Method, tuple[int, int], str, tuple[Any, ...]]] = [
        (methods.ConfirmSelect(), spec.Confirm.SelectOk, "", ()),
        (methods.DeclareExchange("e", "direct"), spec.Exchange.DeclareOk, "", ()),
        (methods.DeclareQueue("q"), spec.Queue.DeclareOk, "sll", ("q", 5, 2)),
        (methods.Bind("q", "e", "k"), spec.Queue.BindOk, "", ()),
        (methods.Qos(10), spec.Basic.QosOk, "", ()),
        (methods.Consume("q", "t"), spec.Basic.ConsumeOk, "s", ("t",)),
        (methods.Cancel("t"), spec.Basic.CancelOk, "s", ("t",)),
        (methods.DeclareQueue("q", passive=True), spec.Queue.DeclareOk, "sll", ("q", 7, 0)),
        (methods.DeleteQueue("q"), spec.Queue.DeleteOk, "l", (7,)),
    ]
    for method, *_ in asked:
        name = type(method).__name__
        broker.client.request(number, method, lambda answer, name=name: answers.append((name, answer)))  # type: ignore[misc]
    assert len(broker.methods()) == len(asked)
    assert answers == []
    for _, answer, arguments, values in asked:
        broker.say(number, answer, arguments, *values)
    assert [name for name, _ in answers] == [type(method).__name__ for method, *_ in asked]
    assert (answers[2][1], answers[7][1]) == (methods.Answer(5, 2), methods.Answer(7, 0))


def test_a_channel_that_the_broker_closes_is_over() -> None:
    """Close-ok is written, no new channel is opened in its place, and its open requests are forgotten."""
    broker = Broker().greet()
    number = broker.channel()
    broker.client.request(number, methods.DeclareQueue("q", passive=True), broker.news.never)
    broker.heard.clear()
    broker.say(number, spec.Channel.Close, "BsBB", 404, "NOT_FOUND", 50, 10)
    assert broker.methods() == [(number, spec.Channel.CloseOk)]
    assert broker.news.told == [("on_channel_closed", (number, 404, "NOT_FOUND"))]
    # What was under way to it comes to nobody, and its successor has another number.
    broker.say(number, spec.Queue.DeclareOk, "sll", "q", 0, 0)
    assert broker.news.names() == ["on_channel_closed"]
    assert broker.client.open_channel(broker.news.opened) != number


def test_nothing_is_told_of_a_channel_that_is_being_closed(caplog: pytest.LogCaptureFixture) -> None:
    """What comes between close and close-ok is passed over in silence."""
    broker = Broker().greet()
    number = broker.channel()
    broker.client.close_channel(number)
    assert broker.methods() == [(number, spec.Channel.Close)]
    broker.say(number, spec.Basic.Ack, "Lb", 7, False)
    broker.say(number, spec.Channel.CloseOk)
    broker.say(number, spec.Basic.Ack, "Lb", 8, False)
    assert broker.news.told == []
    assert caplog.records == []


def test_what_a_broker_says_by_itself_is_told() -> None:
    """Alarms with their reason, cancelled consumers, confirmations."""
    broker = Broker().greet()
    number = broker.channel()
    broker.say(0, spec.Connection.Blocked, "s", "low on memory")
    broker.say(0, spec.Connection.Unblocked)
    broker.say(number, spec.Basic.Cancel, "sb", "t", True)
    broker.say(number, spec.Basic.Ack, "Lb", 7, True)
    broker.say(number, spec.Basic.Nack, "Lb", 8, False)
    broker.client.close()
    broker.say(0, spec.Connection.CloseOk)
    assert broker.news.told == [
        ("on_blocked", ("low on memory",)),
        ("on_unblocked", ()),
        ("on_cancelled", (number, "t")),
        ("on_confirmed", (number, 7, True, True)),
        ("on_confirmed", (number, 8, False, False)),
        ("on_close_ok", ()),
    ]


def test_messages_are_the_same_on_both_sides() -> None:
    """What one client writes, another reads: properties, headers of every kind, a body of many frames, and none."""
    sender, receiver = Broker().greet(), Broker().greet()
    number = sender.channel()
    assert receiver.channel() == number
    properties = Properties(
        content_type="a/b",
        content_encoding="c",
        headers={"text": "ü☃", "bytes": b"\xff", "number": 2**40, "half": 0.5, "yes": True, "none": None, "list": [1]},
        delivery_mode=2,
        priority=3,
        correlation_id="4",
        reply_to="5",
        expiration="6",
        message_id="7",
        timestamp=8,
        type="9",
        user_id="10",
        app_id="11",
    )
    for given, body in ((properties, bytes(range(256)) * 100), (Properties(), b"")):
        sender.heard.clear()
        sender.client.publish(number, "e", "k", True, given, body)
        assert max(map(len, sender.heard)) <= 8192
        _method, *content = _frames(b"".join(sender.heard))
        arguments = ("t", 1, False, "e", "k")
        deliver = struct.pack(">HH", *spec.Basic.Deliver) + dumps("sLbss", arguments)
        receiver.feed(b"".join([_frame(1, number, deliver), *content]), 1000)
        name, told = receiver.news.told.pop()
        assert (name, told) == ("on_message", (number, "t", 1, False, given, body))
        returned = struct.pack(">HH", *spec.Basic.Return) + dumps("Bsss", (312, "NO_ROUTE", "e", "k"))
        receiver.feed(b"".join([_frame(1, number, returned), *content]))
        assert receiver.news.told.pop() == ("on_returned", (number, 312, "NO_ROUTE", given))


def _frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = 8 + struct.unpack_from(">I", data, 3)[0]
        found.append(data[:length])
        data = data[length:]
    return found


def test_settlements_and_heartbeats_are_single_frames() -> None:
    """Ack, reject and heartbeat, as the protocol has them."""
    broker = Broker().greet()
    number = broker.channel()
    broker.client.ack(number, 7, True)
    broker.client.reject(number, 8, False)
    assert broker.methods() == [(number, spec.Basic.Ack), (number, spec.Basic.Reject)]
    broker.client.heartbeat()
    assert broker.heard == [b"\x08\x00\x00\x00\x00\x00\x00\xce"]


@pytest.mark.parametrize(
    ("owner", "name", "arguments"),
    [
        (pyamqp.Channel, "wait", ["self", "method", "callback", "timeout", "returns_tuple"]),
        (pyamqp.Channel, "dispatch_method", ["self", "method_sig", "payload", "content"]),
        (pyamqp.Channel, "_setup_listeners", ["self"]),
        (pyamqp.Channel, "collect", ["self"]),
        (pyamqp.Channel, "_on_open_ok", ["self"]),
        (pyamqp.Channel, "_on_close", ["self", "reply_code", "reply_text", "class_id", "method_id"]),
        (pyamqp.Channel, "_on_basic_cancel", ["self", "consumer_tag"]),
        (pyamqp.Channel, "_on_basic_ack", ["self", "delivery_tag", "multiple"]),
        (pyamqp.Channel, "_on_basic_nack", ["self", "delivery_tag", "multiple"]),
        (pyamqp.Connection, "_on_tune", ["self", "channel_max", "frame_max", "server_heartbeat", "argsig"]),
        (pyamqp.Connection, "_on_open_ok", ["self"]),
        (pyamqp.Connection, "_on_close", ["self", "reply_code", "reply_text", "class_id", "method_id"]),
        (pyamqp.Connection, "_on_close_ok", ["self"]),
        (pyamqp.Connection, "_on_blocked", ["self"]),
        (pyamqp.Connection, "_on_unblocked", ["self"]),
    ],
)
def test_what_is_replaced_in_the_library_is_there(owner: type, name: str, arguments: list[str]) -> None:
    """A method that was renamed, or is called with something else, would be replaced by nothing."""
    assert list(inspect.signature(getattr(owner, name)).parameters) == arguments


@pytest.mark.parametrize(("library", "version"), [(amqp, "5.5.0"), (kombu, "6.0.0")])
def test_an_unknown_version_is_refused_with_the_cure(
    library: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another minor version may have changed what is replaced: a clear error instead of a connection that hangs."""
    monkeypatch.setattr(library, "__version__", version)
    with pytest.raises(ConfigError, match=rf"{library.__name__} .* {version} is installed.*pip install"):
        open_transport("kombu://localhost/")
