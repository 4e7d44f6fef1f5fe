"""pika's protocol engine without its adapters: bytes in, bytes out.

pika's adapters exist to own a socket and a loop. The `Connection` below them is a complete protocol engine with six
holes for that; this fills them with nothing, so that no pika loop, timer or thread is ever made. What is kept is what
pika does well and what is not hot: the greeting, the login, channels with their requests, and the tables.

It rests on names of pika that have an underscore, hence the pin of its minor version in pyproject.toml and the tests
of this file that run against a real broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pika
from pika import exceptions, frame, spec
from pika.channel import Channel
from pika.connection import Connection
from pika.credentials import ExternalCredentials, PlainCredentials

from messaging.drivers.rabbit.client import ClientEvents, Login
from messaging.drivers.rabbit.methods import (
    Answer,
    Bind,
    Cancel,
    ConfirmSelect,
    Consume,
    DeclareExchange,
    DeclareQueue,
    DeleteQueue,
    Method,
    Qos,
)
from messaging.drivers.rabbit.properties import Properties

__all__ = ["PikaClient"]

# What pika logs as errors is told to our owner as an error with its reason; it must not be said twice.
logging.getLogger("pika").setLevel(logging.CRITICAL)

_FIELDS = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
)


class _Engine(Connection):
    """pika's connection with its holes filled. What it is told to write goes to `emit`."""

    def __init__(
        self, parameters: pika.ConnectionParameters, client: PikaClient, emit: Callable[[bytes], None]
    ) -> None:
        self._client = client
        self._emit = emit
        super().__init__(
            parameters,
            on_open_callback=client._opened,
            internal_connection_workflow=False,
        )

    def _adapter_emit_data(self, data: bytes) -> None:
        self._emit(data)

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        # Only heartbeats and the timeout of a blocked connection ask for timers, and both are the driver's own.
        raise RuntimeError("pika asked for a timer, which this engine does not give")

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        return

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        raise RuntimeError("pika asked for another thread's callback, which this engine does not give")

    def _adapter_connect_stream(self) -> None:
        return

    def _adapter_disconnect_stream(self) -> None:
        # The socket is the driver's; it drops it when it hears of the end. What pika itself would do now is guess why,
        # and lose the broker's own words.
        self._client._ended(self, self._error)

    def _create_heartbeat_checker(self) -> Any:
        return _NoChecker()


class _NoChecker:
    """Takes pika's word that a heartbeat came; whether the broker is alive is judged by the driver."""

    def received(self) -> None:
        return

    def stop(self) -> None:
        return


class PikaClient:
    """See messaging.drivers.rabbit.client.Client."""

    def __init__(self, login: Login, events: ClientEvents, write: Callable[[bytes], None]) -> None:
        self._events = events
        self._over = False
        self._channels: dict[int, Channel] = {}
        credentials = (
            ExternalCredentials()
            if login.mechanism == "EXTERNAL"
            else PlainCredentials(login.username, login.password, erase_on_connect=True)
        )
        parameters = pika.ConnectionParameters(
            virtual_host=login.vhost,
            credentials=credentials,
            heartbeat=login.heartbeat,
            frame_max=login.frame_max,
            client_properties=dict(login.client_properties),
        )
        self._engine = _Engine(parameters, self, write)
        self._engine.add_on_connection_blocked_callback(self._blocked)
        self._engine.add_on_connection_unblocked_callback(lambda _engine, _method: events.on_unblocked())

    @property
    def frame_max(self) -> int:
        """See Client."""
        agreed: int = self._engine.params.frame_max
        return agreed

    def start(self) -> None:
        """See Client."""
        self._engine._on_stream_connected()

    def feed(self, data: bytes) -> None:
        """See Client."""
        if self._over:
            return
        try:
            self._engine._on_data_available(data)
        except exceptions.AMQPError as error:
            self._break(error)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
            # What pika does with bytes that are no AMQP.
            self._break(error)

    def open_channel(self, done: Callable[[], None]) -> int:
        """See Client."""
        channel = self._engine.channel(on_open_callback=lambda _channel: done())
        number = channel.channel_number
        self._channels[number] = channel
        channel.add_on_close_callback(lambda _channel, reason: self._channel_ended(number, reason))
        channel.add_on_cancel_callback(lambda cancelled: self._cancelled(number, cancelled))
        channel.add_on_return_callback(
            lambda _channel, method, properties, _body: self._events.on_returned(
                number, method.reply_code, method.reply_text, _from_pika(properties)
            )
        )
        return number

    def close_channel(self, channel: int) -> None:
        """See Client."""
        found = self._channels.pop(channel, None)
        if found is not None and found.is_open:
            found.close()

    def request(self, channel: int, method: Method, done: Callable[[Answer], None]) -> None:
        """See Client."""
        target = self._channels[channel]

        def answered(frame_of: Any) -> None:
            answer = frame_of.method
            done(Answer(getattr(answer, "message_count", 0) or 0, getattr(answer, "consumer_count", 0) or 0))

        _SENDERS[type(method)](self, target, method, answered)

    def publish(
        self, channel: int, exchange: str, key: str, mandatory: bool, properties: Properties, body: bytes
    ) -> None:
        """See Client."""
        self._channels[channel].basic_publish(exchange, key, body, _to_pika(properties), mandatory)

    def ack(self, channel: int, tag: int, multiple: bool) -> None:
        """See Client."""
        self._channels[channel].basic_ack(tag, multiple)

    def reject(self, channel: int, tag: int, requeue: bool) -> None:
        """See Client."""
        self._channels[channel].basic_reject(tag, requeue)

    def heartbeat(self) -> None:
        """See Client."""
        self._engine._send_frame(frame.Heartbeat())

    def close(self) -> None:
        """See Client."""
        if self._engine.is_open:
            self._engine.close()
        else:
            self._over = True
            self._events.on_close_ok()

    # From pika

    def _opened(self, engine: Connection) -> None:
        self._events.on_open(engine.server_properties or {})

    def _ended(self, _engine: Connection, error: Any) -> None:
        if self._over:
            return
        self._over = True
        if isinstance(error, exceptions.ConnectionClosedByClient):
            self._events.on_close_ok()
        elif isinstance(error, exceptions.ConnectionClosed):
            self._events.on_closed(error.reply_code, error.reply_text)
        else:
            self._events.on_broken(error)

    def _break(self, error: Exception) -> None:
        if not self._over:
            self._over = True
            self._events.on_broken(error)

    def _blocked(self, _engine: Connection, method: Any) -> None:
        reason = method.method.reason
        self._events.on_blocked(reason.decode(errors="replace") if isinstance(reason, bytes) else reason or "")

    def _channel_ended(self, number: int, reason: Any) -> None:
        if self._over:
            return
        if self._channels.pop(number, None) is not None and isinstance(reason, exceptions.ChannelClosedByBroker):
            self._events.on_channel_closed(number, reason.reply_code, reason.reply_text)

    def _cancelled(self, number: int, cancelled: Any) -> None:
        self._events.on_cancelled(number, cancelled.method.consumer_tag)

    def _delivered(self, channel: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
        self._events.on_message(
            channel.channel_number,
            method.consumer_tag,
            method.delivery_tag,
            method.redelivered,
            _from_pika(properties),
            body,
        )

    def _confirmed(self, channel: Channel, frame_of: Any) -> None:
        method = frame_of.method
        positive = isinstance(method, spec.Basic.Ack)
        self._events.on_confirmed(channel.channel_number, method.delivery_tag, method.multiple, positive)

    # To pika

    def _declare_exchange(self, channel: Channel, method: DeclareExchange, done: Callable[[Any], None]) -> None:
        channel.exchange_declare(
            method.name,
            method.type,
            method.passive,
            method.durable,
            method.auto_delete,
            arguments=dict(method.arguments),
            callback=done,
        )

    def _declare_queue(self, channel: Channel, method: DeclareQueue, done: Callable[[Any], None]) -> None:
        channel.queue_declare(
            method.name,
            method.passive,
            method.durable,
            method.exclusive,
            method.auto_delete,
            arguments=dict(method.arguments),
            callback=done,
        )

    def _delete_queue(self, channel: Channel, method: DeleteQueue, done: Callable[[Any], None]) -> None:
        channel.queue_delete(method.name, method.if_unused, method.if_empty, callback=done)

    def _bind(self, channel: Channel, method: Bind, done: Callable[[Any], None]) -> None:
        channel.queue_bind(method.queue, method.exchange, method.key, dict(method.arguments), callback=done)

    def _qos(self, channel: Channel, method: Qos, done: Callable[[Any], None]) -> None:
        channel.basic_qos(prefetch_count=method.prefetch, callback=done)

    def _consume(self, channel: Channel, method: Consume, done: Callable[[Any], None]) -> None:
        channel.basic_consume(
            method.queue,
            self._delivered,
            method.no_ack,
            method.exclusive,
            method.tag,
            dict(method.arguments),
            callback=done,
        )

    def _cancel(self, channel: Channel, method: Cancel, done: Callable[[Any], None]) -> None:
        channel.basic_cancel(method.tag, callback=done)

    def _confirm_select(self, channel: Channel, method: ConfirmSelect, done: Callable[[Any], None]) -> None:
        channel.confirm_delivery(lambda frame_of: self._confirmed(channel, frame_of), callback=done)


_SENDERS: dict[type[Any], Callable[[PikaClient, Channel, Any, Callable[[Any], None]], None]] = {
    DeclareExchange: PikaClient._declare_exchange,
    DeclareQueue: PikaClient._declare_queue,
    DeleteQueue: PikaClient._delete_queue,
    Bind: PikaClient._bind,
    Qos: PikaClient._qos,
    Consume: PikaClient._consume,
    Cancel: PikaClient._cancel,
    ConfirmSelect: PikaClient._confirm_select,
}


def _to_pika(properties: Properties) -> spec.BasicProperties:
    return spec.BasicProperties(**{name: getattr(properties, name) for name in _FIELDS})  # type: ignore[no-untyped-call]


def _from_pika(properties: spec.BasicProperties) -> Properties:
    return Properties(**{name: getattr(properties, name) for name in _FIELDS})
