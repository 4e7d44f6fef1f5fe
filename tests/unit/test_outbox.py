"""The queue of unwritten messages that drivers share."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from messaging.drivers.outbox import Outbox, in_doubt
from messaging.errors import ConnectionLost, DeadlineExceeded, Delivered
from messaging.message import Outgoing, Route, Stage

ROUTE = Route.any("", "topic")


def message(body: bytes = b"x", deadline: float = 0.0) -> Outgoing:
    """A message to nowhere."""
    return Outgoing(ROUTE, body, {}, deadline=deadline)


def error_of(news: Any) -> Any:
    """The error of the only piece of news."""
    (result,) = news
    return result.error


def test_messages_leave_in_order() -> None:
    """First in, first out; then None."""
    outbox = Outbox()
    sent = [message(), message(), message()]
    for outgoing in sent:
        outbox.push(outgoing)
    assert len(outbox) == 3
    assert [outbox.pop(0.0) for _ in range(4)] == [*sent, None]
    assert (len(outbox), outbox.size) == (0, 0)


def test_what_could_not_be_written_goes_back_in_front() -> None:
    """A message that the socket did not take is the next one again."""
    outbox = Outbox()
    first, second = message(b"12", deadline=5.0), message()
    outbox.push(first)
    outbox.push(second)
    taken = outbox.pop(0.0)
    assert taken is first
    outbox.unpop(first)
    assert (outbox.size, outbox.next_expiry) == (3, 5.0)
    assert outbox.pop(0.0) is first


def test_withdrawn_messages_are_passed_over() -> None:
    """What its sender has given up is neither written nor told, at the write and at a lost connection."""
    outbox = Outbox()
    for _ in range(2):
        outgoing = message()
        outgoing.withdrawn = True
        outbox.push(outgoing)
        assert outbox.pop(0.0) is None
    outbox.push(outgoing)
    assert outbox.lose(None) == []
    assert outbox.news() == []


def test_expired_messages_are_told() -> None:
    """At its deadline a message is told as not delivered, whether somebody looks for it or wants to write it."""
    outbox = Outbox()
    first, second, third = message(deadline=1.0), message(deadline=2.0), message()
    for outgoing in (first, second, third):
        outbox.push(outgoing)
    assert outbox.next_expiry == 1.0
    outbox.expire(0.9)
    assert outbox.news() == []
    outbox.expire(1.0)
    news = outbox.news()
    assert [result.outgoing for result in news] == [first]
    error = error_of(news)
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, error.delivered) == ("send", Delivered.NO)
    assert outbox.pop(2.5) is third
    assert [result.outgoing for result in outbox.news()] == [second]
    assert outbox.next_expiry == math.inf


def test_withdrawn_messages_leave_at_an_expiry() -> None:
    """A look at the deadlines also lets go of what was withdrawn, so that it does not pile up."""
    outbox = Outbox()
    withdrawn = message(b"123")
    outbox.push(withdrawn)
    outbox.push(message(deadline=1.0))
    withdrawn.withdrawn = True
    outbox.expire(1.0)
    assert (len(outbox), outbox.size) == (0, 0)


def test_close_deadlines_are_looked_at_together() -> None:
    """Ten thousand messages that expire one after the other within a second are not looked at ten thousand times."""

    class Counting(Outgoing):
        looks = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "deadline":
                Counting.looks += 1
            return super().__getattribute__(name)

    outbox = Outbox()
    for number in range(1_000):
        outbox.push(Counting(ROUTE, b"", {}, deadline=1.0 + number / 1_000))
    told = 0
    now = 1.0
    while len(outbox):
        now = max(now, outbox.next_expiry)
        outbox.expire(now)
        news = outbox.news()
        assert all(result.outgoing.deadline <= now <= result.outgoing.deadline + 0.02 for result in news)
        told += len(news)
    assert told == 1_000
    assert Counting.looks < 300_000


def test_marks() -> None:
    """Above the mark the outbox is blocked, and it stays so until half of it has gone; by count and by bytes."""
    for outbox, body in ((Outbox(high_count=4), b""), (Outbox(high_bytes=4), b"1")):
        states = []
        for _ in range(5):
            outbox.push(message(body))
            states.append(outbox.blocked)
        for _ in range(4):
            outbox.pop(0.0)
            states.append(outbox.blocked)
        assert states == [False] * 4 + [True] * 3 + [False] * 2


def test_expiry_lowers_the_mark() -> None:
    """Room that expired messages leave counts."""
    outbox = Outbox(high_count=1)
    outbox.push(message(deadline=1.0))
    outbox.push(message(deadline=1.0))
    assert outbox.blocked
    outbox.expire(1.0)
    assert not outbox.blocked


def test_a_lost_connection_answers_for_everything() -> None:
    """What waited is told as not delivered, with the cause; what had expired before, as expired; then it is empty."""
    outbox = Outbox(high_count=1)
    late, waiting = message(deadline=1.0), message()
    outbox.push(late)
    outbox.push(waiting)
    outbox.push(message())
    outbox.expire(1.0)
    cause = OSError("reset")
    news = outbox.lose(cause)
    assert [type(result.error) for result in news] == [DeadlineExceeded, ConnectionLost, ConnectionLost]
    error: Any = news[1].error
    assert (error.delivered, error.__cause__, news[1].stage) == (Delivered.NO, cause, None)
    assert "reset" in str(error)
    assert (len(outbox), outbox.size, outbox.next_expiry, outbox.blocked) == (0, 0, math.inf, False)


def test_what_was_written_is_in_doubt() -> None:
    """The news of a written message whose confirmation cannot come any more says MAYBE."""
    result = in_doubt(message(), OSError("reset"))
    error: Any = result.error
    assert (type(error), error.delivered, result.stage) == (ConnectionLost, Delivered.MAYBE, Stage.WRITTEN)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 5), st.integers(0, 20)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
        st.tuples(st.just("withdraw"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 5), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_message_ends_once(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens in whatever order, each message is written, told or withdrawn: never twice, never in silence."""
    outbox = Outbox(high_count=3, high_bytes=8)
    now = 0.0
    pushed: list[Outgoing] = []
    ended: list[Outgoing] = []
    for step, first, second in steps:
        if step == "push":
            pushed.append(message(b"x" * first, deadline=float(second) and now + second))
            outbox.push(pushed[-1])
        elif step == "pop":
            popped = outbox.pop(now)
            if popped is not None:
                assert not popped.withdrawn
                assert not popped.deadline or popped.deadline > now
                ended.append(popped)
        elif step == "expire":
            outbox.expire(now)
            ended += [result.outgoing for result in outbox.news()]
        elif step == "withdraw" and pushed:
            pushed[first % len(pushed)].withdrawn = True
        elif step == "wait":
            now += first
        assert outbox.size >= 0
        assert outbox.blocked or (len(outbox) <= 3 and outbox.size <= 8)
    ended += [result.outgoing for result in outbox.lose(None)]
    assert outbox.size == 0
    ids = [id(outgoing) for outgoing in ended]
    assert len(ids) == len(set(ids))
    assert {id(outgoing) for outgoing in pushed if not outgoing.withdrawn} <= set(ids)
