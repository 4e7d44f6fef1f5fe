"""The blocking listeners: the core, started and stopped by callers that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from messaging.errors import ConfigError
from messaging.lifecycle import BlockingService, check_count
from messaging.notify.base_listener import BaseListener, ListenerOptions
from messaging.target import Target
from messaging.transport import Transport

__all__ = ["BatchListener", "Listener", "check_batching"]


class Listener(BlockingService, BaseListener):
    """A blocking listener. Build it, `start()` it, and `stop()` it; or use it in a `with` block. Thread-safe.

    `targets`: a topic each, and perhaps an exchange. `endpoints`: objects with methods named after levels, or marked by
    `@notify.on`. `pool`: the listeners of one pool share its notifications, every pool gets all of them; None is the
    pool "default".

    `executor`: "threads" runs handlers on up to `slots` threads, "inline" on the I/O thread, for handlers that never
    wait; `async def` ones run on one loop. Events of one key are handled one after the other. Where the transport
    has no storage, at most `inbox` of them, and about `inbox_bytes` of bodies, wait in memory.

    `max_attempts`: how often a notification is delivered at most; then, or when a handler raises Reject, it goes to the
    dead letters. The second attempt comes after about `backoff` seconds, further ones after twice as long each, up to
    `max_backoff`. `dead_letter`: a function of (event, reason, error), or a notifier, instead of the transport's dead
    letters; where the transport has none, it is the only place.

    `serializer`: reads contexts and payloads; `around`: context managers in which each handler runs.
    Raises InvalidTarget, ConfigError or Unsupported for what can be known now.
    """

    transport: Transport


class BatchListener(Listener):
    """A listener whose handlers get lists: of dicts (ctxt, publisher_id, event_type, payload, metadata), or, with
    `@notify.on`, of events.

    A batch has up to `batch_size` notifications, and its first one has waited no longer than `batch_timeout` seconds.
    Each handler gets those of the batch that it wants. A handler that fails, fails for all of its list; what comes
    again comes alone, so that one bad notification does not take others to the dead letters. Batches run side by side;
    `slots=1` keeps their order. Other parameters: see Listener.
    """

    def __init__(
        self,
        transport: Transport,
        targets: Sequence[Target],
        endpoints: Sequence[Any],
        *,
        batch_size: int = 100,
        batch_timeout: float = 1.0,
        **options: Unpack[ListenerOptions],
    ) -> None:
        self._batching = check_batching(batch_size, batch_timeout)
        super().__init__(transport, targets, endpoints, **options)


def check_batching(size: int, age: float) -> tuple[int, float]:
    """Check the two bounds of a batch. Raises ConfigError."""
    check_count("batch_size", size)
    if not 0 < age < float("inf"):
        raise ConfigError(f"batch_timeout must be a finite number of seconds above 0, not {age!r}")
    return size, float(age)
