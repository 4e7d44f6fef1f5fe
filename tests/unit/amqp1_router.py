"""A router of AMQP 1.0 in this process, on the package proton: stores nothing, settles end to end.

What qpid-dispatch 1.19 and skupper-router 3.5 do with the messages of one process: balanced addresses, multicast where
the address says so, `released` where nobody consumes, `modified` where a consumer went with what it had. In every
`modified` they set `failed`, and pass on `undeliverable` as the consumer has it. Tests take hold of it by `Router.do`,
which runs a function in its thread.

`python -m tests.unit.amqp1_router PORT` is one in a process of its own, for tests that kill it.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from proton import Condition, Delivery, Endpoint, Link, Message, Terminus, symbol
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

from tests.brokers.ports import free_port

__all__ = ["Router"]


_PRECEDENCE = (Delivery.RELEASED, Delivery.MODIFIED, Delivery.ACCEPTED, Delivery.REJECTED)
"""Which outcome the sender of a multicast is told when its consumers differ: the last one of these."""


class Parcel:
    """One message on its way: who sent it, and who has not yet said what became of it."""

    def __init__(self, data: bytes, came: Any, settled: bool) -> None:
        self.data = data
        self.came = came
        """The delivery at the router's receiving end."""
        self.settled = settled
        self.open: set[Any] = set()
        self.outcomes: list[int] = []
        self.multicast = False


class _Handler(MessagingHandler):
    def __init__(self, router: Router) -> None:
        super().__init__(prefetch=0, auto_accept=False, auto_settle=False, peer_close_is_error=False)
        self.router = router

    def on_start(self, event: Any) -> None:
        self.router.container = event.container
        self.router.listener = event.container.listen(f"127.0.0.1:{self.router.port}")
        event.container.selectable(self.router.injector)
        self.router.started.set()

    def on_connection_opening(self, event: Any) -> None:
        event.connection.properties = {symbol("product"): self.router.product, symbol("version"): "1.19.0"}
        event.connection.offered_capabilities = symbol("ANONYMOUS-RELAY")
        event.connection.transport.idle_timeout = self.router.idle
        if self.router.most_sessions:
            event.connection.transport.channel_max = self.router.most_sessions - 1
        self.router.connections.append(event.connection)

    def on_link_opening(self, event: Any) -> None:
        link = event.link
        if link.is_sender:
            if link.remote_source.address in self.router.refusing:
                link.source.type = Terminus.UNSPECIFIED
                link.target.type = Terminus.UNSPECIFIED
                return
            if link.remote_source.dynamic:
                link.source.address = f"amqp:/_topo/0/A/temp.{next(self.router.numbers)}"
                link.source.dynamic = True
            else:
                link.source.address = link.remote_source.address
            link.target.address = link.remote_target.address
            self.router.consumers.setdefault(link.source.address, []).append(link)
        else:
            link.source.address = link.remote_source.address
            link.target.address = link.remote_target.address
            self.router.senders.append(link)
            link.flow(self.router.credit)

    def on_link_opened(self, event: Any) -> None:
        if event.link.source.type == Terminus.UNSPECIFIED:
            event.link.condition = Condition("amqp:not-found", "refused by a test")
            event.link.close()

    def on_link_flow(self, event: Any) -> None:
        if event.link.is_sender:
            self.router.pass_on(event.link.source.address)

    def on_delivery(self, event: Any) -> None:
        delivery = event.delivery
        if event.link.is_receiver:
            if delivery.readable and not delivery.partial:
                self.router.take(event.link, delivery)
        elif delivery.updated or delivery.settled:
            self.router.answered(delivery)

    def on_link_closing(self, event: Any) -> None:
        self.router.gone(event.link)

    def on_session_closing(self, event: Any) -> None:
        for link in list(self.router.links()):
            if link.session == event.session:
                self.router.gone(link)

    def on_connection_closing(self, event: Any) -> None:
        self.on_disconnected(event)

    def on_disconnected(self, event: Any) -> None:
        connection = event.connection
        for link in list(self.router.links()):
            if link.connection == connection:
                self.router.gone(link)
        if connection in self.router.connections:
            self.router.connections.remove(connection)

    def on_run(self, event: Any) -> None:
        function, done, result = event.subject
        try:
            result.append(function())
        finally:
            done.set()

    def on_stop(self, event: Any) -> None:
        self.router.listener.close()
        for connection in list(self.router.connections):
            connection.close()
        self.router.injector.close()
        self.router.container.stop()


class Router:
    """A router on a port of its own, or the given one. Use it in a `with` block."""

    def __init__(self, credit: int = 250, product: str = "qpid-dispatch-router", port: int = 0) -> None:
        self.port = port or free_port()
        self.credit = credit
        """What senders are granted at first, and what is kept up."""
        self.product = product
        self.refusing: set[str] = set()
        """Addresses to which no consumer may attach."""
        self.idle = 0.0
        """Seconds of silence after which it gives a connection up; 0: never."""
        self.most_sessions = 0
        """Sessions that a connection may have; 0: what proton allows. One more breaks the connection."""
        self.numbers = itertools.count(1)
        self.consumers: dict[str, list[Any]] = {}
        self.senders: list[Any] = []
        self.connections: list[Any] = []
        self.waiting: dict[str, deque[Parcel]] = {}
        self.under_way: dict[Any, Parcel] = {}
        self.outcomes: list[int] = []
        """What senders were told, in order."""
        self.credit_left: list[int] = []
        """What consumers had when they said what became of a message, in order."""
        self.dropped = 0
        self.holding = False
        """While it is, outcomes are not passed on."""
        self.held: list[tuple[Parcel, int]] = []
        self.started = threading.Event()
        self.injector = EventInjector()
        self.container: Any = None
        self.listener: Any = None
        self._thread = threading.Thread(target=Container(_Handler(self)).run, name="router", daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"amqp1://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.started.wait(10), "the router did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self.injector.trigger(ApplicationEvent("stop"))
        self._thread.join(5)

    def do(self, function: Callable[[], Any]) -> Any:
        """Run a function in the router's thread and return what it returned."""
        done = threading.Event()
        result: list[Any] = []
        self.injector.trigger(ApplicationEvent("run", subject=(function, done, result)))
        assert done.wait(10), "the router did not answer"
        return result[0]

    # What tests do to it

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let it read and write nothing while the block lasts."""
        stands, goes_on = threading.Event(), threading.Event()

        def stand() -> None:
            stands.set()
            assert goes_on.wait(30), "nobody has let it go on"

        self.injector.trigger(ApplicationEvent("run", subject=(stand, threading.Event(), [])))
        assert stands.wait(10), "the router did not stand still"
        try:
            yield
        finally:
            goes_on.set()

    def grant(self, credit: int) -> None:
        """Let every sender send that many more."""

        def act() -> None:
            for link in self.senders:
                link.flow(credit)

        self.do(act)

    def detach(self, address: str, condition: str = "amqp:resource-deleted") -> None:
        """End the links of an address's consumers."""

        def act() -> None:
            for link in list(self.consumers.get(address, ())):
                link.condition = Condition(condition, "ended by a test")
                link.close()
                self.gone(link)

        self.do(act)

    def end_session(self, address: str) -> list[str]:
        """End the session of an address's consumer; the addresses of all consumers that it had."""

        def act() -> list[str]:
            session = self.consumers[address][0].session
            links = [link for link in self.links() if link.session == session]
            session.condition = Condition("amqp:session:errant-link", "ended by a test")
            session.close()
            for link in links:
                self.gone(link)
            return [link.source.address for link in links if link.is_sender]

        ended: list[str] = self.do(act)
        return ended

    def detach_senders(self) -> None:
        """End the links of all senders; what they have under way is not answered."""

        def act() -> None:
            for link in list(self.senders):
                link.condition = Condition("amqp:internal-error", "ended by a test")
                link.close()
                self.senders.remove(link)

        self.do(act)

    def drop(self) -> None:
        """Break every connection."""

        def act() -> None:
            for connection in list(self.connections):
                connection.transport.close_head()
                connection.transport.close_tail()

        self.do(act)

    def release_outcomes(self) -> None:
        """Pass on what was held."""

        def act() -> None:
            self.holding = False
            held, self.held = self.held, []
            for parcel, outcome in held:
                self._tell(parcel, outcome)

        self.do(act)

    # Routing; in its thread

    def links(self) -> list[Any]:
        """Every link that is open."""
        return [*self.senders, *(link for links in self.consumers.values() for link in links)]

    def take(self, link: Any, delivery: Any) -> None:
        """Take a message of a sender."""
        data = link.recv(delivery.pending)
        link.advance()
        if self.credit:
            link.flow(1)
        message = Message()
        message.decode(data)
        address = message.address or link.target.address
        parcel = Parcel(data, delivery, delivery.settled)
        if delivery.settled:
            delivery.settle()
        consumers = self.consumers.get(address, [])
        if not consumers:
            self._finish(parcel, Delivery.RELEASED)
        elif "/multicast/" in address:
            parcel.multicast = True
            for consumer in consumers:
                if consumer.credit > 0:
                    self._forward(consumer, parcel)
            if not parcel.open and not parcel.settled:
                self._finish(parcel, Delivery.RELEASED)
        else:
            self.waiting.setdefault(address, deque()).append(parcel)
            self.pass_on(address)

    def pass_on(self, address: str) -> None:
        """Give what waits to consumers that have credit, to the least busy first."""
        waiting = self.waiting.get(address, deque())
        while waiting:
            able = [link for link in self.consumers.get(address, ()) if link.credit > 0]
            if not able:
                return
            self._forward(min(able, key=lambda link: link.unsettled), waiting.popleft())

    def _forward(self, consumer: Any, parcel: Parcel) -> None:
        delivery = consumer.delivery(f"{next(self.numbers)}")
        consumer.send(parcel.data)
        consumer.advance()
        if parcel.settled:
            delivery.settle()
        else:
            parcel.open.add(delivery)
            self.under_way[delivery] = parcel

    def answered(self, delivery: Any) -> None:
        """A consumer has said what became of a message."""
        parcel = self.under_way.pop(delivery, None)
        state = delivery.remote_state
        undeliverable = state == Delivery.MODIFIED and delivery.remote.undeliverable
        self.credit_left.append(delivery.link.credit)
        delivery.settle()
        if parcel is not None:
            self._note(parcel, delivery, state, undeliverable)

    def _note(self, parcel: Parcel, delivery: Any, state: int, undeliverable: bool) -> None:
        parcel.open.discard(delivery)
        parcel.outcomes.append(state)
        if parcel.open:
            return
        outcome = max(parcel.outcomes, key=_PRECEDENCE.index)
        if outcome == Delivery.MODIFIED:
            parcel.came.local.failed = True
            # Of several consumers it is not said which of them meant what.
            parcel.came.local.undeliverable = undeliverable and not parcel.multicast
        self._finish(parcel, outcome)

    def _finish(self, parcel: Parcel, outcome: int) -> None:
        if parcel.settled:
            self.dropped += outcome == Delivery.RELEASED
        elif self.holding:
            self.held.append((parcel, outcome))
        else:
            self._tell(parcel, outcome)

    def _tell(self, parcel: Parcel, outcome: int) -> None:
        came = parcel.came
        if came.link is None or came.link.state & Endpoint.REMOTE_CLOSED:
            return
        self.outcomes.append(outcome)
        came.update(outcome)
        came.settle()

    def gone(self, link: Link) -> None:
        """A link has ended, by whomever: what its consumer had is in doubt, what waits for nobody is released."""
        if link in self.senders:
            self.senders.remove(link)
        for address, consumers in list(self.consumers.items()):
            if link not in consumers:
                continue
            consumers.remove(link)
            for delivery in [each for each, parcel in self.under_way.items() if each.link == link]:
                self._note(self.under_way.pop(delivery), delivery, Delivery.MODIFIED, False)
            if not consumers:
                for parcel in self.waiting.pop(address, ()):
                    with contextlib.suppress(KeyError):
                        self._finish(parcel, Delivery.RELEASED)


if __name__ == "__main__":
    with Router(port=int(sys.argv[1])):
        threading.Event().wait()
