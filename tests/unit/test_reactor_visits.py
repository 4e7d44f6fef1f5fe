"""Callers that pump for themselves: the hand-over between them, our thread, and whoever comes in between.

As in test_reactor.py the steps are made slow at random, and the rounds have to find planted bugs. The thread that looks
after each period of parking would heal most of them within milliseconds; here its period is long, so that a forgotten
message stays forgotten.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from _thread import LockType, allocate_lock
from collections.abc import Callable
from typing import Any

import pytest

from messaging import Closed, open_transport, rpc
from messaging.drivers.base import Connection, ConnectionEvents, Services
from messaging.errors import TransportError
from messaging.message import Outgoing, Route, Source, Stage, Token
from messaging.target import Target
from messaging.thread_reactor import ThreadReactor
from tests.faults.processes import Stall
from tests.unit.test_reactor import STUCK, Loopback, SlowReactor, dawdle

_IN_TIME = 5.0
"""Seconds for a round of slowed steps; a forgotten message waits for the long period instead."""


class Ringing(Token):
    """A message whose sender waits at a lock; it counts as under way from the beginning to its news."""

    __slots__ = ("_under_way", "bell")

    def __init__(self, reactor: Any) -> None:
        self.bell = allocate_lock()
        self.bell.acquire()
        self._under_way: set[Ringing] = reactor.under_way
        self._under_way.add(self)

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        self._under_way.discard(self)
        self.bell.release()


class Guarded(Loopback):
    """A connection that notices two threads in it at once. While `keeps` is set, whoever pumps stays until another
    thread is there too, or wakes it.
    """

    def __init__(self, events: ConnectionEvents) -> None:
        super().__init__(events)
        self._inside = threading.Lock()
        self._called = threading.Event()
        self.crowded = 0
        self.pumpers: set[int] = set()
        self.keeps = False
        self.stays = threading.Event()

    def keep(self) -> None:
        """From now on whoever pumps stays."""
        self._called.clear()
        self.keeps = True

    def pump(self, timeout: float) -> float:
        if not self._inside.acquire(blocking=False):
            self.crowded += 1
            self._called.set()
            return 0.0
        try:
            self.pumpers.add(threading.get_ident())
            if self.keeps:
                self.stays.set()
                self._called.wait(STUCK)
            return super().pump(timeout)
        finally:
            self._inside.release()

    def wake(self) -> None:
        self._called.set()
        super().wake()


class SlowSeat(dict[str, tuple[LockType, int]]):
    """A seat whose every use takes a moment before and after."""

    def setdefault(self, key: str, value: Any) -> Any:
        dawdle()
        found = super().setdefault(key, value)
        dawdle()
        return found

    def __delitem__(self, key: str) -> None:
        dawdle()
        super().__delitem__(key)
        dawdle()

    def get(self, key: str, default: Any = None) -> Any:
        dawdle()
        found = super().get(key, default)
        dawdle()
        return found


class Visited(SlowReactor):
    """A slow reactor that lets callers in again at once after they have met."""

    period = 10.0

    def __init__(self, connect: Any) -> None:
        super().__init__(connect)
        self._seat = SlowSeat(self._seat)

    @property
    def _crowded_until(self) -> float:
        return 0.0

    @_crowded_until.setter
    def _crowded_until(self, value: float) -> None:
        pass


class LeavesWithoutLooking(Visited):
    """Planted: whoever leaves does not look into the inbox."""

    def _leave(self, hurried: bool) -> None:
        time.sleep(0.003)
        self._visits += 1
        self._sleeping = True
        del self._seat["seat"]
        if hurried or self._wanted:
            self._wanted = True
            self._ring()


class LooksBeforeItLeaves(Visited):
    """Planted: whoever leaves looks into the inbox, and then raises the flag and frees the seat."""

    def _leave(self, hurried: bool) -> None:
        left = bool(self._inbox) or hurried or self._wanted
        time.sleep(0.003)
        self._visits += 1
        self._sleeping = True
        del self._seat["seat"]
        if left:
            self._wanted = True
            self._ring()


class NeverRings(Visited):
    """Planted: nobody calls our thread back."""

    def _ring(self) -> None:
        pass


class WakesTheConnectionAlone(Visited):
    """Planted: a poster wakes the connection, though nobody pumps."""

    def _rouse(self) -> None:
        self._connection.wake()


class AnySeat(SlowSeat):
    """A seat that everybody gets."""

    def setdefault(self, key: str, value: Any) -> Any:
        self[key] = value
        return super().setdefault(key, value)

    def __delitem__(self, key: str) -> None:
        self.pop(key, None)


class SitsOnAnothersLap(Visited):
    """Planted: a caller pumps though the seat is taken."""

    def __init__(self, connect: Any) -> None:
        super().__init__(connect)
        self._seat = AnySeat(self._seat)


def guarded(kind: type[ThreadReactor]) -> tuple[Any, Guarded]:
    """A reactor of this kind, connected, receiving answers, and launched."""
    made: list[Guarded] = []

    def connect(events: ConnectionEvents, services: Services) -> Connection:
        made.append(Guarded(events))
        return made[0]

    reactor: Any = kind(connect)  # type: ignore[call-arg]
    reactor.under_way = set()
    reactor.outstanding = reactor.under_way.__len__
    ready = threading.Event()
    reactor.subscribe(Source.reply(), 1, lambda batch: None, lambda address, error: ready.set())
    assert ready.wait(STUCK)
    return reactor, made[0]


def wrong_rounds(kind: type[ThreadReactor], rounds: int, until: float = 60.0) -> tuple[int, Guarded]:
    """Let one, two or three threads exchange or post at the same moment, round after round; return how many exchanges
    were not answered in time, and the connection.
    """
    random.seed(11)
    plans = [[random.choice("eeep.") for _ in range(3)] for _ in range(rounds)]
    # Rounds of one caller alone, now and then, so that our thread parks.
    plans = [["e", ".", "."] if number % 3 else plan for number, plan in enumerate(plans)]
    reactor, connection = guarded(kind)
    barrier = threading.Barrier(3)
    stuck: list[int] = []
    end = time.monotonic() + until

    def act(index: int) -> None:
        for number, plan in enumerate(plans):
            barrier.wait(30)
            time.sleep(random.random() * 0.005)
            if stuck or connection.crowded or time.monotonic() > end:
                return
            if plan[index] != ".":
                token = Ringing(reactor)
                outgoing = Outgoing(Route.any("x", "t"), b"", {}, token)
            if plan[index] == "e":
                if not reactor.exchange(outgoing, token.bell, time.monotonic() + _IN_TIME):
                    stuck.append(number)
            elif plan[index] == "p":
                reactor.publish(outgoing)
                if not token.bell.acquire(timeout=_IN_TIME):
                    stuck.append(number)
            # Nobody looks at what the others are about to look at.
            barrier.wait(30)

    threads = [threading.Thread(target=act, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    reactor.start_close(0.1)
    reactor._ring()
    connection.wake()
    return len(stuck), connection


def test_no_message_is_forgotten_when_callers_pump_for_themselves() -> None:
    """With every step of the hand-over slowed at random, callers, posters and our thread never leave a message behind,
    never pump at once, and callers do pump.
    """
    stuck, connection = wrong_rounds(Visited, 120)
    assert stuck == 0
    assert connection.crowded == 0
    assert len(connection.pumpers) > 1


@pytest.mark.parametrize("kind", [LeavesWithoutLooking, LooksBeforeItLeaves, NeverRings, WakesTheConnectionAlone])
def test_the_rounds_find_a_planted_bug(kind: type[ThreadReactor]) -> None:
    """The same rounds forget messages when a hand-over is broken on purpose."""
    stuck, _ = wrong_rounds(kind, 2000, until=40.0)
    assert stuck > 0


def parked(reactor: Any) -> None:
    """Have a caller wait for our thread once, and wait until that one has parked."""
    token = Ringing(reactor)
    assert reactor.exchange(Outgoing(Route.any("x", "t"), b"", {}, token), token.bell, time.monotonic() + STUCK)
    until = time.monotonic() + STUCK
    while "seat" in reactor._seat and time.monotonic() < until:
        time.sleep(0.0005)
    assert "seat" not in reactor._seat


class Quick(ThreadReactor):
    """The reactor as it is, with a period that is long enough for a test to act in it."""

    period = 0.5

    def __init__(self, connect: Any) -> None:
        from messaging.drivers.base import Capabilities

        super().__init__(connect, Capabilities(confirms=True), name="quick")


def second_caller(kind: type[ThreadReactor]) -> tuple[bool, float, Guarded]:
    """Let a caller come while another is inside the connection; return whether it was answered, and in what time."""
    reactor, connection = guarded(kind)
    # Our thread is not to come back before the callers come.
    reactor.period = 10 * STUCK
    parked(reactor)
    never = allocate_lock()
    never.acquire()
    connection.keep()
    # Not counted as under way: as far as the second caller can know, it is alone.
    silent = Outgoing(Route.any("x", "t"), b"", {}, None)
    first = threading.Thread(target=reactor.exchange, args=(silent, never, time.monotonic() + STUCK))
    first.start()
    assert connection.stays.wait(STUCK)
    token = Ringing(reactor)
    begun = time.monotonic()
    answered = reactor.exchange(Outgoing(Route.any("x", "t"), b"", {}, token), token.bell, begun + 2 * STUCK)
    took = time.monotonic() - begun
    never.release()
    connection.wake()
    first.join()
    reactor.close(0.5)
    return answered, took, connection


def test_a_second_caller_makes_the_first_one_leave() -> None:
    """While one caller pumps, a second one does not, but wakes it, and its own message is sent then."""
    answered, took, connection = second_caller(Quick)
    assert answered
    # Who is not woken stays for so long.
    assert took < STUCK
    assert connection.crowded == 0


def test_two_callers_in_a_connection_are_noticed() -> None:
    """The same steps find a seat that a second caller gets too. The rounds do by luck alone: who knows of another's
    operation under way does not pump, so two are in there only when the first one's has just ended.
    """
    assert second_caller(SitsOnAnothersLap)[-1].crowded > 0


def test_close_ends_a_caller_that_pumps() -> None:
    """A close from elsewhere gets our thread back to the connection at once."""
    reactor, _ = guarded(Quick)
    parked(reactor)
    never = allocate_lock()
    never.acquire()
    silent = Outgoing(Route.any("x", "t"), b"", {}, None)
    first = threading.Thread(target=reactor.exchange, args=(silent, never, time.monotonic() + STUCK))
    first.start()
    wait_for(lambda: "seat" in reactor._seat)
    with Stall() as stall:
        begun = time.monotonic()
        reactor.close(0.5)
        took = time.monotonic() - begun
    assert reactor.finished
    assert took < 0.3 + stall.worst
    never.release()
    first.join()
    with pytest.raises(Closed):
        reactor.exchange(silent, never, time.monotonic() + 1)


def test_our_thread_takes_over_when_a_timer_is_due() -> None:
    """A timer that comes due while a caller pumps runs in time, on our thread."""
    reactor, _ = guarded(Quick)
    ran: list[int] = []
    reactor.call_later(0.1, lambda: ran.append(threading.get_ident()))
    parked(reactor)
    never = allocate_lock()
    never.acquire()
    silent = Outgoing(Route.any("x", "t"), b"", {}, None)
    begun = time.monotonic()
    reactor.exchange(silent, never, begun + 0.3)
    assert ran == [reactor._thread.ident]
    reactor.close(0.5)


def test_our_thread_goes_back_when_nobody_comes() -> None:
    """After one period without a caller the connection is pumped again."""
    reactor, _ = guarded(Quick)
    reactor.period = 0.02
    parked(reactor)
    wait_for(lambda: "seat" in reactor._seat)
    reactor.close(0.5)


def test_a_driver_that_fails_under_a_caller_ends_everything() -> None:
    """An exception out of a caller's pump is the driver's failure, as it is on our thread."""
    reactor, connection = guarded(Quick)
    parked(reactor)
    never = allocate_lock()
    never.acquire()
    connection.fail = ZeroDivisionError("a bug in the driver")
    caught: list[bool] = []
    caller = threading.Thread(
        target=lambda: caught.append(
            reactor.exchange(Outgoing(Route.any("x", "t"), b"", {}, None), never, time.monotonic() + 0.2)
        )
    )
    caller.start()
    caller.join(STUCK)
    assert caught == [False]
    wait_for(lambda: reactor.finished)
    with pytest.raises(TransportError, match="a bug in the driver"):
        reactor.publish(Outgoing(Route.any("x", "t"), b"", {}, None))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + STUCK
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.0005)


class Interrupted(BaseException):
    """What the signal handler of the test raises, like a KeyboardInterrupt."""


class Echo:
    """Answers with what it got."""

    @rpc.expose
    def echo(self, ctxt: dict[str, Any], value: int) -> int:
        """Return the value."""
        return value


@pytest.mark.parametrize("scheme", ["memory", "zmq"])
def test_a_caller_that_is_interrupted_while_it_pumps_harms_nobody(scheme: str, tmp_path: Any) -> None:
    """Exceptions at any bytecode of a caller that pumps: its next calls get their own answers, and so do others."""
    url = f"zmq+local://{tmp_path}" if scheme == "zmq" else f"memory://{tmp_path.name}"
    with (
        open_transport(url) as serving,
        open_transport(url) as transport,
        rpc.Server(serving, Target(topic="t", server="s"), [Echo()]),
    ):
        client = rpc.Client(transport, Target(topic="t"), timeout=5)
        client.call(None, "echo", value=0)
        interrupted = rounds = 0
        armed = False
        wrong: list[Any] = []

        def interrupt(_number: int, _frame: Any) -> None:
            # The signal may reach another thread first, and this one when the call is over.
            if armed:
                raise Interrupted

        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            # How many timers end before their calls depends on the machine.
            while interrupted <= 100 and rounds < 10_000:
                rounds += 1
                # Once our thread parks, the third call of each round is the caller's own.
                if [client.call(None, "echo", value=value) for value in (1, 2)] != [1, 2]:
                    wrong.append(rounds)
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0004))
                    if client.call(None, "echo", value=rounds) != rounds:
                        wrong.append(rounds)
                    armed = False
                except Interrupted:
                    interrupted += 1
                finally:
                    armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        reactor: Any = transport._reactors()[0]
        assert not wrong
        assert interrupted > 100
        assert reactor._visits > 0
        assert [client.call(None, "echo", value=value) for value in range(50)] == list(range(50))
        wait_for(lambda: not transport.stats().get("call.in_flight", 0))
