"""Many faults in a row against the ZeroMQ driver: what ends, ends once, and nothing hangs."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from messaging.errors import ConnectFailed, ConnectionLost, Delivered, NoRoute, ServerLost
from messaging.message import CORRELATION_ID, MESSAGE_ID, Outgoing, Source
from tests.unit.zmq_peers import ANY, Member, Process, any_source, members, pump_until


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A matchmaker's directory of its own."""
    return f"zmq+local://{tmp_path}/peers"


def test_attempts_that_are_given_up_at_any_moment_do_not_hang(url: str) -> None:
    """Closing a socket in the middle of its handshake, while ZeroMQ has something to tell about it, comes back."""
    server, client = Member(url), Member(url)
    with members(server, client):
        server.on_delivery = server.accept
        server.subscribe(any_source())
        source = random.Random(1)
        for _ in range(300):
            sent = client.send(ANY)
            for _ in range(source.randrange(12)):
                client.connection.pump(0.0)
                server.connection.pump(0.0)
            for peer in client.connection._peers.open:
                peer.fail(ConnectionLost("given up"))
                peer.retry_at = 0.0
            sent.withdrawn = True
        assert client.outcome(client.send(ANY), server).error is None


class History:
    """What became of each call."""

    def __init__(self, client: Member) -> None:
        self.client = client
        self.open: dict[str, Outgoing] = {}
        self.ended: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.number = 0

    def keep_busy(self, calls: int) -> None:
        """Have so many calls under way."""
        while len(self.open) < calls:
            self.number += 1
            self.open[str(self.number)] = self.client.call(ANY, b"x", id=str(self.number), timeout=5.0)

    def read(self) -> None:
        """Take what the client was told, and check that nothing ends twice."""
        for answer in self.client.take_deliveries():
            id = answer.headers[CORRELATION_ID]
            assert id not in self.answered
            self.answered.add(id)
            if self.open.pop(id, None) is not None:
                self.ended["answered"] += 1
        sent, self.client.sent = self.client.sent, []
        for result in sent:
            if result.error is not None:
                assert isinstance(result.error, ServerLost | ConnectFailed | NoRoute), result.error
                maybe = isinstance(result.error, ServerLost)
                assert result.error.delivered is (Delivered.MAYBE if maybe else Delivered.NO)
                assert self.open.pop(result.outgoing.headers[MESSAGE_ID], None) is not None
                self.ended[type(result.error).__name__] += 1


def chaos(url: str, faults: int, seed: int) -> Counter[str]:
    """Keep calls under way while servers are killed, stopped and started; return how they ended."""
    source = random.Random(seed)
    client = Member(url, heartbeat=0.3, connect_timeout=0.5)
    processes = [Process(url, "echo", "-", "quiet") for _ in range(3)]
    history = History(client)
    stopped: set[int] = set()
    try:
        with members(client):
            client.subscribe(Source.reply())
            for _ in range(faults):
                target = history.number + source.randrange(50, 3000)

                def enough(target: int = target) -> bool:
                    history.keep_busy(32)
                    history.read()
                    return history.number >= target

                pump_until(enough, client, within=20.0)
                place = source.randrange(3)
                fault = source.choice(("kill", "stop", "go on"))
                if stopped >= {0, 1, 2} - {place}:
                    # One of them goes on always: where nobody does, calls end at their deadlines, as they must.
                    place, fault = min(stopped), "go on"
                stopped.discard(place)
                if fault == "kill":
                    processes[place].kill()
                    processes[place] = Process(url, "echo", "-", "quiet")
                elif fault == "stop":
                    stopped.add(place)
                    processes[place].signal(signal.SIGSTOP)
                else:
                    processes[place].signal(signal.SIGCONT)

            def over() -> bool:
                history.read()
                return not history.open

            for process in processes:
                process.signal(signal.SIGCONT)
            pump_until(over, client, within=20.0)
            assert len(client.connection._sender.waiting) == 0
            assert len(client.connection._sender._refusals) == 0
            assert all(not link.unsettled for link in client.connection._runtime.links.values())
    finally:
        for process in processes:
            process.kill()
    assert sum(history.ended.values()) == history.number
    return history.ended


def test_every_call_ends_once_while_servers_die_and_stall(url: str) -> None:
    """Random kills, stops and continuations: each call is answered or told what is known, and none twice."""
    ended = chaos(url, 16, seed=7)
    assert ended["answered"] > 1000


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_call_ends_once_however_long_servers_die_and_stall(url: str) -> None:
    """The same, 500 times and by another seed."""
    chaos(url, 500, seed=int.from_bytes(os.urandom(4)))
