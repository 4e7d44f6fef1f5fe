"""What a call gives: the answer, typed; each its own; with everything that travels along."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

from messaging import rpc
from messaging.errors import StateError, VersionCapExceeded
from messaging.target import Target
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import PATIENCE, Failure, Log, check, equal, once_each, raises
from messaging.testing.conformance.faces import AsyncioFace
from messaging.testing.conformance.scenario import Group

__all__ = ["calls"]

calls = Group("calls", needs=("rpc",))


class Echo:
    """Gives back what it gets."""

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: Any = None) -> Any:
        """Return the argument."""
        return value

    @rpc.expose
    async def echo_later(self, ctxt: dict[str, Any], value: Any = None) -> Any:
        """The same, as a coroutine."""
        return value


@dataclass
class Item:
    """A typed argument."""

    sku: str
    count: int


@dataclass
class Order:
    """A typed result."""

    items: list[Item]
    note: str | None = None


class Shop:
    """Has annotations, and remembers the types of what it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    @rpc.expose
    def order(self, ctxt: dict[str, Any], item: Item, times: int = 1) -> Order:
        """Take a typed argument and return a typed result."""
        self.given.append(type(item).__name__)
        return Order([item] * times)


@calls.add("A call returns what the method returned, for every kind of plain value.")
def round_trip(case: Case) -> None:
    """Values come back equal, whether the handler is a function or a coroutine function."""
    # Fewer slots than calls: each of them has to be given back.
    case.server(Echo(), slots=4)
    client = case.client()
    values = [
        *(None, True, 0, -(2**63), 2**64 - 1, 0.1, float("inf"), "", "naïve ☃ \U0001f600", b"", bytes(range(256))),
        *([], {}, [1, [2, [3]]], {"a": {"b": [None, {"c": "d"}]}}),
    ]
    for value in values:
        equal(client.call({}, "echo", value=value), value, "the answer")
        equal(client.call({}, "echo_later", value=value), value, "the answer of a coroutine")


@calls.add("Arguments and results are converted to the annotations on both sides.")
def typed_conversion(case: Case) -> None:
    """A call by reference sends and returns dataclasses; a call by name gets plain values back."""
    shop = Shop()
    case.server(shop)
    client = case.client()
    order: Any = client.call({}, Shop.order, Item("A1", 2), times=2)
    equal(order, Order([Item("A1", 2), Item("A1", 2)]), "the converted result")
    equal(shop.given, ["Item"], "the type that the handler got")
    plain = client.call({}, "order", item={"sku": "B", "count": 1})
    equal(plain, {"items": [{"sku": "B", "count": 1}], "note": None}, "the plain result")


@calls.add("A thousand calls at once each get their own answer.")
def thousand_concurrent_calls(case: Case) -> None:
    """1,000 calls are under way together; none gets the answer of another."""
    case.server(Echo())
    client = case.client(timeout=15)
    futures = [case.submit(client, "echo", value=number) for number in range(1_000)]
    _, left = wait(futures, timeout=20)
    check(not left, f"{len(left)} of 1,000 calls have no outcome")
    equal([future.result() for future in futures], list(range(1_000)), "the answers in the order of their calls")


@calls.add("A client may be shared by threads: sixteen of them lose and mix up nothing.")
def thread_storm(case: Case) -> None:
    """16 threads call through one client, one after the other, and each compares its answers."""
    case.server(Echo())
    client = case.client()
    wrong: Log[str] = Log()
    answered: Log[tuple[int, int]] = Log()

    def storm(thread: int) -> None:
        try:
            for number in range(25):
                value = [thread, number]
                got = client.call({}, "echo", value=value)
                if got != value:
                    wrong.add(f"{value} got {got}")
                answered.add((thread, number))
        except Exception as error:
            wrong.add(f"thread {thread}: {error!r}")

    threads = [threading.Thread(target=storm, args=(thread,), daemon=True) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
    equal(wrong.items, [], "wrong answers")
    once_each(answered.items, [(thread, number) for thread in range(16) for number in range(25)], "answers")


class Envelope:
    """Tells what came along with a request."""

    @rpc.expose
    def unpack(self, ctxt: dict[str, Any]) -> dict[str, Any]:
        """Return the context and the current request's own view of itself."""
        request = rpc.current()
        return {
            "context": ctxt,
            "seen": request.context,
            "headers": {key: value for key, value in request.headers.items() if key.startswith("x-")},
            "method": request.method,
            "version": request.version,
            "attempt": request.attempt,
            "redelivered": request.redelivered,
            "cancelled": request.cancelled,
            "id": request.message_id,
        }


@calls.add("The context and the headers of a call reach its handler, in any script.")
def context_and_headers(case: Case) -> None:
    """`ctxt`, `rpc.current()` and `prepare(headers=…)` carry unicode and nested values."""
    case.server(Envelope())
    context = {"user": "Łukasz", "пользователь": "Ω ☃", "roles": ["a", "b"], "depth": {"x": [1, None]}}
    client = case.client().prepare(headers={"x-trace": "1-a", "x-ünïcode": "☃"})
    seen = client.call(context, "unpack")
    equal(seen["context"], context, "the context as the argument")
    equal(seen["seen"], context, "the context in rpc.current()")
    equal(seen["headers"], {"x-trace": "1-a", "x-ünïcode": "☃"}, "the headers")
    told = (seen["method"], seen["version"], seen["attempt"], seen["redelivered"], seen["cancelled"])
    equal(told, ("unpack", "1.0", 1, False, False), "method, version, attempt, redelivered, cancelled")
    other = client.call(None, "unpack")
    equal(other["context"], {}, "the context of a call without one")
    check(seen["id"] and seen["id"] != other["id"], "two calls had the same message id")


@calls.add("Bodies of one mebibyte pass in both directions.")
def large_body(case: Case) -> None:
    """1 MiB there and back, as bytes and as text, among small calls."""
    case.server(Echo())
    client = case.client(timeout=20)
    data = bytes(range(256)) * 4096
    large = case.submit(client, "echo", value=data)
    equal(client.call({}, "echo", value="small"), "small", "a small answer beside a large one")
    equal(large.result(PATIENCE * 2), data, "1 MiB of bytes")
    text = "☃" * 349_525
    equal(client.call({}, "echo", value=text), text, "1 MiB of text")


@calls.add("A server answers a ping with its name.")
def ping(case: Case) -> None:
    """The built-in endpoint is there whatever the server exposes."""
    case.server(Echo(), name="the-server")
    equal(case.client().ping(), "the-server", "the answer to a ping")


class Version1:
    """The old interface."""

    target = Target(namespace="stock", version="1.3", legacy_namespaces=("store", None))

    @rpc.expose
    def which(self, ctxt: dict[str, Any]) -> str:
        """Name the interface."""
        return "1.3"


class Version2:
    """The new interface."""

    target = Target(namespace="stock", version="2.0")

    @rpc.expose
    def which(self, ctxt: dict[str, Any]) -> str:
        """Name the interface."""
        return "2.0"


@calls.add("Namespace and version choose the endpoint; a version cap is kept by the client.")
def namespaces_and_versions(case: Case) -> None:
    """Compatible minors are served, legacy namespaces too; above the cap nothing is sent."""
    case.server(Version1(), Version2())
    for namespace, version, answer in (
        *(("stock", "1.0", "1.3"), ("stock", "1.3", "1.3"), ("stock", "2.0", "2.0")),
        *(("store", "1.1", "1.3"), (None, None, "1.3")),
    ):
        got = case.client(namespace=namespace, version=version).call({}, "which")
        equal(got, answer, f"the endpoint for {namespace} {version}")
    capped = case.client(namespace="stock", version="1.3", version_cap="1.5")
    equal(capped.call({}, "which"), "1.3", "a call below the cap")
    check(capped.can_send_version("1.5") and not capped.can_send_version("1.6"), "can_send_version ignores the cap")
    sent = case.calling.stats().get("call.sent")
    with raises(VersionCapExceeded, what="a call above the cap"):
        capped.prepare(version="2.0").call({}, "which")
    equal(case.calling.stats().get("call.sent"), sent, "calls sent after the one above the cap")


@calls.add("What would wait for itself is refused instead of hanging.")
def waiting_for_oneself(case: Case) -> None:
    """Blocking: a call from an inline handler over its own transport. Asyncio: a transport in a second event loop."""
    over = case.transport()
    client = case.client(over=over)

    class Nested:
        @rpc.expose
        def nested(self, ctxt: dict[str, Any]) -> str:
            """Call back over the transport that runs this handler."""
            try:
                client.call({}, "echo", value=1)
            except StateError as error:
                return str(error)
            return "nothing was raised"

    if case.face.name == "sync":
        case.server(Nested(), Echo(), over=over, executor="inline")
        told = case.client().call({}, "nested")
        check("wait for itself" in told, f"a blocking call from an inline handler: {told}")
        equal(case.client().call({}, "echo", value=2), 2, "the next call")
        return
    case.server(Echo(), over=over)
    equal(client.call({}, "echo", value=1), 1, "a call in the transport's own loop")
    second = AsyncioFace()
    try:
        with raises(StateError, what="a call in another loop"):
            second.submit(client, {}, "echo", value=1).result(PATIENCE)
    finally:
        second.close()
    equal(client.call({}, "echo", value=2), 2, "a call in the transport's own loop after that")


@calls.add("What `around` wraps sees each operation once, on both sides.")
def around_both_sides(case: Case) -> None:
    """A client's context manager adds to the context; the server's surrounds the handler and sees what came."""
    seen: Log[tuple[str, Any]] = Log()

    class Wrapping:
        def __init__(self, side: str, subject: Any) -> None:
            self.side = side
            self.subject = subject

        def __enter__(self) -> None:
            seen.add((self.side, self.subject.context.get("token")))
            if self.side == "client":
                self.subject.context["token"] = "t-1"

        def __exit__(self, *error: object) -> None:
            seen.add((f"{self.side} left", self.subject.method))

    case.server(Echo(), around=[lambda request: Wrapping("server", request)])
    client = case.client(around=[lambda operation: Wrapping("client", operation)])
    equal(client.call({}, "echo", value=1), 1, "the answer")
    equal(
        sorted(seen.wait(4, "the context managers"), key=str),
        sorted([("client", None), ("server", "t-1"), ("server left", "echo"), ("client left", "echo")], key=str),
        "what the context managers saw",
    )


class Reversing:
    """A serializer that nobody could mistake for another: texts travel in reverse."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """Reverse a text on its way out."""
        return entity[::-1] if isinstance(entity, str) else entity

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        """Reverse it again."""
        return self.serialize_entity(ctxt, entity)

    def serialize_context(self, ctxt: Any) -> dict[str, Any]:
        """Pack the context."""
        return {"packed": ctxt}

    def deserialize_context(self, ctxt: dict[str, Any]) -> Any:
        """Unpack it."""
        return ctxt["packed"]


@calls.add("A serializer decides how arguments, results and contexts travel.")
def serializers(case: Case) -> None:
    """Set on both sides it is invisible; set on one, its work is seen."""

    class Told:
        @rpc.expose
        def tell(self, ctxt: Any, value: str) -> list[Any]:
            """Return what came."""
            return [ctxt, value]

    case.server(Told(), serializer=Reversing())
    ours = case.client(serializer=Reversing())
    equal(ours.call(["any", "context"], "tell", value="forward"), [["any", "context"], "forward"], "both with it")  # type: ignore[call-overload]
    plain = case.client().call({"packed": 1}, "tell", value="drawer")
    equal(plain, [1, "reward"], "the server alone with it")


@calls.add("One transport carries clients and several servers at a time.")
def one_transport_for_all(case: Case) -> None:
    """A client calls servers of two topics over the very transport that they use."""
    over = case.transport()
    case.server(Echo(), name="one", over=over)
    case.server(Echo(), name="two", over=over, topic=f"{case.topic}-2")
    first = case.client(over=over)
    second = case.client(over=over, topic=f"{case.topic}-2")
    equal((first.ping(), second.ping()), ("one", "two"), "the servers that answered")
    equal(case.client().ping(), "one", "the server that answered a stranger")
    for number in range(20):
        if first.call({}, "echo", value=number) != number or second.call({}, "echo", value=-number) != -number:
            raise Failure(f"a wrong answer to call {number}")
