"""The driver contract: what an author of a driver reads first, and all that has to be written.

A driver turns routes, sources and bytes into what its client library calls them. It knows nothing of calls, replies,
versions, retries or notifications; it starts no thread, takes no lock, and never sleeps on its own. Correlation,
acceptance, batches, heartbeats of long calls, deadlines of callers, retries and dead-letter policy are written once,
above.

`Connection` is a *pump*: whoever owns it calls `pump(timeout)` again and again, and everything happens in there. The
owner may be a thread or an event loop and may change between two pumps, so a connection must not remember a thread.
Only `wake()` may be called from elsewhere (and `publish`, where `threadsafe_publish` is declared, and `collect`, where
`collects` is).

Rules, each a scenario of the conformance suite:

* In no state does `pump` wait past its timeout, or past timeout + `pump_stall` where the library's round trips block.
* Events fire at the end of `pump`, never from inside the client library's own dispatch. From an event the owner may
  publish, subscribe and settle on the same connection, never pump.
* What cannot be decoded is rejected and counted in `counts()`, never raised out of `pump`.
* After LOST the driver reconnects by itself, with full-jitter backoff over all hosts, redeclares, resubscribes, and
  tells each step. The backoff starts afresh when the last subscription is back, not at READY.
* At LOST every message that was not written is answered with a `ConnectionLost` or `ConnectFailed` whose `delivered` is
  NO (the owner holds it and publishes it again); every message that was written but not taken, and whose answer cannot
  come any more, with `ConnectionLost` and MAYBE. Nothing is ever sent twice silently.
* A message with `confirm` False is not answered when all goes well: the driver keeps its `stage`, and its `taker` where
  the peer is known, up to date, and tells errors only (and a TAKEN that comes without the answer).
* A delivery belongs to the generation of its subscription. When that is gone the driver sets `stale` on what it has
  handed out; settling a stale delivery is ignored and counted.
* BLOCKED is told when the peer says so, or when the driver's own buffer passes its mark; READY when it is over.
* A reply address is random per connection and never shared by two processes.
* A stalled peer (no bytes, no FIN) is noticed within two heartbeat intervals, or `stall_detection` is False.
* An unsubscribed source is answered by `on_subscribed(source, None, Cancelled)`; deliveries that arrive until then are
  handed back.
* `close(grace)` may be called in every state; the connection reaches CLOSED within `grace` seconds of pumping, and a
  moment.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from messaging.message import Delivery, Outcome, Outgoing, SentResult, Source
from messaging.url import Url

__all__ = [
    "Capabilities",
    "Connection",
    "ConnectionEvents",
    "Driver",
    "Role",
    "Services",
    "Settings",
    "State",
]


class Role(enum.Enum):
    """What a connection is for. A broker connection has one role; ALL where `shared_roles` says that they share one."""

    RPC_CLIENT = "rpc_client"
    RPC_SERVER = "rpc_server"
    NOTIFIER = "notifier"
    LISTENER = "listener"
    ALL = "all"

    __hash__ = object.__hash__


class State(enum.Enum):
    """What a connection is doing."""

    CONNECTING = "connecting"
    READY = "ready"
    BLOCKED = "blocked"
    """Connected, but nothing more should be published for now."""
    LOST = "lost"
    CLOSED = "closed"

    __hash__ = object.__hash__


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of a driver's option table: one typed, documented field per URL option.

    Fields are annotated `Annotated[type, msgspec.Meta(description=..., ge=..., ...)]`; types are str, int, float, bool,
    Literal or a union of one of them with None. `url`, and `credentials`, are filled in by the transport and are no
    options.
    """

    url: Url
    credentials: Callable[[], tuple[str, str]] | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver, or one server, can do. The defaults are the least; declare what is more."""

    rpc: bool = True
    direct: bool = True
    """ONE reaches exactly the named server."""
    fanout: Literal["queued", "live", "none"] = "none"
    """queued: a server that reconnects finds what it missed; live: only who is connected."""
    pools: bool = False
    """Else every listener of a topic is in the pool "default"."""
    storage: bool = False
    """Messages outlive the process that sent them without anybody having taken them."""
    confirms: bool = False
    """TAKEN is told for messages with `confirm`."""
    acceptance: Literal["backend", "peer"] = "backend"
    """Whose responsibility TAKEN means: the backend's, or the consumer's (settling is end to end)."""
    no_route: Literal["consumer", "queue", "by_config", "never"] = "never"
    """What makes NoRoute: no consumer, no queue, the server's configuration decides, or nothing."""
    knows_servers: bool = False
    """ONE to a known but unreachable server is ConnectFailed, to an unknown one NoRoute."""
    redelivers: Literal["none", "on_loss", "seconds"] = "none"
    """When unsettled deliveries of a lost consumer come again: never, at the loss, or after some time."""
    settle: Literal["each", "cumulative", "none"] = "each"
    requeue: Literal["now", "later", "copy", "none"] = "none"
    """later: `delay` is honoured; copy: the message comes again as a copy at the end."""
    reject: Literal["dead_letter", "redeliver", "drop"] = "drop"
    ordering: Literal["none", "queue", "key"] = "none"
    ttl: bool = False
    """Time spent inside the backend counts against the budget."""
    stable_reply_address: bool = False
    """The reply address survives a reconnect, so written calls stay pending."""
    max_body: int = 2**31 - 1
    """Bytes."""
    threadsafe_publish: bool = False
    collects: bool = False
    """Whoever waits for the outcomes of many messages may fetch them himself: connections of notifiers are a
    CollectableConnection.
    """
    shared_roles: bool = False
    """One connection serves all roles of a transport."""
    flow_control: bool = False
    """The peer can ask for nothing more to be published, which is told as BLOCKED. Without, BLOCKED is only the mark of
    the driver's own buffer.
    """
    stall_detection: bool = True
    pump_stall: float = 0.0
    """Seconds that a pump may block beyond its timeout because the library does."""


class Services(Protocol):
    """What the owner lends to a connection."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds. All deadlines of Outgoing are on this clock."""

    @property
    def random(self) -> Callable[[], float]:
        """A float from [0, 1)."""

    def offload(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run what blocks (DNS, a library's close) in a bounded pool; `done(result, error)` is called from there:
        buffer and wake.
        """


class ConnectionEvents(Protocol):
    """What a connection tells; written once, by the reactor. Called at the end of `pump`, by the thread that pumps."""

    def on_state(
        self, state: State, cause: Exception | None, retry_in: float | None, peer: Capabilities | None
    ) -> None:
        """The state has changed. `retry_in` None with LOST: it will not retry (login refused). `peer`: with READY, the
        capabilities narrowed to what this server, as configured, can do; None when they are the declared ones.
        """

    def on_subscribed(self, source: Source, address: str, error: Exception | None) -> None:
        """Ready for real, and reachable at `address`; or refused, cancelled, gone: that source alone, the connection
        lives on.
        """

    def on_sent(self, results: Sequence[SentResult]) -> None:
        """News of messages. WRITTEN may be followed by one more; TAKEN and errors are final."""

    def on_taken(self, outgoings: Sequence[Outgoing]) -> None:
        """The same of messages of which nothing is to be told but TAKEN, for drivers that have hundreds at once."""

    def on_peer_lost(self, taker: str, error: Exception) -> None:
        """Without a broker: that consumer is gone, and what it had taken and did not answer is in doubt."""

    def on_settled(self, deliveries: Sequence[Delivery], error: Exception | None) -> None:
        """None: written. Else the settlement (a copy, a commit) did not happen and the original stays unsettled.

        One that may have left before the connection broke counts as written: what it was for comes again, and says so,
        or is done. Told as not written, it could be settled at the peer and run by nobody.
        """

    def awaits_settled(self) -> bool:
        """Whether anybody waits for on_settled now. Of what is settled while nobody does, a driver need not tell, and
        keep nothing: thousands of deliveries between two commits took a tenth of a listener's processor time.
        """

    def on_deliveries(self, source: Source, batch: Sequence[Delivery]) -> None:
        """One wake-up's worth of messages."""


class Connection(Protocol):
    """One connection to a broker, or to all peers. Touched by one thread at a time, its owner."""

    def pump(self, timeout: float) -> float:
        """Wait at most once and at most `timeout` seconds, then do a bounded amount of what is ready: connect,
        heartbeat, read, write, resubscribe; then fire the events; then flush what they published, without blocking.

        Returns the seconds for which it may be left alone; 0 when more is ready. The first call starts connecting.
        """

    def wake(self) -> None:
        """Make a waiting pump return early, or the next one not wait. Thread-safe. A library that cannot be woken waits
        at most 10 ms at a time.
        """

    def fileno(self) -> int | None:
        """One descriptor, the same until CLOSED, readable when pump has work, except for what the last pump has told by
        returning 0; None: only pump can wait.
        """

    def publish(self, outgoing: Outgoing) -> None:
        """Buffer a message; legal while READY or BLOCKED; answered by on_sent. Never blocks, never raises for what the
        peer does.
        """

    def subscribe(self, source: Source, window: int) -> None:
        """Receive from a source, with at most `window` unsettled deliveries; idempotent, and the way to change the
        window. 0 holds it (one old window may still arrive). Remembered over reconnects until unsubscribed.
        """

    def unsubscribe(self, source: Source) -> None:
        """Stop receiving; done at on_subscribed(error=Cancelled)."""

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """Settle deliveries of one source, in seconds of delay for REQUEUE; answered by on_settled. Stale ones are
        ignored and counted.
        """

    def close(self, grace: float) -> None:
        """Flush and close; after `grace` seconds drop what is left. Finish by pumping until on_state(CLOSED)."""

    def counts(self) -> dict[str, int]:
        """What only the driver sees, by name: undecodable, stale settlements, reconnects, dropped frames, ..."""


class CollectableConnection(Connection, Protocol):
    """A connection with `collects`: for libraries that take their reports to whichever thread asks for them."""

    def collect(self, timeout: float) -> Sequence[Outgoing] | None:
        """Wait for up to `timeout` seconds, and at most 10 ms, until something is taken, and return all that is; no
        event is fired for that. None: nothing can be fetched now, and nobody has waited. Any thread, and the owner
        keeps away for a moment. What else there is to tell is told by the owner.
        """


class Driver(Protocol):
    """One per family of URL schemes; without state. Register it as an entry point in the group `messaging.drivers`."""

    schemes: ClassVar[Collection[str]]
    """The schemes that it serves, without variant."""
    options: type[Any]
    """Its Settings."""

    def capabilities(self, settings: Any) -> Capabilities:
        """The most that this driver can do with these settings. Raises ConfigError where they contradict each other."""

    def connect(self, settings: Any, role: Role, events: ConnectionEvents, services: Services) -> Connection:
        """Make a connection object; no I/O yet."""
