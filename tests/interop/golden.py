"""Captures what the real package puts on the wire, as golden bytes for the tests of our own encoding.

    python -W ignore -m tests.interop.golden > tests/unit/golden_oslo.json

It runs a client, a server, notifiers and the Kafka codec of the predecessor in this process, over kombu's in-memory
transport, with a clock that stands still, and keeps every message at the point where kombu hands it to its channel;
random ids are replaced by constants.
"""

from __future__ import annotations

import datetime
import decimal
import json
import sys
import threading
import unittest.mock
import uuid
from typing import Any

import kombu.transport.memory
import oslo_messaging
from oslo_config import cfg
from oslo_messaging._drivers import impl_kafka
from oslo_serialization import jsonutils
from oslo_utils import timeutils

__all__ = ["capture"]

_URL = "kombu+memory:////"
_NOW = datetime.datetime(2026, 5, 13, 12, 53, 0, 123456)  # noqa: DTZ001 - the predecessor's clock is naive
_IDS = {
    "_msg_id": "1" * 32,
    "_unique_id": "2" * 32,
    "_reply_q": "reply_" + "3" * 32,
    "message_id": str(uuid.UUID("4" * 32)),
}
_VALUES = {
    "text": 'schön "so" \\ \n 漢 \U0001f600',
    "number": 2**70,
    "float": 0.1,
    "none": None,
    "flag": True,
    "list": [1, [2, {"x": []}]],
    "moment": datetime.datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - naive, as most of the predecessor's users have it
    "day": datetime.date(2026, 1, 2),
    "uuid": uuid.UUID(int=7),
    "money": decimal.Decimal("1.50"),
    "keys": {1: "one", "two": 2},
}


class Endpoint:
    """What the calls of the capture reach."""

    target = oslo_messaging.Target(namespace="inventory", version="1.3")

    def reserve(self, ctxt: Any, **args: Any) -> Any:
        """Return something of every kind."""
        return {"left": 3, "of": [1, 2.5, None, True], "who": "schön"}

    def refuse(self, ctxt: Any) -> None:
        """Fail, with arguments."""
        raise KeyError("A1", 2)

    def slow(self, ctxt: Any) -> str:
        """Run until a sign of life was given."""
        self.beat.wait(10)
        return "done"

    beat = threading.Event()


def capture() -> dict[str, dict[str, Any]]:
    """Return every message by name: exchange, routing key, properties and body."""
    caught: dict[str, dict[str, Any]] = {}
    names: list[str] = []
    put = kombu.transport.memory.Channel.basic_publish

    def publish(channel: Any, message: Any, exchange: str, routing_key: str, **options: Any) -> Any:
        body = channel.decode_body(message["body"], message["properties"].get("body_encoding"))
        text = body if isinstance(body, str) else body.decode()
        name = "alive" if '\\"ending\\": false' in text else names.pop(0)
        properties = {
            key: value for key, value in message["properties"].items() if not key.startswith(("delivery_", "body_"))
        }
        caught.setdefault(
            name,
            {
                "exchange": exchange,
                "routing_key": _without_id(routing_key),
                "content_type": message["content-type"],
                "content_encoding": message["content-encoding"],
                "headers": message["headers"],
                "properties": {**properties, "delivery_mode": message["properties"]["delivery_mode"]},
                "body": text,
            },
        )
        if name == "alive":
            Endpoint.beat.set()
        return put(channel, message, exchange, routing_key, **options)

    cfg.CONF([])
    with (
        unittest.mock.patch.object(kombu.transport.memory.Channel, "basic_publish", publish),
        unittest.mock.patch.object(timeutils, "utcnow", return_value=_NOW),
    ):
        _rpc(names)
        _notifications(names)
    message = {
        "message_id": str(uuid.UUID(int=1)),
        "publisher_id": "compute.host1",
        "event_type": "compute.create",
        "priority": "INFO",
        "payload": {"id": 12},
        "timestamp": str(_NOW),
    }
    caught["kafka"] = {"body": jsonutils.dumps(impl_kafka.pack_message({"user": "bob"}, message))}
    return {name: {**found, "body": _timeless(found["body"])} for name, found in sorted(caught.items())}


def _without_id(key: str) -> str:
    return "reply_ID" if key.startswith("reply_") else key


def _timeless(body: str) -> str:
    """Replace what differs between two runs: random ids; and leave out the lines of a traceback."""
    outer = json.loads(body)
    inner = json.loads(outer["oslo.message"]) if "oslo.message" in outer else outer
    if inner.get("failure"):
        failure = json.loads(inner["failure"])
        failure["tb"] = []
        inner["failure"] = json.dumps(failure)
        outer["oslo.message"] = json.dumps(inner)
        body = json.dumps(outer)
    for key, constant in _IDS.items():
        if key in inner:
            body = body.replace(inner[key], constant)
    return body


def _rpc(names: list[str]) -> None:
    transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=_URL)
    target = oslo_messaging.Target(topic="inventory", server="host-1")
    server = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor="threading")
    server.start()
    place = oslo_messaging.Target(topic="inventory", namespace="inventory", version="1.3")
    client = oslo_messaging.get_rpc_client(transport, place, timeout=20)
    plain = oslo_messaging.get_rpc_client(transport, oslo_messaging.Target(topic="inventory"), timeout=20)
    try:
        names += ["call", "result"]
        client.call({"user": "bob", "roles": ["a"]}, "reserve", **_VALUES)
        names += ["call_refused", "failure"]
        try:
            client.call({}, "refuse")
        except KeyError:
            pass
        names += ["call_unknown", "no_method"]
        try:
            client.call({}, "nothing")
        except oslo_messaging.RemoteError:
            pass
        names += ["call_newer", "no_version"]
        try:
            client.prepare(version="2.0").call({}, "reserve")
        except oslo_messaging.RemoteError:
            pass
        names += ["call_monitored", "result_late"]
        client.prepare(call_monitor_timeout=2).call({}, "slow")
        names.append("cast")
        plain.cast({"user": "bob"}, "reserve", count=1)
        names.append("cast_direct")
        client.prepare(server="host-1").cast({}, "reserve")
        names.append("fanout")
        client.prepare(fanout=True).cast({}, "reserve")
    finally:
        server.stop()
        server.wait()
        transport.cleanup()


def _notifications(names: list[str]) -> None:
    transport = oslo_messaging.get_notification_transport(cfg.CONF, url=_URL)
    for driver in ("messagingv2", "messaging"):
        notifier = oslo_messaging.Notifier(transport, "compute.host1", driver=driver, topics=["notifications"])
        for level in ("audit", "debug", "info", "warn", "error", "critical", "sample"):
            names.append(f"{driver}_{level}")
            context: Any = _Context() if level == "info" else {}
            getattr(notifier, level)(context, "compute.create", dict(_VALUES) if level == "info" else {"id": 12})
    transport.cleanup()


class _Context:
    """The predecessor sends a context with notifications only when that can redact itself."""

    def redacted_copy(self) -> _Context:
        """Nothing here is secret."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """As a serializer makes it."""
        return {"user": "bob", "roles": ["a"]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(capture(), indent=1) + "\n")
