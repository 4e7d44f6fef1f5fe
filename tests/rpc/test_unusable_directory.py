"""A directory that zmq:// cannot use: everybody who needs it is told so at once, and closing still works."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import Target, aio, notify, rpc
from messaging.errors import ConfigError

SAID = r"the directory of the local matchmaker cannot be used.*name another one"
TARGET = Target(topic="nowhere", server="host-1")


class Endpoint:
    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return value


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a URL whose directory cannot be made, because a file stands in its way."""
    (tmp_path / "file").touch()
    return f"zmq+local://{tmp_path}/file/directory"


def test_blocking_callers_are_told_at_once(url: str) -> None:
    """start(), a call and a notification raise the reason, with the cure, and not a deadline later."""
    began = time.monotonic()
    with messaging.open_transport(url) as transport:
        with pytest.raises(ConfigError, match=SAID):
            rpc.Server(transport, TARGET, [Endpoint()]).start()
        with pytest.raises(ConfigError, match=SAID):
            rpc.Client(transport, TARGET).call(None, "echo", value=1)
        with pytest.raises(ConfigError, match=SAID):
            notify.Notifier(transport).info(None, "event", {})
        assert not transport.health()["connected"]
    assert time.monotonic() - began < 5


def test_asyncio_callers_are_told_at_once(url: str) -> None:
    """The same for the other face."""

    async def attempt() -> None:
        async with aio.open_transport(url) as transport:
            with pytest.raises(ConfigError, match=SAID):
                await aio.rpc.Client(transport, TARGET).call(None, "echo", value=1)
            with pytest.raises(ConfigError, match=SAID):
                await aio.rpc.Server(transport, TARGET, [Endpoint()]).start()

    began = time.monotonic()
    asyncio.run(attempt())
    assert time.monotonic() - began < 5
