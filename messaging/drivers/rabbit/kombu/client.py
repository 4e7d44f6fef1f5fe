"""py-amqp, by way of kombu's classes for it, as a protocol engine without a socket (see rabbit/client.py).

kombu's connection to RabbitMQ is py-amqp's, which reads and writes a socket by itself and waits wherever the protocol
has an answer. Here it gets neither: its transport is an object that hands on what is written, what was read is cut into
frames and given to its frame handler, and its `wait` does not wait: answers arrive as callbacks, in the order of the
requests of a channel. What py-amqp does on its own when a channel or connection is closed by the broker (it opens the
channel again with a wait, and raises) is replaced, because the driver above has its own ways.

All that is replaced is private to py-amqp, so versions.py pins it, and the tests look at every hook.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from amqp import spec
from amqp.exceptions import AMQPError
from kombu.transport import pyamqp

from messaging.drivers.rabbit import methods
from messaging.drivers.rabbit.client import ClientEvents, Login
from messaging.drivers.rabbit.properties import Properties

__all__ = ["KombuClient"]

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_FRAME_HEADER = struct.Struct(">BHI")
_FRAME_END = 0xCE
_METHOD = 1
_GOOD = 200
"""The reply code of an orderly close."""
_HEADERS = "application_headers"
"""What py-amqp calls the property `headers`."""
_FIELDS = tuple(name for name in Properties.__struct_fields__ if name != "headers")
_OTHERS = tuple(name for name in _FIELDS if name not in ("priority", "content_type", "content_encoding"))
"""What kombu has no argument for."""
_UNREADABLE = (AMQPError, struct.error, ValueError, LookupError, TypeError, OverflowError)
"""What py-amqp raises for bytes that are no AMQP 0-9-1; UnicodeDecodeError is a ValueError."""
_ANSWERS = (
    spec.Exchange.DeclareOk,
    spec.Queue.BindOk,
    spec.Queue.DeclareOk,
    spec.Queue.DeleteOk,
    spec.Basic.QosOk,
    spec.Basic.ConsumeOk,
    spec.Basic.CancelOk,
    spec.Confirm.SelectOk,
)


class _Pipe:
    """The transport that py-amqp writes to. Its buffer is used again for the next frame, so what is handed on is a
    copy.
    """

    connected = True

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, data: bytes | memoryview) -> None:
        self._write(bytes(data))

    def close(self) -> None:
        """The socket is the driver's."""


class _Channel(pyamqp.Channel):  # type: ignore[misc]
    """A channel that never waits, and tells the driver what happens to it."""

    def __init__(self, connection: _Connection, channel_id: int, opened: Callable[[], None]) -> None:
        self.opened = opened
        self.answers: deque[Callable[[methods.Answer], None]] = deque()
        self.news = connection.news
        super().__init__(connection, channel_id, auto_decode=False)

    def _setup_listeners(self) -> None:
        super()._setup_listeners()
        self._callbacks.update(dict.fromkeys(_ANSWERS, self._answered))
        self._callbacks[spec.Queue.DeclareOk] = self._declared

    def wait(self, method: Any, callback: Any = None, timeout: Any = None, returns_tuple: bool = False) -> Any:
        """Not to wait is the point: the answer comes to `_answered`."""
        return ()

    def dispatch_method(self, method_sig: Any, payload: Any, content: Any) -> None:
        """Pass over in silence what was under way when the channel was closed; py-amqp warns of each."""
        if not self.is_closing or method_sig in self._ALLOWED_METHODS_WHEN_CLOSING:
            super().dispatch_method(method_sig, payload, content)

    def ask(self, method: methods.Method, done: Callable[[methods.Answer], None]) -> None:
        """Write a request; `done` gets its answer."""
        self._write(method)
        self.answers.append(done)

    def _write(self, method: methods.Method) -> None:
        send = self.send_method
        match method:
            case methods.DeclareExchange(name, kind, durable, auto_delete, arguments, passive):
                flags = (passive, durable, auto_delete, False, False)
                send(spec.Exchange.Declare, "BssbbbbbF", (0, name, kind, *flags, dict(arguments)))
            case methods.DeclareQueue(name, durable, exclusive, auto_delete, arguments, passive):
                flags = (passive, durable, exclusive, auto_delete, False)
                send(spec.Queue.Declare, "BsbbbbbF", (0, name, *flags, dict(arguments)))
            case methods.Bind(queue, exchange, key, arguments):
                self.queue_bind(queue, exchange, key, arguments=dict(arguments))
            case methods.DeleteQueue(name, if_unused, if_empty):
                self.queue_delete(name, if_unused, if_empty)
            case methods.Qos(prefetch):
                self.basic_qos(0, prefetch, False)
            case methods.Consume(queue, tag, no_ack, exclusive, arguments):
                send(spec.Basic.Consume, "BssbbbbF", (0, queue, tag, False, no_ack, exclusive, False, dict(arguments)))
            case methods.Cancel(tag):
                self.basic_cancel(tag)
            case methods.ConfirmSelect():
                self.confirm_select()

    def _answered(self, *args: Any) -> None:
        self.answers.popleft()(methods.Answer())

    def _declared(self, queue: str, messages: int, consumers: int) -> None:
        self.answers.popleft()(methods.Answer(messages, consumers))

    def _on_open_ok(self) -> None:
        self.is_open = True
        self.opened()

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        number = self.channel_id
        expected = self.is_closing
        self.send_method(spec.Channel.CloseOk)
        self.answers.clear()
        self.collect()
        if not expected:
            self.news.on_channel_closed(number, reply_code, reply_text)

    def start_close(self) -> None:
        """Begin to close; what comes until the broker agrees is passed over."""
        self.is_closing = True
        self.answers.clear()
        self.send_method(spec.Channel.Close, "BsBB", (_GOOD, "", 0, 0))

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        self.news.on_cancelled(self.channel_id, consumer_tag)

    def _on_basic_deliver(
        self, consumer_tag: str, delivery_tag: int, redelivered: bool, exchange: str, routing_key: str, message: Any
    ) -> None:
        properties = _to_properties(message.properties)
        self.news.on_message(self.channel_id, consumer_tag, delivery_tag, redelivered, properties, message.body or b"")

    def _on_basic_return(self, reply_code: int, reply_text: str, exchange: str, routing_key: str, message: Any) -> None:
        self.news.on_returned(self.channel_id, reply_code, reply_text, _to_properties(message.properties))

    def _on_basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        self.news.on_confirmed(self.channel_id, delivery_tag, multiple, True)

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        self.news.on_confirmed(self.channel_id, delivery_tag, multiple, False)


class _Connection(pyamqp.Connection):  # type: ignore[misc]
    """A connection that neither connects nor waits."""

    Channel = _Channel
    negotiate_capabilities: ClassVar[dict[str, bool]] = {
        **pyamqp.Connection.negotiate_capabilities,
        "publisher_confirms": True,
        "basic.nack": True,
    }
    # py-amqp leaves the reason of an alarm unread.
    _METHODS: ClassVar[dict[Any, Any]] = {
        **pyamqp.Connection._METHODS,
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    def __init__(self, login: Login, news: ClientEvents, pipe: _Pipe) -> None:
        self.news = news
        self.largest_frame = login.frame_max
        super().__init__(
            userid=login.username,
            password=login.password,
            login_method=login.mechanism,
            virtual_host=login.vhost,
            client_properties=dict(login.client_properties),
            heartbeat=login.heartbeat,
            frame_max=login.frame_max,
        )
        self.transport = pipe
        self.on_inbound_frame = self.frame_handler_cls(self, self.on_inbound_method)
        self.frame_writer = self.frame_writer_cls(self, pipe)

    def _on_tune(self, channel_max: int, frame_max: int, server_heartbeat: int, argsig: str = "BlB") -> None:
        # py-amqp takes the broker's size of frames, however large it is.
        super()._on_tune(channel_max, min(frame_max or self.largest_frame, self.largest_frame), server_heartbeat)

    def _on_open_ok(self) -> None:
        self.news.on_open(self.server_properties)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.send_method(spec.Connection.CloseOk)
        self.news.on_closed(reply_code, reply_text)

    def _on_close_ok(self) -> None:
        self.news.on_close_ok()

    def _on_blocked(self, reason: str) -> None:
        self.news.on_blocked(reason)

    def _on_unblocked(self) -> None:
        self.news.on_unblocked()


class KombuClient:
    """See messaging.drivers.rabbit.client.Client."""

    def __init__(self, login: Login, events: ClientEvents, write: Callable[[bytes], None]) -> None:
        self._events = events
        self._write = write
        self._connection = _Connection(login, events, _Pipe(write))
        self._unread = b""
        self._last_channel = 0

    @property
    def frame_max(self) -> int:
        """See Client."""
        return int(self._connection.frame_max)

    def start(self) -> None:
        """See Client."""
        self._write(_PROTOCOL_HEADER)

    def feed(self, data: bytes) -> None:
        """See Client."""
        unread = self._unread + data if self._unread else data
        start = 0
        length = len(unread)
        take = self._connection.on_inbound_frame
        channels = self._connection.channels
        try:
            if unread[:4] == b"AMQP":
                raise ValueError(f"the broker speaks another protocol: {unread[:8]!r}")
            while length - start >= _FRAME_HEADER.size:
                kind, channel, size = _FRAME_HEADER.unpack_from(unread, start)
                end = start + _FRAME_HEADER.size + size
                if end >= length:
                    if size > self._connection.frame_max:
                        raise ValueError(f"a frame of {size} bytes is larger than agreed")
                    break
                if unread[end] != _FRAME_END:
                    raise ValueError(f"a frame ends in {unread[end]:#x}")
                # What was under way to a channel that is closed by now comes to nobody.
                if channel in channels:
                    take((kind, channel, unread[start + _FRAME_HEADER.size : end]))
                start = end + 1
        except _UNREADABLE as error:
            self._unread = b""
            self._events.on_broken(error)
        else:
            self._unread = unread[start:]

    def open_channel(self, done: Callable[[], None]) -> int:
        """See Client."""
        number = self._next_channel()
        _Channel(self._connection, number, done).open()
        return number

    def _next_channel(self) -> int:
        # In turns, so that what still comes for one that was closed is not taken for its successor's.
        connection = self._connection
        for _ in range(connection.channel_max):
            self._last_channel = self._last_channel % connection.channel_max + 1
            if self._last_channel not in connection.channels:
                return self._last_channel
        raise RuntimeError(f"all {connection.channel_max} channels of the connection are open")

    def close_channel(self, channel: int) -> None:
        """See Client."""
        self._channel(channel).start_close()

    def request(self, channel: int, method: methods.Method, done: Callable[[methods.Answer], None]) -> None:
        """See Client."""
        self._channel(channel).ask(method, done)

    def publish(
        self, channel: int, exchange: str, key: str, mandatory: bool, properties: Properties, body: bytes
    ) -> None:
        """See Client."""
        chosen = {name: value for name in _OTHERS if (value := getattr(properties, name)) is not None}
        own = self._channel(channel)
        message = own.prepare_message(
            body,
            properties.priority,
            properties.content_type,
            properties.content_encoding,
            properties.headers,
            chosen,
        )
        own.send_method(spec.Basic.Publish, "Bssbb", (0, exchange, key, mandatory, False), message)

    def ack(self, channel: int, tag: int, multiple: bool) -> None:
        """See Client."""
        self._channel(channel).basic_ack(tag, multiple)

    def reject(self, channel: int, tag: int, requeue: bool) -> None:
        """See Client."""
        self._channel(channel).basic_reject(tag, requeue)

    def heartbeat(self) -> None:
        """See Client."""
        self._connection.send_heartbeat()

    def close(self) -> None:
        """See Client."""
        self._connection.is_closing = True
        self._connection.send_method(spec.Connection.Close, "BsBB", (_GOOD, "", 0, 0))

    def _channel(self, number: int) -> _Channel:
        channel: _Channel = self._connection.channels[number]
        return channel


def _to_properties(found: dict[str, Any]) -> Properties:
    properties = Properties(**{name: found[name] for name in _FIELDS if name in found})
    properties.headers = found.get(_HEADERS)
    return properties
