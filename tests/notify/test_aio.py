"""Notifications on asyncio: the same promises, awaited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

import messaging
from messaging import Closed, Delivered, NoRoute, PipelineFailed, StateError, Target
from messaging.aio import Transport, notify, open_transport
from messaging.drivers.memory import hub
from messaging.errors import NotStarted
from tests.notify.rig import LONG, TARGETS, memory_url

T = TypeVar("T")


def _run(url: str, test: Callable[[Transport], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with open_transport(url) as transport:
            await asyncio.wait_for(test(transport), 30.0)
        balanced(transport)

    asyncio.run(main())


def balanced(transport: Transport) -> None:
    """Every notification has one outcome."""
    stats = transport.stats()
    sent = ("taken", "refused", "unroutable", "expired", "in_doubt", "cancelled", "closed", "in_flight")
    assert stats.get("notify.sent", 0) == sum(stats.get(f"notify.{name}", 0) for name in sent), stats
    ended = ("handled", "ignored", "requeued", "dead_lettered", "dropped", "stale")
    assert stats.get("listener.received", 0) == sum(stats.get(f"listener.{name}", 0) for name in ended), stats


async def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.002)


class Everything:
    """Puts every event into a queue, and then does what `act` says."""

    def __init__(self, act: Callable[[notify.Event[Any]], Awaitable[Any]] | None = None) -> None:
        self.seen: asyncio.Queue[notify.Event[Any]] = asyncio.Queue()
        self._act = act

    @notify.on("*")
    async def take(self, event: notify.Event[Any]) -> Any:
        self.seen.put_nowait(event)
        return await self._act(event) if self._act is not None else None

    async def wait(self, number: int = 1) -> list[notify.Event[Any]]:
        return [await asyncio.wait_for(self.seen.get(), LONG) for _ in range(number)]


def test_verbs_are_awaited(url: str) -> None:
    """Every verb, submit and a pipeline send; handlers run on the user's loop."""

    async def test(transport: Transport) -> None:
        loop = asyncio.get_running_loop()

        async def here(event: notify.Event[Any]) -> None:
            assert asyncio.get_running_loop() is loop
            assert notify.current().message_id == event.message_id

        endpoint = Everything(here)
        async with notify.Listener(transport, TARGETS, [endpoint]) as listener:
            notifier = notify.Notifier(transport, "me")
            for verb in ("audit", "debug", "info", "warn", "warning", "error", "critical", "sample"):
                await getattr(notifier, verb)({"a": 1}, "x", verb)
                (event,) = await endpoint.wait()
                assert event.level == ("warn" if verb == "warning" else verb)
            await notifier.submit("info", None, "x", 1)
            await endpoint.wait()
            async with notifier.pipeline() as pipeline:
                for number in range(300):
                    await pipeline.info(None, "x", number)
            assert sorted([event.payload for event in await endpoint.wait(300)]) == list(range(300))
            assert listener.health()["consuming"]

    _run(url, test)


def test_errors_are_those_of_the_blocking_face(url: str) -> None:
    """NoRoute, groups, on_error and unrouted are the same."""

    async def test(transport: Transport) -> None:
        notifier = notify.Notifier(transport)
        with pytest.raises(NoRoute) as caught:
            await notifier.info(None, "x", 1)
        assert caught.value.delivered is Delivered.NO
        with pytest.raises(PipelineFailed):
            await notifier.prepare(topics=["a", "b"]).info(None, "x", 1)
        pipeline = notifier.pipeline()
        await pipeline.info(None, "x", 1)
        with pytest.raises(PipelineFailed) as group:
            await pipeline.wait()
        assert getattr(group.value.exceptions[0], "index", None) == 0
        heard: list[Exception] = []
        await notify.Notifier(transport, on_error=lambda event, error: heard.append(error)).info(None, "x", 1)
        assert isinstance(heard[0], NoRoute)
        await notify.Notifier(transport, unrouted="count").info(None, "x", 1)

    _run(url, test)


def test_failures_are_repeated_and_buried(url: str) -> None:
    """Redelivery, counts and dead letters work for coroutines; dead_letter= may be one."""

    async def test(transport: Transport) -> None:
        buried: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

        async def bury(event: notify.Event[Any], reason: str, error: BaseException | None) -> None:
            buried.put_nowait((event.attempt, reason))

        async def fail(event: notify.Event[Any]) -> None:
            raise ValueError(event.attempt)

        endpoint = Everything(fail)
        async with notify.Listener(transport, TARGETS, [endpoint], backoff=0.01, max_attempts=3, dead_letter=bury):
            await notify.Notifier(transport).info(None, "x", 1)
            assert [event.attempt for event in await endpoint.wait(3)] == [1, 2, 3]
            assert await asyncio.wait_for(buried.get(), LONG) == (3, "ValueError: 3")
            await _until(lambda: transport.stats()["listener.dead_lettered"] == 1)

    _run(url, test)


def test_plain_handlers_run_on_threads(url: str) -> None:
    """A handler that may block does not block the loop, alone or between coroutines; inline ones run on it."""

    async def test(transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        order: asyncio.Queue[Any] = asyncio.Queue()

        def note(what: Any) -> None:
            loop.call_soon_threadsafe(order.put_nowait, what)

        class Plain:
            @notify.on("*")
            def take(self, event: notify.Event[Any]) -> None:
                note(threading.current_thread() is not threading.main_thread())

        class Mixed:
            @notify.on("*")
            def a(self, event: notify.Event[Any]) -> None:
                note(threading.current_thread() is not threading.main_thread())

            @notify.on("*")
            async def b(self, event: notify.Event[Any]) -> None:
                note(threading.current_thread() is threading.main_thread())

            @notify.on("*")
            def c(self, event: notify.Event[Any]) -> None:
                note(threading.current_thread() is not threading.main_thread())

        for endpoint, calls in ((Plain(), 1), (Mixed(), 3)):
            async with notify.Listener(transport, TARGETS, [endpoint]):
                await notify.Notifier(transport).info(None, "x", 1)
                assert [await asyncio.wait_for(order.get(), LONG) for _ in range(calls)] == [True] * calls
                await _until(lambda: transport.stats()["listener.received"] == transport.stats()["listener.handled"])

    _run(url, test)


def test_slots_bound_coroutines(url: str) -> None:
    """No more coroutines run at a time than there are slots, and a drain lets the parked ones go."""

    async def test(transport: Transport) -> None:
        gate = asyncio.Event()

        async def hold(event: notify.Event[Any]) -> None:
            await gate.wait()

        endpoint = Everything(hold)
        listener = notify.Listener(transport, TARGETS, [endpoint], slots=2)
        await listener.start()
        async with notify.Notifier(transport).pipeline() as pipeline:
            for number in range(4):
                await pipeline.info(None, "x", number)
        await endpoint.wait(2)
        await _until(lambda: listener.health()["in_hand"] == 4)
        assert endpoint.seen.empty()
        gate.set()
        assert await listener.stop(5.0)
        assert listener.health()["in_hand"] == 0

    _run(url, test)


def test_stop_has_a_bound(url: str) -> None:
    """Coroutines that do not end in time are cancelled; what never started goes back, or is counted as dropped."""

    async def test(transport: Transport) -> None:
        async def hold(event: notify.Event[Any]) -> None:
            await asyncio.sleep(LONG)

        endpoint = Everything(hold)
        listener = notify.Listener(transport, TARGETS, [endpoint], slots=1)
        await listener.start()
        for number in range(2):
            await notify.Notifier(transport).info(None, "x", number)
        await endpoint.wait(1)
        await _until(lambda: listener.health()["in_hand"] == 2)
        begun = time.monotonic()
        assert not await listener.stop(0.1)
        assert time.monotonic() - begun < 2.0
        assert await listener.wait(1.0)
        await _until(lambda: listener.health()["in_hand"] == 0)
        if transport.capabilities.storage:
            other = Everything()
            async with notify.Listener(transport, TARGETS, [other]):
                assert len(await other.wait(2)) == 2
                await _until(lambda: transport.stats()["listener.handled"] == 2)

    _run(url, test)


def test_cancelling_gives_up() -> None:
    """A cancelled task takes its notification out; it is not sent later."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])

    async def test(transport: Transport) -> None:
        faults.refuse_connections()
        task = asyncio.create_task(notify.Notifier(transport).info(None, "x", 1))
        pipeline = notify.Notifier(transport).pipeline()
        await pipeline.info(None, "x", 2)
        begun = asyncio.Event()

        async def wait() -> None:
            begun.set()
            await pipeline.wait()

        waiting = asyncio.create_task(wait())
        await begun.wait()
        await _until(lambda: transport.stats()["notify.in_flight"] == 2)
        task.cancel()
        waiting.cancel()
        for each in (task, waiting):
            with pytest.raises(asyncio.CancelledError):
                await each
        assert transport.stats()["notify.cancelled"] == 2
        assert transport.stats().get("notify.in_flight", 0) == 0

    _run(name, test)
    assert keep.faults is faults


def test_batches_and_around(url: str) -> None:
    """Batches reach coroutines; around= takes both kinds of context managers."""

    async def test(transport: Transport) -> None:
        batches: asyncio.Queue[list[Any]] = asyncio.Queue()
        steps: list[str] = []

        @asynccontextmanager
        async def traced(subject: Any) -> Any:
            steps.append(type(subject).__name__)
            try:
                yield
            except NoRoute:
                steps.append("NoRoute")
                raise

        class Batch:
            @notify.on("*")
            async def take(self, events: list[notify.Event[Any]]) -> None:
                batches.put_nowait([event.payload for event in events])

        async with notify.BatchListener(
            transport, TARGETS, [Batch()], batch_size=3, batch_timeout=0.05, around=[traced]
        ):
            notifier = notify.Notifier(transport, around=[traced])
            for number in range(3):
                await notifier.info(None, "x", number)
            got: list[Any] = []
            while len(got) < 3:
                got += await asyncio.wait_for(batches.get(), LONG)
            assert got == [0, 1, 2]
        assert steps.count("Event") == 3
        assert "CurrentEvent" in steps
        with pytest.raises(NoRoute):
            await notifier.prepare(topics=["nobody"]).info(None, "x", 1)
        assert steps[-1] == "NoRoute"

    _run(url, test)


def test_dead_letters_are_read_and_sent_again() -> None:
    """The dead letters of a pool, with async for and await."""

    async def test(transport: Transport) -> None:
        bad = True

        async def act(event: notify.Event[Any]) -> None:
            if bad:
                raise notify.Reject("no")

        endpoint = Everything(act)
        async with notify.Listener(transport, TARGETS, [endpoint], pool="p"):
            for number in range(3):
                await notify.Notifier(transport).info(None, "x", number)
            await endpoint.wait(3)
            await _until(lambda: transport.stats()["listener.dead_lettered"] == 3)
            bad = False
            async with notify.DeadLetters(transport, TARGETS[0], "p") as letters:
                assert await letters.count(0.1) == 3
                async for letter in letters.read(0.1):
                    assert letter.event is not None
                    if letter.event.payload == 0:
                        await letters.discard(letter)
                    elif letter.event.payload == 1:
                        await letters.replay(letter)
                assert await letters.replay_all(0.1) == 1
            assert sorted([event.payload for event in await endpoint.wait(2)]) == [1, 2]

    _run(memory_url(), test)


def test_a_listener_has_one_life(url: str) -> None:
    """Starting twice, waiting before the start, and using a closed transport are errors; stopping twice is not."""

    async def test(transport: Transport) -> None:
        listener = notify.Listener(transport, TARGETS, [Everything()])
        with pytest.raises(NotStarted):
            await listener.wait(0.0)
        await listener.start()
        with pytest.raises(StateError, match="starts once"):
            await listener.start()
        assert await listener.stop(1.0)
        assert await listener.stop(1.0)
        await transport.close()
        with pytest.raises(Closed):
            await notify.Notifier(transport).info(None, "x", 1)
        with pytest.raises(Closed):
            await notify.Listener(transport, TARGETS, [Everything()]).start()

    _run(url, test)


def test_both_faces_talk_to_each_other(url: str) -> None:
    """A blocking notifier reaches an asyncio listener, and the reverse."""

    async def test(transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        back: asyncio.Queue[Any] = asyncio.Queue()
        endpoint = Everything()

        class Blocking:
            @messaging.notify.on("*")
            def take(self, event: messaging.notify.Event[Any]) -> None:
                loop.call_soon_threadsafe(back.put_nowait, event.payload)

        def other() -> messaging.Transport:
            return messaging.open_transport(url)

        async with notify.Listener(transport, [Target(topic="to-loop")], [endpoint]):
            with other() as blocking:
                listener = messaging.notify.Listener(blocking, [Target(topic="to-thread")], [Blocking()])
                await asyncio.to_thread(listener.start)
                notifier = messaging.notify.Notifier(blocking, topics=["to-loop"])
                await asyncio.to_thread(notifier.info, None, "x", 1)
                assert (await endpoint.wait())[0].payload == 1
                await notify.Notifier(transport, topics=["to-thread"]).info(None, "x", 2)
                assert await asyncio.wait_for(back.get(), LONG) == 2
                await asyncio.to_thread(listener.stop)
                await asyncio.to_thread(blocking.close)

    _run(url, test)


def test_names_are_those_of_the_blocking_face() -> None:
    """Changing the import is all that it takes."""
    assert set(notify.__all__) == set(messaging.notify.__all__)
