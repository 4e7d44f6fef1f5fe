"""The harness for tests of services: serving, recording, and each fault doing what its name says."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

import messaging
from messaging import notify, rpc, testing


@dataclass
class Reservation:
    sku: str
    count: int


class OutOfStock(Exception):
    pass


class Inventory:
    target = messaging.Target(namespace="inventory", version="1.3")

    def __init__(self) -> None:
        self.reserved: list[str] = []

    @rpc.expose(raises=(OutOfStock,))
    def reserve(self, ctxt: dict[str, Any], sku: str, count: int = 1) -> Reservation:
        if count > 10:
            raise OutOfStock(sku)
        self.reserved.append(sku)
        return Reservation(sku, count)

    @rpc.expose
    def hold(self, ctxt: dict[str, Any]) -> bool:
        return threading.Event().wait(0.2)


def test_serve_gives_a_client_of_a_running_server() -> None:
    """The client speaks to the endpoint's namespace and version; calls by name and by reference go through the wire."""
    inventory = Inventory()
    with testing.serve(inventory, topic="inventory", server="host-1") as client:
        assert client.call({}, "reserve", sku="A1") == {"sku": "A1", "count": 1}
        assert client.call({}, Inventory.reserve, sku="B2", count=2) == Reservation("B2", 2)
        assert client.prepare(server="host-1").ping() == "host-1"
        with pytest.raises(OutOfStock):
            client.call({}, Inventory.reserve, sku="C3", count=11)
        assert client.server.health()["consuming"]
    assert inventory.reserved == ["A1", "B2"]
    assert not client.server.health()["alive"]
    with pytest.raises(messaging.Closed):
        client.ping()


def test_serve_is_private() -> None:
    """Two services under test do not see each other, whatever they are called."""
    with testing.serve(Inventory()) as one, testing.serve(Inventory()) as two:
        assert one.transport.url != two.transport.url
        one.server.stop(1.0)
        with pytest.raises(messaging.NoRoute):
            one.call({}, "reserve", sku="A1")
        assert two.call({}, "reserve", sku="A1")["sku"] == "A1"


def test_serve_passes_options_to_the_server() -> None:
    """What the server refuses is raised, and a client option is the client's."""
    with pytest.raises(messaging.ConfigError, match="executor"), testing.serve(Inventory(), executor="processes"):
        pass
    with testing.serve(Inventory(), timeout=0.05) as client, pytest.raises(messaging.DeadlineExceeded):
        client.call({}, "hold")


def test_record_takes_nothing_from_anybody() -> None:
    """What is recorded also reaches the listeners of the service; waiting ends when enough has come, or in time."""
    with messaging.open_transport("memory://") as transport:
        heard: list[Any] = []

        class Audit:
            @notify.on("*")
            def any(self, event: notify.Event[Any]) -> None:
                heard.append(event.payload)

        with notify.Listener(transport, [messaging.Target(topic="events")], [Audit()]):
            with testing.record(transport, "events") as recorded:
                notifier = notify.Notifier(transport, "test", topics=["events"])
                for number in range(3):
                    notifier.info({}, "thing.made", number)
                assert [event.payload for event in recorded.wait(3)] == [0, 1, 2]
                assert len(recorded) == 3
                assert [event.event_type for event in recorded] == ["thing.made"] * 3
                with pytest.raises(TimeoutError, match=r"3 of 4 .* thing\.made"):
                    recorded.wait(4, timeout=0.05)
        assert sorted(heard) == [0, 1, 2]


def test_record_wants_a_blocking_transport() -> None:
    """A transport of the asyncio face is refused with the cure."""
    from messaging import aio

    async def attempt() -> None:
        async with aio.open_transport("memory://") as transport:
            with pytest.raises(messaging.ConfigError, match="blocking"), testing.record(transport):
                pass

    asyncio.run(attempt())


def test_a_lost_reply_ends_at_the_deadline() -> None:
    """The handler runs, its caller is not told; after the block answers arrive again."""
    inventory = Inventory()
    with testing.serve(inventory) as client:
        with testing.fault(client.transport, "lose_reply", count=1) as lost:
            with pytest.raises(messaging.DeadlineExceeded) as caught:
                client.prepare(timeout=0.2).call({}, "reserve", sku="A1")
            assert caught.value.delivered is messaging.Delivered.MAYBE
            assert lost.hits == 1
            client.call({}, "reserve", sku="B2")
        client.call({}, "reserve", sku="C3")
    assert inventory.reserved == ["A1", "B2", "C3"]


def test_a_lost_request_never_runs() -> None:
    """It is lost after it was taken, so nobody can know; the fault is over when its block is left."""
    inventory = Inventory()
    with testing.serve(inventory) as client:
        with testing.fault(client.transport, "lose_request") as lost, pytest.raises(messaging.DeadlineExceeded):
            client.prepare(timeout=0.2).call({}, "reserve", sku="A1")
        assert lost.hits == 1
        client.call({}, "reserve", sku="B2")
    assert inventory.reserved == ["B2"]


def test_a_delayed_reply_is_in_time_or_not() -> None:
    """The delay is in seconds: shorter than the deadline it is only slow."""
    with testing.serve(Inventory()) as client:
        with testing.fault(client.transport, "delay_reply", seconds=0.1) as late:
            assert client.call({}, "reserve", sku="A1")["sku"] == "A1"
            assert late.hits == 1
        with testing.fault(client.transport, "delay", seconds=5.0), pytest.raises(messaging.DeadlineExceeded):
            client.prepare(timeout=0.1).call({}, "reserve", sku="A1")


def test_a_duplicate_runs_twice_at_most() -> None:
    """A request that a broker delivers twice may run twice, which is what a test of idempotence wants to see."""
    inventory = Inventory()
    with testing.serve(inventory) as client, testing.fault(client.transport, "duplicate", topic="test") as twice:
        client.cast({}, "reserve", sku="A1")
        client.call({}, "reserve", sku="B2")
    assert twice.hits == 2
    assert set(inventory.reserved) == {"A1", "B2"}
    assert len(inventory.reserved) <= 4


def test_a_disconnect_is_survived() -> None:
    """The client's connection is cut, comes back by itself, and the service never noticed."""
    with testing.serve(Inventory()) as client:
        client.call({}, "reserve", sku="A1")
        with testing.fault(client.transport, "disconnect"):
            assert client.call({}, "reserve", sku="B2")["sku"] == "B2"
        assert client.transport.stats()["driver.reconnects"] == 1


def test_a_refused_connection_ends_at_the_deadline() -> None:
    """Before its first use the client cannot connect; the error says that nothing was delivered."""
    with testing.serve(Inventory(), timeout=0.3) as client:
        with testing.fault(client.transport, "refuse"), pytest.raises(messaging.MessagingError) as caught:
            client.call({}, "reserve", sku="A1")
        assert caught.value.delivered is messaging.Delivered.NO
        assert client.prepare(timeout=10.0).call({}, "reserve", sku="A1")["sku"] == "A1"


@pytest.mark.parametrize("name", ["block", "silence", "withhold_confirms"])
def test_what_is_kept_back_goes_on_after_the_block(name: str) -> None:
    """A cast is not taken while the fault lasts, and is when it is over."""
    inventory = Inventory()
    with testing.serve(inventory, timeout=10.0) as client:
        client.ping()
        outcome: list[Any] = []
        with testing.fault(client.transport, name):
            caster = threading.Thread(target=lambda: outcome.append(client.cast({}, "reserve", sku="A1")))
            caster.start()
            caster.join(0.1)
            assert outcome == []
        caster.join(10.0)
        assert outcome == [None]
        client.call({}, "reserve", sku="B2")
    # The cast was taken first, but handlers run side by side; leaving the block waits for them.
    assert sorted(inventory.reserved) == ["A1", "B2"]


def test_wrong_faults_are_told() -> None:
    """Another transport, an unknown name, a wrong or missing option: each error names what is allowed."""
    with testing.serve(Inventory()) as client:
        for name, options, words in (
            ("lose_replay", {}, ["lose_reply", "duplicate"]),
            ("delay", {}, ["needs seconds"]),
            ("lose_reply", {"chance": 0.5}, ["chance", "probability", "count"]),
            ("block", {"count": 1}, ["count", "none"]),
        ):
            with pytest.raises(messaging.ConfigError) as caught, testing.fault(client.transport, name, **options):
                pass
            assert [word for word in words if word not in str(caught.value)] == []
        assert client.call({}, "reserve", sku="A1")["sku"] == "A1"
    with messaging.open_transport("zmq://") as other:
        with pytest.raises(messaging.ConfigError, match="memory://"), testing.fault(other, "lose_reply"):
            pass


def test_faults_of_asyncio_transports() -> None:
    """The same faults, for a transport that an event loop owns."""
    from messaging import aio

    inventory = Inventory()

    async def attempt() -> None:
        async with aio.open_transport("memory://faults-of-asyncio") as transport:
            target = messaging.Target(topic="t", server="s")
            async with aio.rpc.Server(transport, target, [inventory]):
                client = aio.rpc.Client(transport, messaging.Target(topic="t", namespace="inventory", version="1.0"))
                with testing.fault(transport, "lose_reply") as lost:
                    with pytest.raises(messaging.DeadlineExceeded):
                        await client.prepare(timeout=0.1).call({}, "reserve", sku="A1")
                assert lost.hits == 1
                assert (await client.call({}, "reserve", sku="B2"))["sku"] == "B2"

    asyncio.run(attempt())
    assert inventory.reserved == ["A1", "B2"]


def test_the_names_of_faults_are_listed() -> None:
    """FAULTS is what an error message lists, sorted."""
    assert list(testing.FAULTS) == sorted(testing.FAULTS)
    assert {"lose_reply", "delay", "duplicate", "disconnect", "refuse"} <= set(testing.FAULTS)
