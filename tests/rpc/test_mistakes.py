"""Mistakes in how clients and servers are put together: each is refused at once, by an error that says the cure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import Target, aio, notify, rpc
from messaging.errors import ConfigError, InvalidTarget, InvalidUrl, StateError, Unsupported

TARGET = Target(topic="mistakes", server="host-1")


class Endpoint:
    """Serves both faces."""

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return value

    def info(self, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        return


@pytest.fixture
def transport() -> Iterator[messaging.Transport]:
    """A transport that nothing is sent over."""
    with messaging.open_transport("memory://") as opened:
        yield opened


_MAKERS: dict[str, Callable[[Any], object]] = {
    "client": lambda transport: rpc.Client(transport, TARGET),
    "server": lambda transport: rpc.Server(transport, TARGET, [Endpoint()]),
    "notifier": notify.Notifier,
    "listener": lambda transport: notify.Listener(transport, [TARGET], [Endpoint()]),
    "dead letters": lambda transport: notify.DeadLetters(transport, TARGET),
}
_ASYNC_MAKERS: dict[str, Callable[[Any], object]] = {
    "client": lambda transport: aio.rpc.Client(transport, TARGET),
    "server": lambda transport: aio.rpc.Server(transport, TARGET, [Endpoint()]),
    "notifier": aio.notify.Notifier,
    "listener": lambda transport: aio.notify.Listener(transport, [TARGET], [Endpoint()]),
    "dead letters": lambda transport: aio.notify.DeadLetters(transport, TARGET),
}


@pytest.mark.parametrize("what", _MAKERS)
def test_a_url_is_no_transport(what: str) -> None:
    """Whoever passes a URL where a transport belongs is told how to open one."""
    with pytest.raises(ConfigError, match=r"'zmq://' is no transport.*messaging\.open_transport"):
        _MAKERS[what]("zmq://")


@pytest.mark.parametrize("what", _MAKERS)
def test_faces_do_not_mix(what: str, transport: messaging.Transport) -> None:
    """A transport of the other face would block the loop or never be driven: it is refused and the right one named."""
    with pytest.raises(ConfigError, match=r"messaging\.aio\.open_transport"):
        _ASYNC_MAKERS[what](transport)
    with pytest.raises(ConfigError, match=r"import rpc from messaging\.aio"):
        _MAKERS[what](aio.open_transport("memory://"))


def test_an_asyncio_transport_is_closed_in_its_own_loop() -> None:
    """Another loop cannot close it: it says so, instead of failing on a loop that is closed."""

    async def use() -> aio.Transport:
        transport = aio.open_transport("memory://")
        with pytest.raises(messaging.NoRoute):
            await aio.rpc.Client(transport, TARGET).cast(None, "echo", value=1)
        return transport

    loop = asyncio.new_event_loop()
    try:
        transport = loop.run_until_complete(use())
        with pytest.raises(StateError, match="one transport per loop"):
            asyncio.run(transport.close())
        loop.run_until_complete(transport.close())
    finally:
        loop.close()


@pytest.mark.parametrize("target", ["mistakes", None, {"topic": "mistakes"}])
def test_a_topic_is_no_target(transport: messaging.Transport, target: Any) -> None:
    """A bare topic is refused, and a target shown."""
    with pytest.raises(InvalidTarget, match=r"messaging\.Target\(topic="):
        rpc.Client(transport, target)
    with pytest.raises(InvalidTarget, match=r"messaging\.Target\(topic="):
        rpc.Server(transport, target, [Endpoint()])


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [
        (Endpoint(), "endpoints must be a list of objects"),
        ("Endpoint", "endpoints must be a list of objects"),
        ([Endpoint], r"Endpoint is a class: write Endpoint\(\)"),
        ([object()], r"mark those for callers with @rpc\.expose"),
    ],
)
def test_endpoints_are_a_list_of_objects(transport: messaging.Transport, endpoints: Any, said: str) -> None:
    """One object, a name, a class and an object without exposed methods are each refused with the cure."""
    with pytest.raises(ConfigError, match=said):
        rpc.Server(transport, TARGET, endpoints)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("slots", 0, "slots must be a whole number of at least 1, not 0"),
        ("slots", "4", "slots must be a whole number of at least 1, not '4'"),
        ("inbox", 1.5, r"inbox must be a whole number of at least 1, not 1\.5"),
        ("executor", "process", "executor must be 'threads' or 'inline'"),
    ],
)
def test_bad_options_of_a_server_are_named(transport: messaging.Transport, option: str, value: Any, said: str) -> None:
    """A bad option is refused when the server is built, with what is allowed."""
    with pytest.raises(ConfigError, match=said):
        rpc.Server(transport, TARGET, [Endpoint()], **{option: value})


@pytest.mark.parametrize("url", [None, 5, b"memory://"])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    """A missing setting that ends up as a URL is named as what it is."""
    with pytest.raises(InvalidUrl, match="a transport URL is a string"):
        messaging.open_transport(url)


class Surviving:
    """Has to be delivered again when its server goes."""

    @rpc.expose(delivery="at_least_once")
    def survive(self, ctxt: dict[str, Any]) -> None:
        return


_BEYOND: dict[str, Callable[[messaging.Transport], object]] = {
    "store": lambda transport: rpc.Client(transport, TARGET).prepare(server="a", store=60),
    "at_least_once": lambda transport: rpc.Server(transport, TARGET, [Surviving()]),
    "dead letters": lambda transport: notify.DeadLetters(transport, TARGET),
}


@pytest.mark.parametrize("asked", _BEYOND)
def test_a_transport_is_named_as_its_url_names_it(asked: str, tmp_path: Path) -> None:
    """What a transport cannot do is refused in the name of its variant, which may be what decides it."""
    url = f"zmq+local://{tmp_path}"
    with messaging.open_transport(url) as opened, pytest.raises(Unsupported, match=r"zmq\+local:// "):
        _BEYOND[asked](opened)
