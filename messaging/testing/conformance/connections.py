"""The driver contract, first half: how a connection lives. It is pumped by hand, with nothing above it.

When the pump returns, when events fire, how a connection is woken, cut and closed.
"""

from __future__ import annotations

import gc
import select
import threading
import time
from functools import partial

from messaging.drivers.base import State
from messaging.message import Delivery, Outgoing, Route, Source
from messaging.testing.conformance.bare import Bare, together
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import check, equal, eventually, punctual
from messaging.testing.conformance.scenario import DRIVER, Group

__all__ = ["connections"]

connections = Group("connections", faces=DRIVER)

_SHORT = 0.15
"""Seconds of a pump that has nothing to do."""


@connections.add("pump never waits past its timeout, whatever the connection is doing.")
def pump_keeps_its_timeout(case: Case) -> None:
    """Before it is connected, idle, subscribed, with messages under way, and closing."""
    bare = case.bare(connect=False)
    for _ in range(3):
        with punctual(_SHORT + bare.slack, "pump while connecting"):
            bare.pump(_SHORT)
    bare.connect()
    with punctual(_SHORT + bare.slack, "pump while idle"):
        bare.pump(_SHORT)
    receiver, source = case.receiving()
    with punctual(_SHORT + receiver.slack, "pump while subscribed"):
        receiver.pump(_SHORT)
    sender, route = case.sending()
    for _ in range(100):
        sender.publish(route)
    with punctual(_SHORT + sender.slack, "pump while sending"):
        sender.pump(_SHORT)
    receiver.connection.unsubscribe(source)
    with punctual(_SHORT + receiver.slack, "pump while unsubscribing"):
        receiver.pump(_SHORT)
    receiver.connection.close(1.0)
    with punctual(_SHORT + receiver.slack, "pump while closing"):
        receiver.pump(_SHORT)


@connections.add("pump waits instead of spinning, and says for how long it may be left alone.")
def pump_does_not_spin(case: Case) -> None:
    """An idle connection takes few turns to get through a time; a hint of 0 is for more that is ready."""
    bare, _ = case.receiving()
    turns = 0
    until = time.monotonic() + 0.5
    while (left := until - time.monotonic()) > 0.0:
        hint = bare.pump(left)
        turns += 1
        check(hint >= 0.0, f"pump says that it may be left alone for {hint} s")
    # A library that cannot be woken waits for 10 ms at a time: 50 turns. What spins takes thousands.
    check(turns <= 250, f"an idle connection was pumped {turns} times in half a second")


@connections.add("wake() makes a waiting pump return, and the next one not wait.")
def wake_ends_the_wait(case: Case) -> None:
    """From another thread, while nothing else is there to be done."""
    bare = case.bare()
    while bare.pump(0.0) <= 0.0:
        pass
    for delay in (0.05, 0.1):
        woken = _wake_after(bare, delay)
        with punctual(delay + bare.slack, "a pump of 5 s that is woken"):
            # A driver may have reasons of its own to return earlier.
            while not woken.is_set():
                bare.pump(5.0)
        bare.pump(0.0)
    bare.connection.wake()
    with punctual(0.0 + bare.slack, "a pump after wake()"):
        bare.pump(5.0)


def _wake_after(bare: Bare, delay: float) -> threading.Event:
    """Have the connection woken by another thread; the event is set just before."""
    about_to = threading.Event()

    def wake() -> None:
        about_to.set()
        bare.connection.wake()

    timer = threading.Timer(delay, wake)
    timer.daemon = True
    timer.start()
    return about_to


@connections.add("fileno() stays the same and is readable when pump has work.")
def descriptor_is_readable(case: Case) -> None:
    """For a wake-up and for a message, and not for long when there is nothing; None: only pump can wait."""
    receiver, source = case.receiving()
    number = receiver.connection.fileno()
    if number is None:
        return
    sender, route = case.sending()
    _settle_down(receiver)
    receiver.connection.wake()
    check(_readable(number, 1.0), "the descriptor is not readable after wake()")
    for _ in range(3):
        _settle_down(receiver)
        outgoing = sender.publish(route, b"hello")
        _arrives_by_descriptor(sender, receiver, number)
        receiver.settle(receiver.take())
        together([sender, receiver], partial(sender.final, outgoing), "the message is taken")
    equal(receiver.connection.fileno(), number, "the descriptor")
    equal(source in receiver.events.subscribed, True, "the subscription")


def _arrives_by_descriptor(sender: Bare, receiver: Bare, number: int) -> None:
    """Pump the receiver only when its descriptor is readable, or it has just said that more is ready, until a message
    comes.
    """
    until = time.monotonic() + 5.0
    more = False
    while not receiver.events.deliveries:
        sender.pump(0.002)
        check(time.monotonic() < until, "the descriptor did not tell of the message that has arrived")
        if more or _readable(number, 0.002):
            # What comes after the last look of a pump is told by the descriptor, what came before it by the hint.
            more = receiver.pump(0.0) <= 0.0


def _readable(number: int, timeout: float) -> bool:
    # Not select(), which takes no number from 1024 on.
    poller = select.poll()
    poller.register(number, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def _settle_down(bare: Bare) -> None:
    """Pump until the connection says that it may be left alone, and its descriptor is quiet."""
    number = bare.connection.fileno()
    until = time.monotonic() + 5.0
    while bare.pump(0.0) <= 0.0 or (number is not None and _readable(number, 0.0)):
        check(time.monotonic() < until, "an idle connection always has more to do")


@connections.add("Events fire inside pump only; from an event the owner may publish, subscribe and settle.")
def events_inside_pump(case: Case) -> None:
    """Nothing that is called fires an event by itself; what is done in an event works."""
    receiver, source = case.receiving()
    sender, route = case.sending()
    answered: list[Outgoing] = []
    answers = sender.subscribe(Source.reply()) if case.capabilities.rpc else ""

    def act(delivery: Delivery) -> None:
        if delivery.reply_to:
            answered.append(receiver.publish(Route.reply(delivery.reply_to), delivery.body, confirm=False))
        receiver.connection.subscribe(source, 50)
        receiver.settle([delivery])

    receiver.events.on_delivery = act
    messages = [sender.publish(route, b"%d" % number, reply_to=bool(answers)) for number in range(20)]
    together([sender, receiver], lambda: len(receiver.events.settled) == 20, "20 messages are settled from events")
    together([sender, receiver], lambda: all(map(sender.final, messages)), "20 messages are taken")
    if answers:
        together([sender, receiver], lambda: len(sender.events.deliveries) == 20, "20 answers sent from events")
    receiver.connection.unsubscribe(source)
    receiver.connection.wake()
    for bare in (receiver, sender):
        bare.connection.close(0.5)
        equal(bare.events.outside, [], "events outside of pump")


@connections.add("close() reaches CLOSED in time, in every state.")
def close_from_every_state(case: Case) -> None:
    """Never pumped, connecting, ready, subscribed with unsettled deliveries, with messages unsent, and twice."""
    fresh = case.bare(connect=False)
    connecting = case.bare(connect=False)
    connecting.pump(0.0)
    ready = case.bare()
    receiver, _ = case.receiving()
    sender, route = case.sending()
    sender.publish(route)
    together([sender, receiver], lambda: receiver.events.deliveries, "an unsettled delivery")
    for _ in range(10):
        sender.publish(route, b"x" * 1000)
    for bare in (fresh, connecting, ready, receiver, sender):
        with punctual(0.3 + bare.slack, "closing", tolerance=1.0):
            bare.connection.close(0.3)
            bare.connection.close(0.3)
            bare.until(lambda bare=bare: bare.events.state is State.CLOSED, "CLOSED", 3.0)  # type: ignore[misc]
        check(bare.pump(0.0) > 0.0, "a closed connection says that it has more to do")
        bare.connection.wake()


@connections.add("A connection that is closed is forgotten, with what it had handed out.")
def closed_is_forgotten(case: Case) -> None:
    """Deliveries are not seen by the garbage collector: whoever keeps one that is over keeps all that it leads to."""
    receiver, _ = case.receiving()
    sender, route = case.sending()
    for _ in range(3):
        sender.publish(route)
    together([sender, receiver], lambda: len(receiver.events.deliveries) == 3, "three deliveries")
    receiver.settle(receiver.events.deliveries[:1])
    receiver.pump(0.0)
    receiver.close()
    kind, place = type(receiver.connection), id(receiver.connection)
    del receiver.connection
    receiver.events.forget()

    def forgotten() -> bool:
        gc.collect()
        return not any(type(each) is kind and id(each) == place for each in gc.get_objects())

    eventually(forgotten, "the closed connection is forgotten", 5.0)


@connections.add(
    "Without a peer a connection says LOST and when it tries again, and goes on trying.", hooks=("unreachable",)
)
def keeps_trying(case: Case) -> None:
    """Every LOST names its cause and the time to the next attempt; a connection that needs no peer may be READY."""
    bare = case.bare(url=case.unreachable(), connect=False)
    bare.until(
        lambda: bare.events.states.count(State.LOST) >= 3 or State.READY in bare.events.states,
        "three attempts, or READY without a peer",
    )
    events = list(zip(bare.events.states, bare.events.causes, bare.events.retries, strict=True))
    for state, cause, retry in events:
        if state is State.LOST:
            check(cause is not None, "LOST without a cause")
            check(retry is not None and 0.0 <= retry < 60.0, f"LOST, and the next attempt is in {retry} s")


@connections.add(
    "After a cut the connection reconnects and subscribes again, and tells each step.",
    needs=("acceptance=backend",),
    hooks=("disconnect",),
)
def reconnects_by_itself(case: Case) -> None:
    """LOST with a retry, READY again, every source announced again; then messages pass."""
    receiver, source = case.receiving()
    sender, route = case.sending()
    for _ in range(3):
        receiver.events.states.clear()
        case.cut(receiver.connection)
        receiver.until(lambda: State.LOST in receiver.events.states, "LOST after the cut")
        receiver.until(lambda: source in receiver.events.subscribed, "the subscription after the cut")
        check(State.READY in receiver.events.states, f"the states after the cut: {receiver.events.states}")
    outgoing = sender.publish(route, b"after")
    together([sender, receiver], lambda: receiver.events.deliveries, "a message after the cuts")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(outgoing), "news of the message after the cuts")
