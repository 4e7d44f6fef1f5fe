"""Bugs to be planted into a process, by name: a test that cannot fail proves nothing, so each kind of fault is also run
with the bug that it is there to find.

Each one replaces a small part of the library by what a tired author might have written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tests.faults.driver_plants import DRIVER_PLANTS
from tests.faults.kafka_plants import KAFKA_PLANTS

__all__ = ["PLANTS", "plant"]


def runs_twice() -> None:
    """A server that runs each request twice, as a retry in the wrong layer would."""
    from messaging.rpc.invocation import Invocation, Invoker
    from messaging.rpc.monitor import InHand

    once = Invoker.run

    def twice(self: Invoker, item: InHand, invocation: Invocation) -> bytes | None:
        once(self, item, invocation)
        return once(self, item, invocation)

    Invoker.run = twice  # type: ignore[method-assign]


def ignores_budget() -> None:
    """A server that does not look at the budget of a request before it runs it."""
    from messaging.rpc.base_server import ServerCore
    from messaging.rpc.monitor import InHand

    def never(self: ServerCore, item: InHand) -> bool:
        return False

    ServerCore._too_late = never  # type: ignore[method-assign]


def gives_no_signs() -> None:
    """A server that never tells that a call is still running."""
    from messaging.rpc.monitor import Monitor

    def silent(self: Monitor) -> None:
        self._signing = False

    Monitor._give_signs = silent  # type: ignore[method-assign]


def refuses_but_runs() -> None:
    """A server that answers BUSY and runs the request nevertheless."""
    from messaging.message import Delivery, Outcome
    from messaging.rpc.base_server import ServerCore

    receive = ServerCore._receive_for_peer

    def both(self: ServerCore, batch: Sequence[Delivery]) -> None:
        receive(self, batch)
        self._reactor.settle(batch, Outcome.REQUEUE)

    ServerCore._receive_for_peer = both  # type: ignore[method-assign]


def stops_without_draining() -> None:
    """A service that ends at the first signal, with whatever is in its hands."""
    from messaging.rpc.server import Server

    def stop(self: Any, grace: float = 25.0) -> bool:
        os._exit(0)

    Server.stop = stop  # type: ignore[method-assign]


def raises_on_garbage() -> None:
    """A server whose decoder lets an exception out that nobody expects."""
    from messaging.drivers.zmq import callers
    from messaging.drivers.zmq.frames import decode
    from messaging.errors import DecodeError

    def careless(data: bytes | memoryview) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            raise IndexError("list index out of range") from error

    callers.decode = careless  # type: ignore[attr-defined]


def keeps_garbage() -> None:
    """A server that remembers 50 kB of everybody who ever said something that it did not understand."""
    from messaging.drivers.zmq import callers
    from messaging.drivers.zmq.frames import decode
    from messaging.errors import DecodeError

    kept: list[bytearray] = []

    def hoard(data: bytes | memoryview) -> Any:
        try:
            return decode(data)
        except DecodeError:
            kept.append(bytearray(os.urandom(50_000)))
            raise

    callers.decode = hoard  # type: ignore[attr-defined]


def serves_anybody() -> None:
    """A server that greets and serves callers who look for the process that had its address before."""
    from messaging.drivers.zmq import callers
    from messaging.drivers.zmq.frames import Hello

    on_hello = callers.Callers._on_hello

    def blind(self: callers.Callers, routing: bytes, hello: Hello) -> None:
        identity, revision = self._runtime.identity, self._inbox.revision
        if hello.instance:
            # As if the table of subscriptions had not changed either.
            self._runtime.identity, self._inbox.revision = hello.instance, 0
        hello.instance = ""
        try:
            on_hello(self, routing, hello)
        finally:
            self._runtime.identity, self._inbox.revision = identity, revision

    callers.Callers._on_hello = blind  # type: ignore[method-assign]


def ignores_forks() -> None:
    """A transport that a forked child uses as if it were its own."""
    from messaging.transport import BaseTransport

    def unmoved(self: BaseTransport) -> None:
        pass

    BaseTransport._forked = unmoved  # type: ignore[method-assign]


def connects_with_a_jolt() -> None:
    """A driver that, whenever it tries to connect, keeps the interpreter from running anything else, and tries as often
    in the end as in the beginning.
    """
    from messaging.backoff import Backoff
    from messaging.drivers.base import State
    from messaging.reactor import Reactor

    on_state = Reactor.on_state

    def jolt(self: Reactor, state: State, *about: Any) -> None:
        if state is State.CONNECTING:
            # A quarter of a second of a processor: it has to stand out from what a busy machine does to everybody.
            sum(range(12_000_000))
        on_state(self, state, *about)

    def soon(self: Backoff) -> float:
        return 0.2

    Reactor.on_state = jolt  # type: ignore[method-assign, assignment]
    Backoff.next = soon  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = (
    {
        function.__name__: function
        for function in (
            runs_twice,
            ignores_budget,
            gives_no_signs,
            refuses_but_runs,
            stops_without_draining,
            raises_on_garbage,
            keeps_garbage,
            serves_anybody,
            ignores_forks,
            connects_with_a_jolt,
        )
    }
    | DRIVER_PLANTS
    | KAFKA_PLANTS
)


def plant(name: str) -> None:
    """Plant a bug into this process; the empty name plants none. Raises KeyError for an unknown one."""
    if name:
        PLANTS[name]()
