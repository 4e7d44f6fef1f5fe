"""Reading the dead letters of a pool, sending them again, and throwing them away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from messaging import ConfigError, InvalidTarget, StateError, Target, Transport, Unsupported, notify
from messaging.drivers.base import Role
from messaging.errors import NotStarted
from messaging.message import Outgoing, Route
from messaging.target import DEFAULT_EXCHANGE
from tests.notify.rig import TARGETS, TOPIC, Everything, count, until

QUIET = 0.1
"""Seconds without another letter that end reading."""


def _reject(event: notify.Event[Any]) -> None:
    raise notify.Reject(f"no {event.payload}")


def _bury(transport: Transport, payloads: list[int], pool: str = "p", key: str | None = "k") -> None:
    buried = count(transport, "listener.dead_lettered")
    with notify.Listener(transport, TARGETS, [Everything(_reject)], pool=pool):
        for payload in payloads:
            notify.Notifier(transport, "me").info({"a": 1}, "x", payload, key=key, headers={"h": 1})
        until(lambda: count(transport, "listener.dead_lettered") == buried + len(payloads))


def test_letters_stay_until_they_are_dealt_with(stored: Transport) -> None:
    """Reading alone changes nothing; what is discarded is gone."""
    _bury(stored, [1, 2, 3])
    with notify.DeadLetters(stored, TARGETS[0], "p") as letters:
        assert letters.count(QUIET) == 3
        for letter in letters.read(QUIET):
            assert letter.event is not None
            if letter.event.payload == 2:
                letters.discard(letter)
                with pytest.raises(StateError, match="not in hand"):
                    letters.discard(letter)
    with notify.DeadLetters(stored, TARGETS[0], "p") as letters:
        found = [letter.event.payload for letter in letters.read(QUIET) if letter.event is not None]
        assert sorted(found) == [1, 3]
        assert letters.discard_all(QUIET) == 2
    with notify.DeadLetters(stored, TARGETS[0], "p") as letters:
        assert letters.count(QUIET) == 0


@pytest.mark.parametrize("key", [None, "k"])
def test_a_replay_reaches_its_own_pool_alone(stored: Transport, key: str | None) -> None:
    """What is sent again comes to the pool that refused it, as it was; other pools have had theirs."""
    other = Everything()
    with notify.Listener(stored, TARGETS, [other], pool="other"):
        _bury(stored, [1, 2], key=key)
        assert len(other.seen.wait(2)) == 2
        again = Everything()
        with notify.Listener(stored, TARGETS, [again], pool="p"):
            with notify.DeadLetters(stored, TARGETS[0], "p") as letters:
                assert letters.replay_all(QUIET) == 2
            events = again.seen.wait(2)
            until(lambda: count(stored, "listener.ignored") == 2)
        assert len(other.seen.all) == 2
    assert [(event.payload, event.attempt, event.context, event.headers["h"]) for event in events] == [
        (1, 1, {"a": 1}, 1),
        (2, 1, {"a": 1}, 1),
    ]
    assert {event.message_id for event in events} == {event.message_id for event in other.seen.all}
    first = {event.message_id: event for event in other.seen.all}
    assert [msgspec.structs.asdict(event) for event in events] == [
        msgspec.structs.asdict(first[event.message_id]) for event in events
    ]


def test_what_is_rejected_again_is_sent_again_once(stored: Transport) -> None:
    """Sending all again ends, though the handler refuses each of them at once; they are dead letters as before."""
    _bury(stored, [1, 2])
    with notify.Listener(stored, TARGETS, [Everything(_reject)], pool="p"):
        with notify.DeadLetters(stored, TARGETS[0], "p") as letters:
            assert letters.replay_all(1.0) == 2
            until(lambda: count(stored, "listener.dead_lettered") == 4)
            assert letters.count(QUIET) == 2


def test_the_limit_bounds_what_is_in_hand(stored: Transport) -> None:
    """At most `limit` letters are taken at a time; dealing with one makes room for the next."""
    _bury(stored, [1, 2, 3])
    with notify.DeadLetters(stored, TARGETS[0], "p", limit=2) as letters:
        assert letters.count(QUIET) == 2
        assert letters.discard_all(QUIET) == 3


def test_bytes_can_be_dead_letters_too(stored: Transport) -> None:
    """What could not be decoded has no event, but a reason."""
    with notify.Listener(stored, TARGETS, [Everything()]):
        reactor = stored.operations(Role.NOTIFIER).reactor
        reactor.publish(Outgoing(Route.pools(DEFAULT_EXCHANGE, TOPIC), b"junk", {}))
        until(lambda: count(stored, "listener.dead_lettered") == 1)
    with notify.DeadLetters(stored, TARGETS[0]) as letters:
        (letter,) = letters
        assert letter.event is None
        assert "not a message of this library" in letter.reason
        letters.discard(letter)


def test_what_cannot_be_is_refused(stored: Transport, direct: Transport) -> None:
    """A transport without dead letters, a target without topic, and reading what is not open."""
    with pytest.raises(Unsupported, match="dead_letter="):
        notify.DeadLetters(direct, TARGETS[0])
    with pytest.raises(InvalidTarget):
        notify.DeadLetters(stored, Target())
    with pytest.raises(ConfigError, match="limit"):
        notify.DeadLetters(stored, TARGETS[0], limit=0)
    with pytest.raises(NotStarted, match="with block"):
        notify.DeadLetters(stored, TARGETS[0]).count()
