"""Peers that stand still: that ask for nothing more to be sent, or whose bytes stop without an end of the connection.

Both look like a connection in good health. What must not happen is that somebody waits past his deadline, that memory
fills up, or that a connection which is dead is waited for.
"""

from __future__ import annotations

import time
from typing import Any

from messaging import rpc
from messaging.drivers.base import State
from messaging.errors import DeadlineExceeded, Delivered, MessagingError, Overloaded
from messaging.message import Delivery, Outgoing
from messaging.testing.conformance.bare import together
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import PATIENCE, Log, check, equal, eventually, once_each, punctual, raises
from messaging.testing.conformance.scenario import DRIVER, Group

__all__ = ["standstills"]

standstills = Group("standstills")

_HELD_AT_MOST = 256 * 1024 * 1024
"""Bytes that the library holds for a connection that takes nothing; see docs/semantics.md."""
_NOTICED = 2.0
"""Two heartbeats, under the options of the hook `heartbeat`."""


class Runs:
    """Writes down what it was asked to do."""

    def __init__(self) -> None:
        self.tasks: Log[Any] = Log()

    @rpc.expose
    def run(self, ctxt: dict[str, Any], task: Any = None) -> Any:
        """Write down a task; of a large one, its length."""
        self.tasks.add(len(task) if isinstance(task, bytes) else task)
        return task


@standstills.add(
    "BLOCKED is told while the peer wants nothing more, READY when it is over; what comes in is still received.",
    needs=("flow_control",),
    hooks=("block",),
    faces=DRIVER,
)
def blocked_is_told(case: Case) -> None:
    """What is published meanwhile is neither lost nor repeated, and what was not written by its deadline ends there."""
    receiver, _ = case.receiving(window=1)
    sender, route = case.sending()
    bodies: list[bytes] = []

    def note(delivery: Delivery) -> None:
        bodies.append(bytes(delivery.body))

    def note_and_settle(delivery: Delivery) -> None:
        note(delivery)
        receiver.settle([delivery])

    receiver.events.on_delivery = note
    before = [sender.publish(route, b"before %d" % number) for number in range(3)]
    together([sender, receiver], lambda: bodies and all(map(sender.final, before)), "three messages are taken")
    with case.block(sender.connection):
        # A peer may ask only those who publish.
        messages = [sender.publish(route, b"asking")]
        together([sender, receiver], lambda: sender.events.state is State.BLOCKED, "BLOCKED")
        receiver.events.on_delivery = note_and_settle
        receiver.settle(receiver.take())
        together([sender, receiver], lambda: len(bodies) >= 3, "what had been sent before is received")
        messages.append(sender.publish(route, b"held"))
        expires = sender.publish(route, b"expires", deadline=time.monotonic() + 0.3)
        with punctual(0.3 + sender.slack, "a message with a deadline", tolerance=0.3):
            together([sender, receiver], lambda: sender.error(expires) or _past(expires), "its deadline")
    together([sender, receiver], lambda: sender.events.state is State.READY, "READY when it is over")
    check(State.LOST not in sender.events.states, "the connection was lost")
    messages.append(sender.publish(route, b"after"))
    together([sender, receiver], lambda: all(map(sender.final, messages)), "news of what was held")
    equal([sender.error(message) for message in messages], [None] * 3, "errors of what was held")
    wanted = {b"before 0", b"before 1", b"before 2", b"asking", b"held", b"after"}
    together([sender, receiver], lambda: wanted <= set(bodies), "everything that was held arrives")
    if sender.error(expires) is None:
        # It was written before the peer had said anything, so it may come, and may have expired on the way.
        wanted |= {b"expires"} & set(bodies)
    else:
        check(isinstance(sender.error(expires), DeadlineExceeded), f"its end is {sender.error(expires)!r}")
    once_each(bodies, wanted, "what was received")


def _past(outgoing: Outgoing) -> bool:
    """Whether a message that was written is past its deadline: then nothing more needs to be told of it."""
    return outgoing.stage is not None and time.monotonic() >= outgoing.deadline


@standstills.add(
    "While the peer wants nothing more, operations end at their deadlines, and beyond a bound at once.",
    needs=("rpc", "flow_control"),
    hooks=("block",),
)
def blocked_is_held_back(case: Case) -> None:
    """Each is proven not delivered; beyond 256 MiB it is Overloaded. When it is over, calls are answered again, and
    what was given up meanwhile is not run.
    """
    ran = Runs()
    case.server(ran)
    client = case.client()
    client.call({}, "run", task="before")
    size = min(8 * 1024 * 1024, case.capabilities.max_body // 2)
    with case.blocked(case.calling):
        # A peer may ask only those who publish, and what makes it ask is in its hands.
        with raises(DeadlineExceeded, what="the call that finds out"):
            client.prepare(timeout=0.5).call({}, "run", task="finds out")
        eventually(lambda: case.states(case.calling) == {State.BLOCKED}, "the transport is told to hold back")
        with punctual(0.5, "a call"), raises(DeadlineExceeded, what="a call that is held back") as caught:
            client.prepare(timeout=0.5).call({}, "run", task="call")
        equal(caught.error.delivered, Delivered.NO, "delivered")
        with punctual(0.5, "a cast"), raises(DeadlineExceeded, what="a cast that is held back") as caught:
            client.prepare(timeout=0.5).cast({}, "run", task="cast")
        equal(caught.error.delivered, Delivered.NO, "delivered")
        # Without retry=0 it would be tried again up to the deadline.
        patient = client.prepare(timeout=2 * PATIENCE, retry=0)
        body = bytes(size)
        futures = [case.submit(patient, "run", task=body) for _ in range(_HELD_AT_MOST // size + 3)]
        with raises(Overloaded, what="a call beyond the bound") as caught:
            futures[-1].result(PATIENCE)
        equal(caught.error.delivered, Delivered.NO, "delivered")
        refused = [future for future in futures if future.done()]
        equal({type(future.exception()) for future in refused}, {Overloaded}, "how calls ended that were too many")
        check(len(refused) < len(futures) / 2, f"{len(refused)} of {len(futures)} calls were too many")
        for future in futures:
            future.cancel()
        eventually(lambda: not case.calling.stats().get("call.in_flight"), "calls that are given up are ended")
    again = client.prepare(wait_for_ready=True)
    equal(again.call({}, "run", task="after"), "after", "a call when it is over")
    equal(case.states(case.calling), {State.READY}, "the state when it is over")
    equal([task for task in ran.tasks.items if task != "finds out"], ["before", "after"], "what was run")


@standstills.add(
    "A peer whose bytes stop is noticed within two heartbeats; what it did not confirm is in doubt.",
    needs=("stall_detection",),
    hooks=("stall", "heartbeat"),
    faces=DRIVER,
)
def stall_is_noticed(case: Case) -> None:
    """Nothing else says that the connection is dead. While the old one stays silent, messages pass over a new one."""
    options = dict(case.subject.heartbeat or {})
    receiver, _ = case.receiving(**options)
    sender, route = case.sending(**options)
    bodies: list[bytes] = []

    def note_and_settle(delivery: Delivery) -> None:
        bodies.append(bytes(delivery.body))
        receiver.settle([delivery])

    receiver.events.on_delivery = note_and_settle
    first = sender.publish(route, b"first")
    both = [sender, receiver]
    together(both, lambda: bodies and sender.final(first), "a message before")
    with case.stall(sender.connection):
        doubtful = sender.publish(route, b"doubtful")

        def noticed() -> bool:
            return State.LOST in sender.events.states or bool(sender.events.lost_peers or sender.error(doubtful))

        with punctual(_NOTICED + sender.slack, "noticing that the peer is silent", tolerance=0.4):
            together(both, noticed, "the silence of the peer is noticed", 3 * _NOTICED)
        together(both, lambda: sender.final(doubtful), "the end of what was not confirmed")
        error = sender.error(doubtful)
        # Confirmed after all: by a library that knows what it has written, and over a new connection.
        delivered = getattr(error, "delivered", Delivered.YES)
        check(
            delivered is not Delivered.NO or doubtful.stage is None,
            f"what was written into the silence ended with {error!r}, delivered {delivered}",
        )
        together(both, lambda: sender.events.state is State.READY, "READY again, while the old connection is silent")
        again = sender.publish(route, b"again")
        together(both, lambda: sender.final(again) and b"again" in bodies, "a message over the new connection")
        equal(sender.error(again), None, "its error")
    once_each([body for body in bodies if body != b"doubtful"], [b"first", b"again"], "what was received")
    least, most = {Delivered.YES: (1, 1), Delivered.MAYBE: (0, 1), Delivered.NO: (0, 0)}[delivered]
    check(least <= bodies.count(b"doubtful") <= most, f"what was in doubt ({delivered}) came in {bodies}")


@standstills.add(
    "Operations on a connection whose bytes have stopped end at their deadlines, and others later succeed.",
    needs=("rpc",),
    hooks=("stall",),
)
def deadline_in_silence(case: Case) -> None:
    """The caller neither waits for the network nor for the heartbeat; when the bytes flow again, so do calls."""
    ran = Runs()
    case.server(ran)
    client = case.client()
    client.call({}, "run", task="before")
    with case.stalled(case.calling):
        for verb in (client.prepare(timeout=0.5).call, client.prepare(timeout=0.5).cast):
            with punctual(0.5, "an operation"), raises(MessagingError, what="an operation into silence") as caught:
                verb({}, "run", task="silence")
            check(caught.error.delivered is not Delivered.YES, f"{caught.error!r} says that it was done")
    again = client.prepare(wait_for_ready=True, idempotent=True)
    equal(again.call({}, "run", task="after"), "after", "a call when the bytes flow again")
