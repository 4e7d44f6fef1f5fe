"""A process of the predecessor: oslo.messaging, unmodified, that serves, calls, listens and notifies as it is told.

It knows nothing of the library under test. What its endpoints and listeners get, it tells line by line.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import oslo_messaging
import oslo_messaging.opts
from oslo_config import cfg

from tests.faults.worker import obey, settings, tell

LEVELS = ("audit", "debug", "info", "warn", "error", "critical", "sample")


class Endpoint:
    """What callers reach: version 1.3 of a namespace, and an older name of it."""

    target = oslo_messaging.Target(namespace="inventory", version="1.3", legacy_namespaces=["stock"])

    def __init__(self, place: str) -> None:
        self._place = place

    def echo(self, ctxt: Any, **args: Any) -> Any:
        """Return what came."""
        return {"args": args, "context": {key: value for key, value in ctxt.items() if key != "client_timeout"}}

    def where(self, ctxt: Any) -> str:
        """Return which server this is."""
        return self._place

    def note(self, ctxt: Any, text: str) -> None:
        """Tell that this was executed."""
        tell("noted", place=self._place, text=text)

    def fail(self, ctxt: Any, kind: str, args: list[Any]) -> None:
        """Raise an exception of this name."""
        raise {"ValueError": ValueError, "KeyError": KeyError, "Refused": Refused}[kind](*args)

    def sleep(self, ctxt: Any, seconds: float) -> str:
        """Take time."""
        time.sleep(seconds)
        return "slept"


class Refused(Exception):
    """An exception of an application."""

    def __init__(self, message: str = "", **kwargs: Any) -> None:
        super().__init__(message)
        self.kwargs = kwargs


class Peer:
    """The commands."""

    def __init__(self, url: str) -> None:
        logging.getLogger("oslo_messaging").setLevel(logging.CRITICAL)
        for group, options in oslo_messaging.opts.list_opts():
            cfg.CONF.register_opts(options, group=group)
        cfg.CONF([])
        cfg.CONF.set_override("rpc_ping_enabled", True)
        self._url = url
        self._rpc: Any = None
        self._notify: Any = None
        self._servers: dict[str, Any] = {}

    def configure(self, **options: Any) -> None:
        """Set options of its rabbit driver; before anything else."""
        oslo_messaging.get_rpc_transport(cfg.CONF, url=self._url)
        for name, value in options.items():
            cfg.CONF.set_override(name, value, group="oslo_messaging_rabbit")

    def _rpc_transport(self) -> Any:
        if self._rpc is None:
            self._rpc = oslo_messaging.get_rpc_transport(
                cfg.CONF, url=self._url, allowed_remote_exmods=["tests.interop.shop"]
            )
        return self._rpc

    def _notify_transport(self) -> Any:
        if self._notify is None:
            self._notify = oslo_messaging.get_notification_transport(cfg.CONF, url=self._url)
        return self._notify

    # RPC

    def serve(self, topic: str, server: str, exchange: str | None = None) -> None:
        """Start a server."""
        target = oslo_messaging.Target(topic=topic, server=server, exchange=exchange)
        place = f"{topic}@{server}"
        started = oslo_messaging.get_rpc_server(self._rpc_transport(), target, [Endpoint(place)], executor="threading")
        started.start()
        self._servers[place] = started

    def stop(self, topic: str, server: str) -> None:
        """Stop a server."""
        stopped = self._servers.pop(f"{topic}@{server}")
        stopped.stop()
        stopped.wait()

    def call(
        self,
        target: dict[str, Any],
        method: str,
        args: dict[str, Any],
        context: dict[str, Any] | None = None,
        timeout: float = 10.0,
        monitor: int | None = None,
    ) -> dict[str, Any]:
        """Call, and return the result or what was raised."""
        client = oslo_messaging.get_rpc_client(
            self._rpc_transport(), oslo_messaging.Target(**target), timeout=timeout, call_monitor_timeout=monitor
        )
        began = time.monotonic()
        try:
            result = client.call(context or {}, method, **args)
        except Exception as error:
            return {
                "raised": type(error).__name__,
                "module": type(error).__module__,
                "remote": getattr(error, "exc_type", None),
                "text": str(error),
                "args": [repr(arg) for arg in error.args],
                "kwargs": getattr(error, "kwargs", None),
                "after": time.monotonic() - began,
            }
        return {"result": result, "after": time.monotonic() - began}

    def cast(self, target: dict[str, Any], method: str, args: dict[str, Any]) -> None:
        """Cast, or with fanout in the target to all."""
        client = oslo_messaging.get_rpc_client(self._rpc_transport(), oslo_messaging.Target(**target))
        client.cast({}, method, **args)

    # Notifications

    def notify(self, form: str, topic: str, level: str, event_type: str, payload: Any, context: Any = None) -> None:
        """Notify by one of the drivers `messaging` and `messagingv2`."""
        notifier = oslo_messaging.Notifier(self._notify_transport(), "peer.host", driver=form, topics=[topic], retry=3)
        getattr(notifier, level)(_Context(context) if context else {}, event_type, payload)

    def listen(
        self, topic: str, levels: list[str], pool: str | None = None, requeue: int = 0, batch: int | None = None
    ) -> None:
        """Start a listener that tells what it gets; the first so many of each event it gives back."""
        endpoint = _listening(levels, requeue, batch is not None)
        targets = [oslo_messaging.Target(topic=topic)]
        if batch is None:
            listener = oslo_messaging.get_notification_listener(
                self._notify_transport(), targets, [endpoint], executor="threading", allow_requeue=True, pool=pool
            )
        else:
            listener = oslo_messaging.get_batch_notification_listener(
                self._notify_transport(),
                targets,
                [endpoint],
                executor="threading",
                allow_requeue=True,
                pool=pool,
                batch_size=batch,
                batch_timeout=1,
            )
        listener.start()
        self._servers[f"{topic}@{pool}"] = listener


class _Context:
    """A context with which the predecessor notifies: one that can redact itself."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def redacted_copy(self) -> _Context:
        return self

    def to_dict(self) -> dict[str, Any]:
        return self._values


def _listening(levels: list[str], requeue: int, in_batches: bool) -> Any:
    """An endpoint with a method for each level."""
    seen: dict[str, int] = {}
    lock = threading.Lock()

    def gives_back(event_type: str) -> bool:
        with lock:
            seen[event_type] = seen.get(event_type, 0) + 1
            return seen[event_type] <= requeue

    def one(level: str) -> Any:
        def method(ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> Any:
            if gives_back(event_type):
                return oslo_messaging.NotificationResult.REQUEUE
            tell(
                "heard",
                level=level,
                context={key: value for key, value in ctxt.items() if key != "client_timeout"},
                publisher_id=publisher_id,
                event_type=event_type,
                payload=payload,
                metadata=metadata,
                times=seen[event_type],
            )
            return oslo_messaging.NotificationResult.HANDLED

        return method

    def many(level: str) -> Any:
        def method(messages: list[dict[str, Any]]) -> Any:
            tell("batch", level=level, payloads=[message["payload"] for message in messages])
            return oslo_messaging.NotificationResult.HANDLED

        return method

    return type("Listening", (), {level: staticmethod((many if in_batches else one)(level)) for level in levels})()


def main() -> None:
    """Obey."""
    peer = Peer(settings()["url"])
    tell("ready")
    names = ("configure", "serve", "stop", "call", "cast", "notify", "listen")
    obey({name: getattr(peer, name) for name in names})


if __name__ == "__main__":
    main()
