"""What a pipeline has under way on the short way: each notification ends once, in its place, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from messaging.counters import Counters
from messaging.drivers.base import Capabilities
from messaging.errors import (
    Cancelled,
    Closed,
    ConnectionLost,
    DeadlineExceeded,
    Delivered,
    MessagingError,
    Rejected,
)
from messaging.holding import Holding, tell_taken
from messaging.message import MESSAGE_ID, Outgoing, Route, Stage
from messaging.notify.burst import Burst, Way
from messaging.notify.event import LEVELS
from messaging.notify.session import NotifySession, Sending
from messaging.operations import Operations
from messaging.timers import Timers

_TIMEOUT = 10.0


class Reactor:
    """What operations want of a reactor; nothing leaves it, and time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.capabilities = Capabilities(confirms=True, storage=True)
        self.timers = Timers()
        self.on_change: list[Any] = []
        self.holding = Holding("test", self.clock)
        self.finished = False
        self.published: list[Outgoing] = []
        self.later: list[Any] = []
        self.refusal: MessagingError | None = None

    def clock(self) -> float:
        """The time of this test."""
        return self.now

    def publish(self, outgoing: Outgoing) -> None:
        """Keep it, or refuse it."""
        if self.refusal is not None:
            raise self.refusal
        self.published.append(outgoing)

    def call_later(self, delay: float, function: Any) -> None:
        """Keep it for the test to call."""
        self.later.append(function)

    def is_owner(self) -> bool:
        """The test owns it."""
        return True

    def tell(self, outgoing: Outgoing, stage: Stage | None = Stage.TAKEN, error: Exception | None = None) -> None:
        """What a driver does: note the stage, and tell it."""
        outgoing.stage = stage
        assert outgoing.token is not None
        outgoing.token.sent(outgoing, stage, error, None)


class Rig:
    """A burst, and all that is around it."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.counters = Counters()
        self.operations = Operations(self.reactor, self.counters)  # type: ignore[arg-type]
        session = NotifySession(self.operations)
        topics = {level: ("t", Route.pools("x", "t")) for level in LEVELS}
        self.burst = Burst.over(Way.of(session, "me", topics, {}, _TIMEOUT, None))

    def start(self, count: int) -> list[Outgoing]:
        """Start this many notifications, a second apart."""
        before = len(self.reactor.published)
        for _ in range(count):
            assert self.burst.start(len(self.reactor.published), "info", None, "e", {}, None)
            self.reactor.now += 1.0
        return self.reactor.published[before:]

    def counts(self) -> dict[str, int]:
        """Outcomes, without what was counted never."""
        return {name.removeprefix("notify."): count for name, count in self.counters.snapshot().items() if count}

    def look(self) -> None:
        """The owner looks at the deadlines."""
        for hook in self.reactor.timers.hooks:
            hook(self.reactor.now)


@pytest.fixture
def rig() -> Rig:
    """One of its own for each test."""
    return Rig()


def test_what_is_taken_is_forgotten(rig: Rig) -> None:
    """A notification that is taken is counted, and nothing of it is kept."""
    for outgoing in rig.start(3):
        rig.reactor.tell(outgoing, Stage.WRITTEN)
        rig.reactor.tell(outgoing)
        assert outgoing.token is None
    assert not rig.burst.under_way
    assert not rig.burst.troubled()
    assert rig.operations.pending.count() == 0
    assert rig.counts() == {"sent": 3, "taken": 3}


def test_one_that_is_refused_keeps_its_place(rig: Rig) -> None:
    """Of three the second is refused: that one alone is told, in its place."""
    messages = rig.start(3)
    rig.reactor.tell(messages[0])
    rig.reactor.tell(messages[1], None, Rejected("full", retryable=False))
    rig.reactor.tell(messages[2])
    assert not rig.burst.under_way
    troubled = rig.burst.troubled()
    assert list(troubled) == [1]
    assert isinstance(troubled[1].error, Rejected)
    assert rig.counts() == {"sent": 3, "taken": 2, "refused": 1}


def test_one_that_was_lost_is_sent_again(rig: Rig) -> None:
    """A loss is made good within the deadline, with the same message id, and is under way until then."""
    (first,) = rig.start(1)
    rig.reactor.tell(first, Stage.WRITTEN, ConnectionLost("gone", delivered=Delivered.MAYBE))
    assert list(rig.burst.aside) == [first]
    assert not rig.burst.is_down_to(0)
    rig.reactor.later.pop()()
    again = rig.reactor.published[-1]
    assert again is not first
    assert again.headers[MESSAGE_ID] == first.headers[MESSAGE_ID]
    rig.reactor.tell(again)
    assert rig.burst.is_down_to(0)
    assert all(sending.error is None for sending in rig.burst.troubled().values())
    assert rig.counts() == {"sent": 1, "taken": 1}


def test_each_has_its_own_deadline(rig: Rig) -> None:
    """At its deadline each ends by itself; what was started later, or was taken, does not."""
    first, second, _third = rig.start(3)
    rig.reactor.tell(first)
    rig.look()
    assert rig.counts() == {"sent": 3, "taken": 1}
    rig.reactor.now = second.deadline
    rig.look()
    assert rig.counts() == {"sent": 3, "taken": 1, "expired": 1}
    assert second.withdrawn
    rig.reactor.now += 1.0
    rig.look()
    assert rig.counts() == {"sent": 3, "taken": 1, "expired": 2}
    assert [type(each.error) for each in rig.burst.troubled().values()] == [DeadlineExceeded, DeadlineExceeded]


def test_it_leaves_the_table_when_nothing_is_under_way(rig: Rig) -> None:
    """With nothing under way a look at the deadlines takes it out of the table, and the next notification puts it back
    in.
    """
    (outgoing,) = rig.start(1)
    assert rig.operations.pending.count() == 1
    rig.reactor.tell(outgoing)
    rig.reactor.now += _TIMEOUT
    rig.look()
    assert rig.operations.pending.count() == 0
    (late,) = rig.start(1)
    rig.reactor.now = late.deadline
    rig.look()
    assert rig.counts() == {"sent": 2, "taken": 1, "expired": 1}


def test_a_start_while_it_leaves_the_table_is_seen(rig: Rig) -> None:
    """A notification that starts after the owner has found none, and before the burst has left the table, still ends
    at its deadline.
    """
    (outgoing,) = rig.start(1)
    rig.reactor.tell(outgoing)
    pending = rig.operations.pending
    take = pending.take

    def start_then_take(*arguments: Any) -> Any:
        pending.take = take
        # As it is for a thread that has compared the deadlines before the owner changed that of the burst.
        rig.burst.deadline = 0.0
        late.extend(rig.start(1))
        return take(*arguments)

    late: list[Outgoing] = []
    rig.reactor.now += _TIMEOUT
    pending.take = start_then_take
    rig.look()
    rig.reactor.now = late[0].deadline
    rig.look()
    rig.look()
    assert rig.counts() == {"sent": 2, "taken": 1, "expired": 1}


def test_a_close_ends_each_once(rig: Rig) -> None:
    """When the connection is finished each is closed, and one that starts at that moment is closed once too."""
    rig.start(2)
    rig.reactor.finished = True
    for listener in rig.reactor.on_change:
        listener()
    rig.reactor.refusal = Closed("the transport was closed")
    assert rig.burst.start(2, "info", None, "e", {}, None)
    assert not rig.burst.under_way
    assert sorted(rig.burst.troubled()) == [0, 1, 2]
    assert {type(each.error) for each in rig.burst.troubled().values()} == {Closed}
    assert rig.counts() == {"sent": 3, "closed": 3}


def test_giving_up_cancels_what_has_no_outcome(rig: Rig) -> None:
    """What is under way is withdrawn and cancelled; what was taken stays taken, and late news change nothing."""
    first, second = rig.start(2)
    rig.reactor.tell(first)
    rig.burst.give_up("the block raised")
    assert second.withdrawn
    assert isinstance(rig.burst.troubled()[1].error, Cancelled)
    assert rig.counts() == {"sent": 2, "taken": 1, "cancelled": 1}


def test_an_owner_that_is_late_is_not_waited_for(rig: Rig) -> None:
    """What has no outcome at the end has expired for its caller, and is counted by the owner when it comes to it."""
    (outgoing,) = rig.start(1)
    assert not rig.burst.is_down_to(0)
    assert isinstance(rig.burst.troubled()[0].error, DeadlineExceeded)
    assert outgoing.withdrawn
    assert rig.counts() == {"sent": 1}
    rig.reactor.now += _TIMEOUT
    rig.look()
    assert rig.counts() == {"sent": 1, "expired": 1}


def test_whoever_waits_is_woken_once(rig: Rig) -> None:
    """Who waits until few are under way is woken by the end that makes them few, and by no later one."""
    messages = rig.start(10)
    woken: list[int] = []
    rig.burst.wake = lambda: woken.append(len(rig.burst.under_way))
    assert not rig.burst.is_down_to(5)
    for outgoing in messages[:-1]:
        rig.reactor.tell(outgoing)
    assert woken == [5]
    assert not rig.burst.is_down_to(0)
    rig.reactor.tell(messages[-1], None, Rejected("full", retryable=False))
    assert woken == [5, 0]
    assert rig.burst.is_down_to(0)


@pytest.mark.parametrize(
    "arguments",
    [("loud", None, "e", {}), ("info", None, "", {}), ("info", [], "e", {}), ("info", None, "e", object())],
    ids=["level", "event type", "context", "payload"],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_long_way(rig: Rig, arguments: tuple[Any, Any, Any, Any]) -> None:
    """What cannot be sent as it is is not sent, and nothing of it is kept."""
    level, ctxt, event_type, payload = arguments
    assert not rig.burst.start(0, level, ctxt, event_type, payload, None)
    assert not rig.burst.under_way
    assert rig.counts() == {}


def test_sendings_of_a_burst_are_of_its_topic(rig: Rig) -> None:
    """An operation that comes out of a burst says the same as any other: its topic, its message id, its timeout."""
    (outgoing,) = rig.start(1)
    (part,) = rig.burst.parts()
    assert isinstance(part, Sending)
    assert (part.topic, part.id, part.timeout) == ("t", outgoing.headers[MESSAGE_ID], _TIMEOUT)
    assert rig.burst.parts() == []


def test_many_are_taken_at_once(rig: Rig) -> None:
    """What is told for many at once counts once for each, whatever was told of them before."""
    messages = rig.start(4)
    rig.reactor.tell(messages[1])
    woken: list[int] = []
    rig.burst.wake = lambda: woken.append(len(rig.burst.under_way))
    assert not rig.burst.is_down_to(1)
    tell_taken(messages[:3])
    assert list(rig.burst.under_way) == [messages[3]]
    assert woken == [1]
    assert rig.counts() == {"sent": 4, "taken": 3}


@pytest.mark.parametrize("other", ["taken", "made one too"])
def test_one_that_ends_on_two_threads_ends_once(rig: Rig, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """While the owner makes a message a Sending, the pipeline's thread gets the news that it is taken, or comes to the
    same end: whoever has taken it out of the table has it, and the other leaves it alone.
    """
    (outgoing,) = rig.start(1)
    make = rig.burst._sending
    meanwhile: list[Callable[[], object]] = [lambda: rig.burst.all_taken([outgoing])]
    if other != "taken":
        meanwhile = [rig.burst.parts]

    def made(message: Outgoing) -> Sending:
        sending = make(message)
        while meanwhile:
            meanwhile.pop()()
        return sending

    monkeypatch.setattr(Burst, "_sending", lambda burst, message: made(message))
    assert rig.burst.parts() == []
    assert rig.counts() == ({"sent": 1, "taken": 1} if other == "taken" else {"sent": 1})
    assert rig.burst.is_down_to(0) == (other == "taken")
    if other != "taken":
        rig.reactor.tell(outgoing)
    assert rig.burst.is_down_to(0)
    assert not [sending for sending in rig.burst.troubled().values() if sending.error is not None]
    assert rig.counts() == {"sent": 1, "taken": 1}
