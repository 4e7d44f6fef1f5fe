"""What is wrong is told by a typed error, before anything is sent where that is known; the server keeps serving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from messaging import rpc
from messaging.errors import (
    AccessDenied,
    BadArguments,
    Closed,
    ConfigError,
    Delivered,
    EncodeError,
    InvalidTarget,
    MessagingError,
    MethodNotFound,
    RemoteError,
    TooLarge,
    Unsupported,
    UnsupportedVersion,
)
from messaging.message import MESSAGE_ID, Route
from messaging.target import Target
from messaging.testing.conformance.bare import together
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import Log, check, equal, punctual, raises
from messaging.testing.conformance.scenario import Group

__all__ = ["refusals"]

refusals = Group("refusals", needs=("rpc",))


class OutOfStock(Exception):
    """Declared by the service: part of its contract."""

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(sku, left)
        self.sku = sku
        self.left = left


class Undeclared(Exception):
    """Raised without being declared."""


class Service:
    """Fails in many ways."""

    target = Target(namespace="service", version="1.2")

    def __init__(self) -> None:
        self.ran: Log[Any] = Log()

    @rpc.expose
    def add(self, ctxt: dict[str, Any], left: int, right: int = 0) -> int:
        """Return a sum."""
        self.ran.add((left, right))
        return left + right

    def hidden(self, ctxt: dict[str, Any]) -> None:
        """Not exposed."""
        self.ran.add("hidden")

    @rpc.expose
    def result(self, ctxt: dict[str, Any], kind: str) -> Any:
        """Return what cannot be written down, or too much of it."""
        self.ran.add(kind)
        return {"object": object(), "huge": 2**70, "large": b"x" * 262_144}[kind]

    @rpc.expose(raises=(OutOfStock,))
    def reserve(self, ctxt: dict[str, Any], sku: str) -> None:
        """Raise the declared exception."""
        raise OutOfStock(sku, 3)

    @rpc.expose
    def fail(self, ctxt: dict[str, Any], kind: str) -> None:
        """Raise something else."""
        kinds: dict[str, type[BaseException]] = {"ours": Closed, "encode": EncodeError, "exit": SystemExit}
        raise kinds.get(kind, Undeclared)("for this reason")


def _still_serves(client: rpc.Client) -> None:
    equal(client.call({}, "add", left=1, right=2), 3, "a call after what was refused")


@refusals.add("What a server does not offer is refused by name, and was not executed.")
def unknown_names(case: Case) -> None:
    """Method, version, namespace, access: each its own error, delivered NO, told at once."""
    service = Service()
    case.server(service)
    client = case.client(namespace="service", version="1.2")
    wrong: list[tuple[rpc.Client, str, type[RemoteError], str]] = [
        (client, "ad", MethodNotFound, "add"),
        (client, "hidden", AccessDenied, "hidden"),
        (client, "__init__", MethodNotFound, "__init__"),
        (client, "target", MethodNotFound, "target"),
        (client.prepare(version="1.3"), "add", UnsupportedVersion, "1.3"),
        (client.prepare(version="2.0"), "add", UnsupportedVersion, "2.0"),
        (client.prepare(namespace="other"), "add", MethodNotFound, "other"),
        (client.prepare(namespace=None), "add", MethodNotFound, "None"),
    ]
    for asking, method, kind, word in wrong:
        with punctual(1.0, "a refusal"), raises(kind, what=f"{method} of {asking.target}") as caught:
            asking.call({}, method)
        equal(type(caught.error), kind, "the class of the error")
        equal(caught.error.delivered, Delivered.NO, f"delivered of {kind.__name__}")
        check(word in str(caught.error), f"the error does not name {word!r}: {caught.error}")
    equal(service.ran.items, [], "what was executed")
    _still_serves(client)


@refusals.add("Arguments that do not fit are refused by name, and the method was not executed.")
def bad_arguments(case: Case) -> None:
    """Missing, unknown and mistyped ones."""
    service = Service()
    case.server(service)
    client = case.client(namespace="service", version="1.0")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "left"),
        ({"left": 1, "middle": 2}, "middle"),
        ({"left": "one"}, "left"),
        ({"left": 1, "right": None}, "right"),
        ({"left": 1.5}, "left"),
    ]
    for args, word in wrong:
        with raises(BadArguments, what=f"add({args})") as caught:
            client.call({}, "add", **args)
        equal(caught.error.delivered, Delivered.NO, "delivered")
        check(word in str(caught.error), f"the error does not name {word!r}: {caught.error}")
    equal(service.ran.items, [], "what was executed")
    _still_serves(client)


@refusals.add("What cannot be written down is an EncodeError: of the caller before sending, of a result to the caller.")
def unencodable(case: Case) -> None:
    """The argument is named, and nothing was sent; a result says that the handler ran."""
    service = Service()
    case.server(service)
    client = case.client(namespace="service", version="1.0")
    _still_serves(client)
    sent = case.calling.stats()["call.sent"]
    for value in (object(), 2**70, {"deep": {1, object()}}, lambda: None):
        for verb in (client.call, client.cast):
            with raises(EncodeError, what="an argument that cannot be encoded") as caught:
                verb({}, "add", left=value)
            equal(caught.error.delivered, Delivered.NO, "delivered of an unencodable argument")
            check("left" in str(caught.error), f"the error does not name the argument: {caught.error}")
    with raises(EncodeError, what="a context that cannot be encoded"):
        client.call({"user": object()}, "add", left=1)
    equal(case.calling.stats()["call.sent"], sent, "the number of calls sent")
    for kind in ("object", "huge"):
        with raises(EncodeError, what=f"a result that cannot be encoded ({kind})") as caught:
            client.call({}, "result", kind=kind)
        equal(caught.error.delivered, Delivered.YES, "delivered of an unencodable result")
    _still_serves(client)


@refusals.add(
    "What is larger than the transport carries is TooLarge, on the way there and on the way back.", hooks=("limited",)
)
def too_large(case: Case) -> None:
    """The caller is told at once, and what fits still passes, over the same connection."""
    service = Service()
    options = dict(case.subject.limited or {})
    case.server(service, over=case.transport(**options))
    client = case.client(namespace="service", version="1.0", over=case.transport(**options))
    _still_serves(client)
    for verb in (client.call, client.cast):
        with punctual(1.0, "TooLarge"), raises(TooLarge, what="a request of 256 KiB") as caught:
            verb({}, "add", left=1, right=b"x" * 262_144)
        equal(caught.error.delivered, Delivered.NO, "delivered of a request that is too large")
    with punctual(2.0, "the end of a call"), raises(MessagingError, what="a result of 256 KiB") as caught:
        client.call({}, "result", kind="large")
    equal(type(caught.error), TooLarge, "the class of the error for a result of 256 KiB")
    equal(caught.error.delivered, Delivered.YES, "delivered of a result that is too large")
    _still_serves(client)


@refusals.add("A declared exception arrives as itself; its cause tells of the server.")
def declared_exceptions(case: Case) -> None:
    """Declared by `raises=` and a call by reference, or by the client's `exceptions=`."""
    case.server(Service(), name="the-server")
    told = case.client(namespace="service", version="1.0", exceptions=[OutOfStock])
    calls: list[Callable[[], Any]] = [
        lambda: told.call({}, "reserve", sku="A1"),
        lambda: case.client(namespace="service", version="1.0").call({}, Service.reserve, sku="A1"),
    ]
    for call in calls:
        with raises(OutOfStock, what="a declared exception") as caught:
            call()
        equal((caught.error.sku, caught.error.left), ("A1", 3), "what the exception carries")
        cause = caught.error.__cause__
        check(isinstance(cause, RemoteError), f"its cause is {cause!r}")
        equal(cause.server, "the-server", "the server that raised it")
    with raises(RemoteError, what="the same exception, not declared by the caller") as caught:
        case.client(namespace="service", version="1.0").call({}, "reserve", sku="A1")
    check(caught.error.type.endswith("OutOfStock"), f"its type is {caught.error.type!r}")


@refusals.add("Any other exception arrives as RemoteError with class, text, traceback and server.")
def remote_errors(case: Case) -> None:
    """Whatever the handler raises, SystemExit and the library's own errors included, the caller gets an answer."""
    case.server(Service(), name="the-server")
    client = case.client(namespace="service", version="1.0")
    kinds = {"undeclared": "Undeclared", "ours": "Closed", "encode": "EncodeError", "exit": "SystemExit"}
    for kind, name in kinds.items():
        with punctual(1.0, "an error"), raises(RemoteError, what=f"a handler that raises {name}") as caught:
            client.call({}, "fail", kind=kind)
        error = caught.error
        equal(type(error), RemoteError, "the class of the error")
        equal(error.delivered, Delivered.YES, "delivered")
        check(error.type.endswith(name), f"its type is {error.type!r}, not {name}")
        check("for this reason" in error.text, f"its text is {error.text!r}")
        check("in fail" in error.trace, f"its traceback does not show the handler: {error.trace!r}")
        equal(error.server, "the-server", "its server")
    equal(case.calling.stats()["call.replied"], 4, "calls that count as replied")
    _still_serves(client)


@refusals.add("Bytes that nobody can decode harm no server: they are counted, and the caller is told.")
def undecodable_requests(case: Case) -> None:
    """A stranger sends garbage to a server's topic over a connection of the driver itself."""
    service = Service()
    serving = case.transport()
    case.server(service, over=serving)
    client = case.client(namespace="service", version="1.0")
    _still_serves(client)
    refused = serving.stats()["server.failed"]
    stranger = case.bare()
    garbage = [
        b"",
        b"\x00",
        b"\xff" * 64,
        b"garbage",
        b"\x93\x01\x01",
        b"\x99\x01\x01\x00",
        b"\x99\x63\x01\x00\xc0",
        b"\xdf" * 9,
    ]
    for number, body in enumerate(garbage):
        stranger.publish(Route.any(case.exchange, case.topic), body, headers={MESSAGE_ID: f"garbage-{number}"})
    stranger.until(
        lambda: serving.stats()["server.failed"] - refused == len(garbage),
        f"{len(garbage)} requests are counted as failed",
    )
    equal(service.ran.items, [(1, 2)], "what was executed")
    for _ in range(3):
        _still_serves(client)


@refusals.add("Bytes that nobody can decode harm no caller: they are counted, and its calls go on.")
def undecodable_replies(case: Case) -> None:
    """A server and a stranger send garbage to the address at which a client wants its answers."""

    class Tells:
        @rpc.expose
        def tell(self, ctxt: dict[str, Any]) -> None:
            """Do nothing."""

    sound = f"{case.topic}-sound"
    case.server(Tells(), topic=sound)
    client = case.client()
    broken, _ = case.receiving()
    future = case.submit(client, "tell")
    broken.until(lambda: broken.events.deliveries, "a request")
    deliveries = broken.take()
    address = deliveries[0].reply_to
    stranger = case.bare()
    for sender in (broken, stranger):
        messages = [
            sender.publish(Route.reply(address), body, confirm=False)
            for body in (b"", b"garbage", b"\x93\x01\x05\x00", b"\x95\x01\x03\x00\xc1", b"\x9f" * 40)
        ]
        # A stranger may have no way to that address.
        together([broken, stranger], lambda: all(map(sender.final, messages)), "the garbage is written or refused")  # noqa: B023
    together([broken, stranger], lambda: _refused(case.calling.stats()), "the garbage is counted")
    for _ in range(5):
        client.prepare(topic=sound).call({}, "tell")
    check(not future.done(), "garbage that belongs to no call has ended one")
    future.cancel()
    broken.settle(deliveries)


def _refused(stats: Mapping[str, int]) -> bool:
    """Whether something that came to a reply address was counted as nobody's: by the client, or by its driver."""
    return any(stats.get(name) for name in ("undecodable", "driver.undecodable", "call.late_replies"))


@refusals.add("What is misused is told before anything is sent, with the cure.")
def misuse(case: Case) -> None:
    """Options among the arguments, endless timeouts, targets without a topic, what the transport cannot do."""
    client = case.client()
    attempts: list[tuple[Callable[[], Any], type[MessagingError], str]] = [
        (lambda: client.call({}, "add", timeout=3), ConfigError, "prepare"),
        (lambda: client.prepare(timeout=math.inf), ConfigError, "finite"),
        (lambda: client.prepare(timeout=-1), ConfigError, "timeout"),
        (lambda: client.prepare(topic=None), InvalidTarget, "topic"),
        (lambda: client.prepare(retry=-1), ConfigError, "retry"),
        (lambda: client.call(["no", "mapping"], "add"), ConfigError, "mapping"),  # type: ignore[call-overload]
        (lambda: case.server(Service(), name="", start=False), InvalidTarget, "server"),
        (lambda: case.server(object(), start=False), ConfigError, "expose"),
        (lambda: case.transport(no_such_option=1), ConfigError, "no_such_option"),
    ]
    if not case.capabilities.storage:
        attempts.append((lambda: client.prepare(server="a", store=60), Unsupported, "store"))
    if case.capabilities.fanout == "none":
        attempts.append((lambda: client.fanout({}, "add"), Unsupported, "fanout"))
    if not case.capabilities.direct:
        attempts.append((lambda: client.prepare(server="a"), Unsupported, "server"))
    for attempt, kind, word in attempts:
        with raises(kind, what=f"what should name {word!r}") as caught:
            attempt()
        check(word in str(caught.error), f"the error does not name {word!r}: {caught.error}")
        equal(caught.error.delivered, Delivered.NO, "delivered")
    sent = {name: count for name, count in case.calling.stats().items() if name.endswith(".sent") and count}
    equal(sent, {}, "operations that were sent")
