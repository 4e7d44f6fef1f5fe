"""What RPC servers of both faces share: receive requests, run handlers within bounds, answer.

Nothing here waits. `ServerCore` decides when a request is settled, started, refused or handed back, and it
knows its transport only by capabilities:

* acceptance by the backend: as many requests are settled as there are idle slots, and one is started when its
  settlement is written, so that it runs at most once. What is not started is not settled, so a crash loses only what
  was running.
* acceptance by the peer: a request goes into the inbox, bounded; it is settled together with its answer, or alone after
  50 ms. Beyond the bound it is handed back, and the sender tries another server.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from messaging.codec import Serializer
from messaging.drivers.base import Role
from messaging.errors import (
    InvalidTarget,
    MessagingError,
    StateError,
    TooLarge,
    Unsupported,
)
from messaging.lifecycle import ServiceCore, ServiceState, check_count
from messaging.message import (
    CORRELATION_ID,
    MESSAGE_ID,
    Delivery,
    Outcome,
    Outgoing,
    Route,
    Source,
    SourceKind,
    Stage,
    Token,
)
from messaging.rpc.dispatcher import EXPOSED, AccessPolicy, Dispatcher, checked
from messaging.rpc.invocation import Around, Invocation, Invoker
from messaging.rpc.monitor import InHand, Monitor
from messaging.rpc.session import RpcSession
from messaging.target import Target, check_target
from messaging.transport import BaseTransport
from messaging.wire.base import Opener
from messaging.wire.native import Ping
from messaging.wire.recent import RecentIds

if TYPE_CHECKING:
    pass

__all__ = ["ServerCore"]

_log = logging.getLogger(__name__)

_REPLY_LIFE = 60.0
"""Seconds for which an answer is worth delivering when the request carried no budget."""
_COUNTS = (
    "received",
    "answered",
    "done",
    "failed",
    "expired",
    "busy",
    "duplicates",
    "undelivered_replies",
)
_MOST_ROUTES = 10_000
"""Callers whose reply routes are remembered."""


class _ReplyNews(Token):
    """Hears of answers that could not be delivered; one serves all, because nothing is waiting for it. `instead`: has
    the caller told of an answer that was too large; None: of these it has been told before.
    """

    __slots__ = ("_instead", "_undelivered")

    def __init__(
        self, undelivered: Callable[[], int], instead: Callable[[Outgoing, TooLarge], None] | None = None
    ) -> None:
        self._undelivered = undelivered
        self._instead = instead

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        if isinstance(error, TooLarge) and self._instead is not None:
            self._instead(outgoing, error)
        elif error is not None:
            self._undelivered()
            _log.debug("an answer could not be delivered: %s", error)


class PingEndpoint:
    """The built-in endpoint: `client.ping()` asks it, by the name that the wire format has for it. Version 1.0."""

    def __init__(self, server: str, asked: Ping) -> None:
        self._answer = asked.answer or server
        self.target = Target(namespace=asked.namespace, version="1.0")
        self.method = asked.method
        setattr(self, asked.method, self._pong)

    def _pong(self, ctxt: dict[str, Any]) -> str:
        return self._answer


class ServerCore(ServiceCore):
    """What servers of both faces do. Its public methods are thread-safe."""

    def __init__(
        self,
        transport: BaseTransport,
        target: Target,
        endpoints: Sequence[Any],
        *,
        serializer: Serializer | None = None,
        access: AccessPolicy = EXPOSED,
        executor: Literal["threads", "inline"] = "threads",
        slots: int = 32,
        inbox: int = 16_384,
        around: Sequence[Around] = (),
        traces: bool = True,
    ) -> None:
        super().__init__(transport, Role.RPC_SERVER, executor=executor, slots=slots)
        check_target(target)
        if not target.topic or not target.server:
            raise InvalidTarget(f"a server's target needs a topic and a server name, not {target!r}")
        check_count("inbox", inbox)
        self.target = target
        capabilities = transport.capabilities
        if not capabilities.rpc:
            raise Unsupported(transport.why_no_rpc())
        ping = PingEndpoint(target.server, transport.wire.ping)
        self._dispatcher = Dispatcher([*checked(endpoints), ping], _with_ping(access), serializer)
        late = [method.name for method in self._dispatcher.methods if method.delivery == "at_least_once"]
        if late and capabilities.redelivers == "none":
            raise Unsupported(
                f'{late[0]} has delivery="at_least_once", but {transport.url.kind}:// redelivers nothing; '
                "use a transport with a broker, or another delivery policy"
            )
        self._has_late = bool(late)
        self._serializer = serializer
        self._around = tuple(around)
        self._traces = traces
        self._inbox = inbox
        self._any_async = any(method.is_async for method in self._dispatcher.methods)
        exchange = target.exchange or transport.wire.exchange
        self._sources = [
            Source(SourceKind.ANY, exchange, target.topic, target.server),
            Source(SourceKind.ONE, exchange, target.topic, target.server),
        ]
        if capabilities.fanout != "none":
            self._sources.append(Source(SourceKind.ALL, exchange, target.topic, target.server))
        self._begun = RecentIds(transport.wire.remembers) if transport.wire.remembers else None
        """Set where senders repeat messages: their repetitions are dropped."""
        self._waiting: deque[InHand] = deque()
        self._routes: dict[str, Route] = {}
        self._session: RpcSession
        self._monitor: Monitor

    # Life

    def _name(self) -> str:
        return f"server {self.target.server} of topic {self.target.topic}"

    def _open(self, on_started: Callable[[Exception | None], None]) -> None:
        operations = self._begin_start(on_started)
        reactor = operations.reactor
        self._session = self.transport.attached(self._role, RpcSession)
        self._monitor = Monitor(
            reactor, self.target.server or "", lambda: self._session.address, operations.wire, self.cancelled
        )
        counters = operations.counters
        self._count = {name: counters.tally(f"server.{name}") for name in _COUNTS}
        self._count_received = self._count["received"].add
        self._count_answered = self._count["answered"].add
        self._invoker = Invoker(
            self._dispatcher,
            self._name(),
            self.target.server or "",
            self._serializer,
            self._around,
            self._traces,
            self._count,
            lambda: reactor.capabilities.max_body,
            operations.wire,
        )
        undelivered = self._count["undelivered_replies"].add
        self._news = _ReplyNews(undelivered, self._answer_shorter)
        self._last_news = _ReplyNews(undelivered)
        self._session.add_control(self)
        self._peer_settles = reactor.capabilities.acceptance == "peer"
        window = self._inbox if self._peer_settles else self._slots * 2
        receive = self._receive_for_peer if self._peer_settles else self._receive_for_backend
        opener = operations.wire.opener("requests")
        self._subscribe(
            self._sources,
            window,
            receive if opener is None else functools.partial(self._receive_closed, opener, receive),
        )

    def _hand_back(self, done: Callable[[], None]) -> None:
        """Give back what was not started; owner only."""
        back = [item for item in self._waiting if not item.delivery.stale]
        self._waiting.clear()
        for item in back:
            self._monitor.answered(item)
            self._reactor.settle([item.delivery], Outcome.REQUEUE)
        done()

    def _abandon(self) -> None:
        """Forget what did not end in time: its callers are told by the missing signs of life, or by their deadlines."""
        for item in list(self._monitor.in_hand.values()):
            if item.request is not None:
                item.request.gave_up = True
            if item.job is not None and self._tasks is not None:
                self._tasks.cancel(item.job)
        self._session.remove_control(self)
        super()._abandon()

    def health(self) -> dict[str, Any]:
        """See ServiceCore; and `in_hand`, how many requests are."""
        in_hand = len(self._monitor.in_hand) if self._state is not ServiceState.NEW else 0
        return {**super().health(), "in_hand": in_hand}

    # Receiving; on the owner

    def cancelled(self, ids: Sequence[str]) -> None:
        """Callers gave up, or are gone; see ControlHandler."""
        for item in self._monitor.cancelled(ids):
            if item.job is not None and self._tasks is not None:
                self._tasks.cancel(item.job)

    def _named(self, delivery: Delivery) -> InHand:
        id = delivery.headers.get(MESSAGE_ID)
        number = self._count_received()
        if type(id) is not str:
            id = f"anonymous-{id!r}-{number}"
        budget = delivery.budget
        return InHand(delivery, id, delivery.reply_to, None if budget is None else delivery.received + budget)

    def _receive_closed(
        self, opener: Opener, receive: Callable[[Sequence[Delivery]], None], batch: Sequence[Delivery]
    ) -> None:
        readable, unreadable = opener(batch)
        if unreadable:
            # Who sent it cannot be read either, so nobody is told.
            for _ in unreadable:
                self._count["received"].add()
                self._count["failed"].add()
            _log.warning("%s: %d requests are refused: they cannot be read", self._name(), len(unreadable))
            self._reactor.settle(unreadable, Outcome.REJECT, reason="it cannot be read")
        receive(readable)

    def _repeated(self, item: InHand) -> bool:
        """Whether the same request is in hand already: then its one answer serves both. Or was, where that counts."""
        known = self._monitor.in_hand.get(item.id)
        if known is not None:
            # It may have come over another connection than before: the answer goes where it is awaited now.
            known.reply_to = item.reply_to
        elif self._begun is None or self.transport.wire.unique_id(item.delivery.body) not in self._begun:
            return False
        self._count["duplicates"].add()
        return True

    def _receive_for_peer(self, batch: Sequence[Delivery]) -> None:
        jobs = []
        done: list[Delivery] = []
        busy: list[Delivery] = []
        in_hand = self._monitor.in_hand
        room = 0 if self._state is ServiceState.DRAINING else self._inbox
        for delivery in batch:
            if len(in_hand) >= room:
                self._count["busy"].add()
                busy.append(delivery)
                continue
            item = self._named(delivery)
            if (item.id in in_hand or self._begun is not None) and self._repeated(item):
                done.append(delivery)
                continue
            self._monitor.add(item)
            if not delivery.reply_to:
                done.append(delivery)
            jobs.append(item)
        if done:
            self._reactor.settle(done, Outcome.ACCEPT)
        if busy:
            self._reactor.settle(busy, Outcome.REQUEUE)
        if jobs:
            self._start(jobs)

    def _receive_for_backend(self, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            if self._state is ServiceState.DRAINING:
                self._reactor.settle([delivery], Outcome.REQUEUE)
            else:
                self._waiting.append(self._named(delivery))
        self._fill()

    def _fill(self) -> None:
        """Settle and start as much as there are idle slots."""
        room = self._slots - len(self._monitor.in_hand)
        now: list[InHand] = []
        while self._waiting and len(now) < room:
            item = self._waiting.popleft()
            if item.delivery.stale:
                continue
            if self._repeated(item):
                self._reactor.settle([item.delivery], Outcome.ACCEPT)
            else:
                self._monitor.add(item)
                now.append(item)
        if not now:
            return
        early = now
        if self._has_late:
            for item in now:
                item.late = self._invoker.settles_late(item)
            late = [item for item in now if item.late]
            early = [item for item in now if not item.late]
            if late:
                self._start(late)
        by_source: dict[Source, list[InHand]] = {}
        for item in early:
            by_source.setdefault(item.delivery.source, []).append(item)
        for items in by_source.values():
            started = {id(item.delivery): item for item in items}
            self._reactor.settle(
                [item.delivery for item in items], Outcome.ACCEPT, done=functools.partial(self._settled, started)
            )

    def _settled(self, started: dict[int, InHand], delivery: Delivery, error: Exception | None) -> None:
        item = started[id(delivery)]
        if error is None:
            if self._begun is not None:
                self._begun.add(self.transport.wire.unique_id(item.delivery.body))
            self._start([item])
        else:
            # It stays unsettled, so it comes again, here or elsewhere.
            self._monitor.answered(item)
            _log.info("%s: a request was not settled and is left to be delivered again: %s", self._name(), error)

    def _start(self, items: Sequence[InHand]) -> None:
        if self._on_loop and self._any_async:
            # On a loop the coroutines start right here; only blocking methods go to the pool.
            for item in items:
                self._serve(item)
        elif self._inline:
            for item in items:
                try:
                    self._serve(item)
                except Exception:
                    # Requests answer for their own errors; this is a bug in this library, and the others have to run.
                    _log.exception("%s: a request failed", self._name())
        else:
            self._executor.submit([functools.partial(self._serve, item) for item in items])

    # Serving; on a worker, or on the owner when inline

    def _serve(self, item: InHand) -> None:
        if self._too_late(item):
            return
        invoker = self._invoker
        invocation = invoker.prepare(item)
        if not isinstance(invocation, Invocation):
            self._finish(item, invocation)
        elif invocation.exposed.is_async:
            tasks = self._tasks
            if tasks is None:
                raise StateError(f"{self._name()} has no loop for its coroutines")
            item.job = tasks.job(functools.partial(self._run_coroutine, item, invocation))
            (tasks.start_here if threading.get_ident() == self._loop_thread else tasks.start)(item.job)
        elif self._on_loop and self._any_async and not self._inline:
            self._executor.submit([functools.partial(self._run_queued, item, invocation)])
        else:
            self._finish(item, invoker.run(item, invocation))

    def _too_late(self, item: InHand) -> bool:
        """Whether the caller of a request has stopped waiting; then it is passed over, here and now."""
        until = item.until
        if not item.gave_up and (until is None or self._clock() < until):
            return False
        self._count["expired"].add()
        self._finish(item, None)
        return True

    def _run_queued(self, item: InHand, invocation: Invocation) -> None:
        # It may have waited for a thread since `_serve` looked, and a coroutine for a slot.
        if not self._too_late(item):
            self._finish(item, self._invoker.run(item, invocation))

    async def _run_coroutine(self, item: InHand, invocation: Invocation) -> None:
        job, tasks, invoker = item.job, self._tasks, self._invoker
        if job is None or tasks is None:
            raise StateError("a coroutine was started without its job")
        try:
            if not job.begun():
                self._finish(item, None)
            elif not self._too_late(item):
                try:
                    body = invoker.result(item, invocation, await invoker.start(invocation))
                except BaseException as error:  # a cancelled handler still has to give its slot back
                    body = invoker.coroutine_failure(item, invocation, error)
                self._finish(item, body)
        finally:
            # The job holds the request and the request its job: no circle per call.
            item.job = None
            tasks.ended(job)

    def _finish(self, item: InHand, body: bytes | None) -> None:
        """Take a request out of hand and answer it; any thread."""
        fresh = self._monitor.answered(item)
        delivery = item.delivery
        reactor = self._reactor
        try:
            if item.late:
                reactor.accept(delivery)
            if body is None:
                if fresh and self._peer_settles:
                    reactor.accept(delivery)
            else:
                self._count_answered()
                reply_to = item.reply_to
                route = self._routes.get(reply_to)
                if route is None:
                    if len(self._routes) >= _MOST_ROUTES:
                        self._routes.clear()
                    route = self._routes[reply_to] = Route.reply(reply_to)
                outgoing = Outgoing(
                    route,
                    body,
                    {CORRELATION_ID: item.id},
                    self._news,
                    deadline=delivery.received + _REPLY_LIFE if item.until is None else item.until,
                    confirm=False,
                )
                if fresh and self._peer_settles:
                    reactor.answer(delivery, outgoing)
                else:
                    reactor.publish(outgoing)
            if self._waiting:
                reactor.call_soon(self._fill)
        except MessagingError:
            # The connection has ended, by a close or by a failure that its log tells of.
            self._count["undelivered_replies"].add()

    def _answer_shorter(self, refused: Outgoing, error: TooLarge) -> None:
        """Tell a caller of an answer that was refused: a broker may take less than `max_body`, and says so then only.
        On the owner.
        """
        id = refused.headers[CORRELATION_ID]
        body = self._invoker.shorter(id, refused.body, error)
        news = self._last_news
        try:
            self._reactor.publish(
                Outgoing(refused.route, body, {CORRELATION_ID: id}, news, deadline=refused.deadline, confirm=False)
            )
        except MessagingError as closed:
            news.sent(refused, None, closed, None)


def _with_ping(access: AccessPolicy) -> AccessPolicy:
    return lambda endpoint, method: (
        method == endpoint.method if isinstance(endpoint, PingEndpoint) else access(endpoint, method)
    )
