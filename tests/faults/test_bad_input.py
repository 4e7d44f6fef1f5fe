"""What people and programs get wrong: each thing is answered by an error of its own class that says what is known and
what to do, within the deadline, and the server goes on serving.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import messaging
from messaging import Delivered, rpc
from messaging.errors import (
    AccessDenied,
    BadArguments,
    Closed,
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    DecodeError,
    EncodeError,
    MessagingError,
    MethodNotFound,
    NoRoute,
    RemoteError,
    ServerLost,
    StateError,
    TooLarge,
    UnsupportedVersion,
)
from messaging.wire.native import NativeWire
from tests.faults.conftest import Stage
from tests.faults.processes import Stall

NO, MAYBE, YES = Delivered.NO, Delivered.MAYBE, Delivered.YES
TIMEOUT = 2.0
LIMIT = 100_000
"""The largest body of the transports here, in bytes."""


class Mistake(NamedTuple):
    """Something wrong, and how it has to be answered."""

    action: Callable[[rpc.Client], Any]
    error: type[BaseException]
    delivered: Delivered | None
    says: str
    at_once: bool = True
    """Whether the answer comes without waiting for the deadline."""


def raw(client: rpc.Client, body: bytes) -> Any:
    """Call with a request whose body is not what this library writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeWire, "encode_request", staticmethod(lambda request: body))
        # A client learns how to encode when it is prepared.
        return client.prepare().call(None, "raw")


MISTAKES = {
    "unknown method": Mistake(
        lambda client: client.call(None, "ecko", value=1), MethodNotFound, NO, "no method 'ecko'.*did you mean 'echo'"
    ),
    "method that is not exposed": Mistake(
        lambda client: client.call(None, "hidden"), AccessDenied, NO, "mark it with @rpc.expose"
    ),
    "unknown namespace": Mistake(
        lambda client: client.prepare(namespace="nowhere").call(None, "echo", value=1),
        MethodNotFound,
        NO,
        "no endpoint serves namespace 'nowhere'; namespaces here: ",
    ),
    "unsupported version": Mistake(
        lambda client: client.prepare(version="7.2").call(None, "echo", value=1),
        UnsupportedVersion,
        NO,
        "version 7.2 .* not served here; versions here: 1.0",
    ),
    "unknown argument": Mistake(
        lambda client: client.call(None, "echo", valeu=1), BadArguments, NO, "unknown argument.*valeu.*takes: value"
    ),
    "missing argument": Mistake(
        lambda client: client.call(None, "work"), BadArguments, NO, "missing argument.*id.*takes: id, seconds"
    ),
    "argument of another type": Mistake(
        lambda client: client.call(None, "work", id="x", seconds="long"), BadArguments, NO, "float.*seconds"
    ),
    "argument that is an option": Mistake(
        lambda client: client.call(None, "echo", timeout=3), ConfigError, NO, r"options go through prepare\(\)"
    ),
    "argument that cannot be encoded": Mistake(
        lambda client: client.call(None, "echo", value=threading.Lock()),
        EncodeError,
        NO,
        "argument 'value' of type lock.*set a serializer",
    ),
    "result that cannot be encoded": Mistake(
        lambda client: client.call(None, "unencodable"),
        EncodeError,
        YES,
        "the result of unencodable, of type lock, cannot be sent.*serializer",
    ),
    "request that is too large": Mistake(
        lambda client: client.call(None, "echo", value=bytes(LIMIT)), TooLarge, NO, f"this transport carries {LIMIT}"
    ),
    "result that is too large": Mistake(
        lambda client: client.call(None, "large", size=LIMIT), TooLarge, YES, f"this transport carries {LIMIT}"
    ),
    "body that is not of this library": Mistake(
        lambda client: raw(client, b"GET / HTTP/1.1\r\n\r\n"), DecodeError, NO, "not a message of this library"
    ),
    "body of another version": Mistake(
        lambda client: raw(client, b"\x98\x02\x01\x00\xa4echo\xc0\xc0\x80\x80"), DecodeError, NO, "speaks version 1"
    ),
    "body with an unknown feature": Mistake(
        lambda client: raw(client, b"\x98\x01\x01\x04\xa4echo\xc0\xc0\x80\x80"), DecodeError, NO, "upgrade this side"
    ),
    "body that is cut off": Mistake(
        lambda client: raw(client, b"\x98\x01\x01\x00\xa4ec"), DecodeError, NO, "malformed.*truncated"
    ),
    "topic that nobody serves": Mistake(
        lambda client: client.prepare(topic="elsewhere").call(None, "echo", value=1),
        NoRoute,
        NO,
        "nobody serves topic 'elsewhere'",
    ),
    "server that does not exist": Mistake(
        lambda client: client.prepare(server="z").call(None, "echo", value=1), NoRoute, NO, "server 'z'"
    ),
    "topic that nobody serves, awaited": Mistake(
        lambda client: client.prepare(topic="elsewhere", wait_for_ready=True, timeout=0.3).call(None, "name"),
        MessagingError,
        NO,
        "elsewhere",
        at_once=False,
    ),
    "cast to nobody": Mistake(
        lambda client: client.prepare(topic="elsewhere").cast(None, "echo", value=1), NoRoute, NO, "nobody serves"
    ),
    "exception of a handler": Mistake(
        lambda client: client.call(None, "fail", how="raise"), RemoteError, YES, "ZeroDivisionError: not agreed"
    ),
    "handler that calls sys.exit": Mistake(
        lambda client: client.call(None, "fail", how="sys.exit"), RemoteError, YES, "SystemExit"
    ),
    "handler that takes too long": Mistake(
        lambda client: client.prepare(timeout=0.2).call(None, "work", id="slow", seconds=0.6),
        DeadlineExceeded,
        MAYBE,
        "deadline of 0.2 s; a server has taken it, but has not answered",
        at_once=False,
    ),
    "infinite timeout": Mistake(
        lambda client: client.prepare(timeout=float("inf")), ConfigError, NO, "timeout must be finite"
    ),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rpc.Client]:
    """A client of a server that lives through all mistakes."""
    stage = Stage(tmp_path_factory.mktemp("mistakes"))
    try:
        stage.service("a", transport={"max_message": LIMIT})
        transport = stage.transport(max_message=LIMIT)
        yield rpc.Client(transport, messaging.Target(topic="t"), timeout=TIMEOUT)
    finally:
        stage.close()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_and_the_server_serves_on(there: rpc.Client, mistake: Mistake) -> None:
    """The error is of its own class, says what is known and the cure, and comes in time; the next call is answered."""
    assert there.call(None, "echo", value="before") == "before"
    with Stall() as stall:
        begun = time.monotonic()
        with pytest.raises(mistake.error, match=f"(?s){mistake.says}") as told:
            mistake.action(there)
        took = time.monotonic() - begun
    assert getattr(told.value, "delivered", None) is mistake.delivered
    # What needs no waiting is answered at once, which here means: long before the deadline, however slowly the server
    # gets to run; the rest at a deadline of at most 0.3 s, which is the caller's own business.
    assert took < (TIMEOUT / 2 if mistake.at_once else 0.4) + stall.worst
    assert there.call(None, "echo", value="after") == "after"


def test_a_handler_that_ends_its_process_costs_its_callers_the_server(stage: Stage) -> None:
    """os._exit in a handler: its caller gets ServerLost(MAYBE) at once, and later calls NoRoute."""
    worker = stage.service("a")
    client = stage.client(timeout=TIMEOUT)
    with Stall() as stall:
        begun = time.monotonic()
        with pytest.raises(ServerLost) as told:
            client.call(None, "fail", how="os._exit")
        took = time.monotonic() - begun
    assert told.value.delivered is MAYBE
    assert took < TIMEOUT / 2 + stall.worst
    assert worker.wait() == 3
    with pytest.raises(NoRoute):
        client.call(None, "name")


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_blocking_call_from_the_thread_that_does_the_io(stage: Stage, executor: str) -> None:
    """An inline handler that calls over its own transport and waits gets a StateError that says what to do instead of
    waiting for itself; on a pool of threads the same is answered.
    """
    stage.service("a", options={"executor": executor})
    client = stage.client(timeout=TIMEOUT)
    with Stall() as stall:
        begun = time.monotonic()
        said = client.call(None, "call_oneself", whom="t")
        took = time.monotonic() - begun
    assert took < TIMEOUT / 2 + stall.worst
    assert said == "answered" if executor == "threads" else 'executor="threads"' in said
    assert client.call(None, "name") == "a"


@pytest.mark.parametrize("answers", ["refuses", "says nothing"])
def test_a_peer_that_cannot_be_reached(answers: str) -> None:
    """A fixed address where nobody listens, or somebody who says nothing: ConnectFailed that names it where nothing is
    to be repeated, and else the same reason at the deadline; never delivered.
    """
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        if answers == "says nothing":
            there.listen()
        place = f"127.0.0.1:{there.getsockname()[1]}"
        for options, kind, within in (
            ({"retry": 0}, ConnectFailed, 0.9),
            ({}, MessagingError, 1.1),
            ({"wait_for_ready": True}, MessagingError, 1.1),
        ):
            # A transport for each, because one that has failed before waits longer until it tries again.
            with messaging.open_transport(f"zmq+static://{place}", connect_timeout=0.2) as transport, Stall() as stall:
                client = rpc.Client(transport, messaging.Target(topic="t"), timeout=1.0).prepare(**options)
                begun = time.monotonic()
                with pytest.raises(kind, match=place) as told:
                    client.call(None, "name")
                took = time.monotonic() - begun
                assert told.value.delivered is NO
            assert took < within + stall.worst


def test_use_after_close(stage: Stage) -> None:
    """After close every verb says Closed with delivered NO, and closing again is nothing."""
    stage.service("a")
    transport = stage.transport()
    client = rpc.Client(transport, messaging.Target(topic="t"))
    held = client.submit(None, "hold", id="held", seconds=10)
    stage.effects(1)
    transport.close()
    transport.close()
    error = held.exception(1)
    assert isinstance(error, Closed)
    assert error.delivered is MAYBE
    verbs: list[Callable[[], object]] = [
        lambda: client.call(None, "name"),
        lambda: client.cast(None, "name"),
        lambda: client.fanout(None, "name"),
        lambda: client.submit(None, "name").result(1),
        lambda: rpc.Client(transport, messaging.Target(topic="t")).call(None, "name"),
    ]
    for verb in verbs:
        with pytest.raises(Closed) as told:
            verb()
        assert told.value.delivered is NO


def test_a_server_that_was_stopped_or_never_started(stage: Stage) -> None:
    """A server starts once; what was not started says so when it is waited for."""

    class Empty:
        @rpc.expose
        def nothing(self, ctxt: dict[str, Any]) -> None:
            """Do nothing."""

    transport = stage.transport()
    server = rpc.Server(transport, messaging.Target(topic="t", server="s"), [Empty()])
    with pytest.raises(messaging.errors.NotStarted):
        server.wait(0.1)
    server.start()
    with pytest.raises(StateError, match="make a new one"):
        server.start()
    assert server.stop(1)
    with pytest.raises(StateError, match="make a new one"):
        server.start()
