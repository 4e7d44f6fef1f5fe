"""The permissions that docs/rabbitmq.md tells operators to give are enough, and not more than needed."""

from __future__ import annotations

import re
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

import messaging
from messaging import Target, notify, rpc

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rabbitmq.md"


class Echo:
    def __init__(self) -> None:
        self.reloaded = threading.Event()

    @rpc.expose
    def echo(self, ctxt: Any, value: int) -> int:
        return value

    @rpc.expose
    def reload(self, ctxt: Any) -> None:
        self.reloaded.set()


@pytest.mark.parametrize("scheme", ["rabbit", "kombu"])
def test_the_documented_permissions_are_enough(rabbit_broker: Any, scheme: str) -> None:
    """Calls, casts, fanouts, stored casts, and notifications with another attempt and a dead letter."""
    found = re.search(r"set_permissions .* '(.*)' '(.*)' '(.*)'$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    user, topic = f"user-{uuid.uuid4().hex}", f"topic-{uuid.uuid4().hex}"
    rabbit_broker.add_user(user, "pw", configure=found[1], write=found[2], read=found[3])
    endpoint, heard, buried = Echo(), threading.Event(), []

    class Events:
        @notify.on("again")
        def again(self, event: notify.Event[Any]) -> None:
            if event.attempt == 1:
                raise notify.Retry(after=0.05)
            heard.set()

        @notify.on("bad")
        def bad(self, event: notify.Event[Any]) -> None:
            raise notify.Reject("never")

    with messaging.open_transport(rabbit_broker.url_for(scheme, user=user, password="pw")) as transport:
        client = rpc.Client(transport, Target(topic=topic), timeout=10)
        with (
            rpc.Server(transport, Target(topic=topic, server="a"), [endpoint]),
            notify.Listener(transport, [Target(topic=f"{topic}-n")], [Events()]),
        ):
            assert client.call({}, "echo", value=1) == 1
            client.cast({}, "echo", value=2)
            client.fanout({}, "reload")
            assert endpoint.reloaded.wait(10)
            client.prepare(server="later", store=60).cast({}, "echo", value=3)
            notifier = notify.Notifier(transport, "me", topics=[f"{topic}-n"])
            notifier.info({}, "again", {})
            notifier.info({}, "bad", {})
            assert heard.wait(10)
        with notify.DeadLetters(transport, Target(topic=f"{topic}-n")) as letters:
            buried = [letter.reason for letter in letters.read(0.5)]
    assert buried == ["never"]


def test_other_names_stay_out_of_reach(rabbit_broker: Any) -> None:
    """The same account cannot touch queues that are not this library's."""
    user = f"user-{uuid.uuid4().hex}"
    rabbit_broker.add_user(
        user, "pw", configure="^messaging/", write=r"^(messaging/|amq\.default$)", read="^messaging/"
    )
    url = rabbit_broker.url_for("rabbit", user=user, password="pw")
    with messaging.open_transport(url, wire="oslo") as transport:
        with pytest.raises(messaging.MessagingError, match="permission"):
            rpc.Server(transport, Target(topic="plain", server="a"), [Echo()]).start()
