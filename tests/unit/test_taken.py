"""Many messages that are taken at once: each sender hears of its own, together where they stand together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from messaging.holding import tell_taken
from messaging.message import Outgoing, Route, Stage, Token


class One(Token):
    """A sender that hears of its messages one by one."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, Stage | None]] = []

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        """Note it."""
        self.heard.append((outgoing.body, stage))


class Many(Token):
    """A sender that hears of many at once."""

    def __init__(self) -> None:
        self.heard: list[list[bytes]] = []

    def all_taken(self, outgoings: Sequence[Outgoing]) -> None:
        """Note them."""
        self.heard.append([outgoing.body for outgoing in outgoings])


def _message(token: Token | None, body: bytes) -> Outgoing:
    return Outgoing(Route.pools("x", "t"), body, {}, token)


def test_neighbours_are_told_together() -> None:
    """Those of one sender that follow each other are one piece of news; a sender without a way for many gets each."""
    many, one = Many(), One()
    tell_taken(
        [
            _message(many, b"1"),
            _message(many, b"2"),
            _message(one, b"3"),
            _message(one, b"4"),
            _message(None, b"5"),
            _message(many, b"6"),
        ]
    )
    assert many.heard == [[b"1", b"2"], [b"6"]]
    assert one.heard == [(b"3", Stage.TAKEN), (b"4", Stage.TAKEN)]


def test_a_sender_that_fails_costs_no_other_its_news(caplog: pytest.LogCaptureFixture) -> None:
    """A sender without any way to take news is logged, and the next one hears of its own."""
    many = Many()
    with caplog.at_level(logging.ERROR):
        tell_taken([_message(Token(), b"1"), _message(many, b"2")])
    assert many.heard == [[b"2"]]
    assert "the sender of a message failed on its news" in caplog.text
