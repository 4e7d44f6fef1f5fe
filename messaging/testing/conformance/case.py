"""What a scenario works with: transports, clients and servers of its own, all closed at its end, and the books
balanced.

Every case has a topic that nobody else uses, so that runs may share a broker. Each server has a transport of its own
unless it is told otherwise: servers are separate processes in life, and a connection that dies shall take one with it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from messaging import rpc
from messaging.counters import OUTCOMES
from messaging.drivers.base import Capabilities, Connection, Role, State
from messaging.message import Route, Source, SourceKind, Stage
from messaging.pending import Operation
from messaging.target import DEFAULT_EXCHANGE, Target
from messaging.testing.conformance.bare import Bare
from messaging.testing.conformance.checks import PATIENCE, eventually
from messaging.testing.conformance.faces import Face, inner
from messaging.transport import Transport

if TYPE_CHECKING:
    from messaging.testing.conformance.subject import Subject

__all__ = ["Case"]

_STOP_GRACE = 2.0


class Case:
    """One run of one scenario, over one face and one subject."""

    def __init__(self, subject: Subject, face: Face, capabilities: Capabilities) -> None:
        self.subject = subject
        self.face = face
        self.capabilities = capabilities
        """What the transport promises, narrowed to what its peer can do."""
        self.url = subject.new_url()
        self.exchange = DEFAULT_EXCHANGE
        self.topic = f"conformance-{secrets.token_hex(6)}"
        self._transports: list[Transport] = []
        self._servers: list[Any] = []
        self._bare: list[Bare] = []
        self._gates: list[threading.Event] = []
        self._shared: Transport | None = None

    @property
    def pool(self) -> str | None:
        """A pool of its own where the transport has some, else the only one."""
        return "billing" if self.capabilities.pools else None

    # What a scenario makes

    def transport(self, url: str | None = None, **options: Any) -> Transport:
        """Open a transport that the case closes."""
        opened = self.face.open(url or self.url, **{**self.subject.options, **options})
        self._transports.append(opened)
        return opened

    @property
    def calling(self) -> Transport:
        """The transport of clients that need none of their own."""
        if self._shared is None:
            self._shared = self.transport()
        return self._shared

    def client(
        self,
        *,
        over: Transport | None = None,
        topic: str | None = None,
        namespace: str | None = None,
        version: str | None = None,
        **options: Any,
    ) -> rpc.Client:
        """Make a client of the case's topic, on the shared transport unless `over` says another."""
        target = Target(topic=topic or self.topic, namespace=namespace, version=version)
        options.setdefault("timeout", PATIENCE)
        return self.face.client(over or self.calling, target, **options)

    def server(
        self,
        *endpoints: Any,
        name: str = "a",
        topic: str | None = None,
        over: Transport | None = None,
        start: bool = True,
        **options: Any,
    ) -> rpc.Server:
        """Make a server of the case's topic on a transport of its own, and start it."""
        target = Target(topic=topic or self.topic, server=name)
        server = self.face.server(over or self.transport(), target, endpoints, **options)
        if start:
            server.start(PATIENCE)
        self._servers.append(server)
        return server

    def notifier(self, *, over: Transport | None = None, topic: str | None = None, **options: Any) -> Any:
        """Make a notifier of the case's topic, on the shared transport unless `over` says another."""
        options.setdefault("publisher_id", "conformance")
        return self.face.notify("Notifier", over or self.calling, topics=[topic or self.topic], **options)

    def listener(
        self, *endpoints: Any, over: Transport | None = None, start: bool = True, batch: bool = False, **options: Any
    ) -> Any:
        """Make a listener to the case's topic on a transport of its own, and start it."""
        kind = "BatchListener" if batch else "Listener"
        listener = self.face.notify(
            kind, over or self.transport(), [Target(topic=self.topic)], list(endpoints), **options
        )
        if start:
            listener.start(PATIENCE)
        self._servers.append(listener)
        return listener

    def submit(self, client: rpc.Client, method: Any, **args: Any) -> Future[Any]:
        """Start a call without waiting for it."""
        return self.face.submit(client, {}, method, **args)

    def accepted(self, future: Future[Any]) -> None:
        """Wait until all calls on the shared transport are known to be at a server, while `future` is under way."""

        def known() -> bool:
            return future.done() or any(call.outgoing.stage is Stage.TAKEN for call in self.under_way())

        eventually(known, "a call is accepted by its server")

    def under_way(self) -> list[Operation]:
        """What has begun on the shared transport and has not ended."""
        found = {id(operations): operations for operations in inner(self.calling)._operations.values()}
        return [operation for operations in found.values() for operation in operations.pending.everything()]

    def addresses(self, transport: Transport) -> list[str]:
        """The addresses at which a transport gets its answers."""
        return [reactor.address_of(Source.reply()) for reactor in inner(transport)._reactors()]

    def states(self, transport: Transport) -> set[State]:
        """The states of a transport's connections, as its users are told them."""
        return {State(told["state"]) for told in transport.health()["connections"].values()}

    def in_hand(self, transport: Transport) -> int:
        """How many requests wait at the servers of a transport, received and not started."""
        servers = [inner(server) for server in self._servers]
        return sum(len(server._waiting) for server in servers if server.transport is inner(transport))

    def gate(self) -> threading.Event:
        """An event for handlers to wait on; it is set at the end, so that a failed scenario leaves nobody waiting."""
        event = threading.Event()
        self._gates.append(event)
        return event

    def bare(self, role: Role = Role.ALL, *, url: str | None = None, connect: bool = True, **options: Any) -> Bare:
        """Make a connection of the driver that the scenario pumps itself; `connect`: until it is READY."""
        made = Bare(url or self.url, role, {**self.subject.options, **options})
        self._bare.append(made)
        if connect:
            made.connect()
        return made

    def receiving(self, window: int = 100, server: str = "a", **options: Any) -> tuple[Bare, Source]:
        """A bare connection that is subscribed to the case's topic, and its source."""
        rpc_too = self.capabilities.rpc
        made = self.bare(Role.RPC_SERVER if rpc_too else Role.LISTENER, **options)
        if rpc_too:
            source = Source(SourceKind.ANY, self.exchange, self.topic, server)
        else:
            # The one pool that every transport of notifications has.
            source = Source(SourceKind.POOLS, self.exchange, self.topic, pool="default")
        made.subscribe(source, window)
        return made, source

    def sending(self, **options: Any) -> tuple[Bare, Route]:
        """A bare connection for messages to the case's topic, and the route."""
        rpc_too = self.capabilities.rpc
        route = (Route.any if rpc_too else Route.pools)(self.exchange, self.topic)
        return self.bare(Role.RPC_CLIENT if rpc_too else Role.NOTIFIER, **options), route

    # What the subject's hooks do

    def cut(self, connection: Connection) -> None:
        """Break a connection."""
        hook = self.subject.disconnect
        if hook is None:
            raise LookupError("this scenario has to ask for the hook 'disconnect'")
        hook(connection)

    def disconnect(self, transport: Transport) -> None:
        """Break every connection of a transport."""
        for reactor in inner(transport)._reactors():
            self.cut(reactor._connection)

    def block(self, connection: Connection) -> AbstractContextManager[object]:
        """Have the peer want nothing more of a connection."""
        hook = self.subject.block
        if hook is None:
            raise LookupError("this scenario has to ask for the hook 'block'")
        return hook(connection)

    def stall(self, connection: Connection) -> AbstractContextManager[object]:
        """Let no byte reach a connection, nor its end."""
        hook = self.subject.stall
        if hook is None:
            raise LookupError("this scenario has to ask for the hook 'stall'")
        return hook(connection)

    def blocked(self, transport: Transport) -> AbstractContextManager[object]:
        """Have the peer want nothing more of every connection of a transport."""
        return self._to_each(transport, self.block)

    def stalled(self, transport: Transport) -> AbstractContextManager[object]:
        """Let no byte reach any connection of a transport."""
        return self._to_each(transport, self.stall)

    def _to_each(
        self, transport: Transport, hook: Callable[[Connection], AbstractContextManager[object]]
    ) -> AbstractContextManager[object]:
        with ExitStack() as entered:
            for reactor in inner(transport)._reactors():
                entered.enter_context(hook(reactor._connection))
            return entered.pop_all()

    def unreachable(self) -> str:
        """A URL at which nobody is."""
        hook = self.subject.unreachable
        if hook is None:
            raise LookupError("this scenario has to ask for the hook 'unreachable'")
        return hook()

    # Its end

    def close(self, failed: bool = False) -> None:
        """Stop and close everything; unless the scenario has failed already, the counters must balance."""
        for gate in self._gates:
            gate.set()
        steps: list[Callable[[], object]] = []
        steps += [partial(server.stop, _STOP_GRACE) for server in reversed(self._servers)]
        if not failed:
            steps += [partial(balance, opened) for opened in self._transports]
        steps += [partial(opened.close, 1.0) for opened in reversed(self._transports)]
        steps += [bare.close for bare in self._bare]
        if not failed:
            steps += [partial(_nobody_waits, opened) for opened in self._transports]
        _all(steps)


def balance(transport: Transport) -> None:
    """Wait until the books balance: for each kind, sent is the sum of all outcomes and what is in flight."""
    eventually(lambda: not _imbalance(transport.stats()), lambda: f"balance: {transport.stats()}", 2.0)


def _imbalance(stats: Mapping[str, int]) -> dict[str, int]:
    kinds = [name.removesuffix(".sent") for name in stats if name.endswith(".sent")]
    wrong = {}
    for kind in kinds:
        ended = sum(stats.get(f"{kind}.{outcome}", 0) for outcome in (*OUTCOMES, "in_flight"))
        if ended != stats[f"{kind}.sent"]:
            wrong[kind] = stats[f"{kind}.sent"] - ended
    return wrong


def _nobody_waits(transport: Transport) -> None:
    left = {name: count for name, count in transport.stats().items() if name.endswith(".in_flight") and count}
    if left:
        raise AssertionError(f"after the transport was closed, operations are still under way: {left}")


def _all(steps: list[Callable[[], object]]) -> None:
    """Run every step, whatever the others do, and raise what the first of them raised."""
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
