"""What is worth a line in the log while a connection comes and goes."""

from __future__ import annotations

import logging

import pytest

from messaging.drivers.base import State
from messaging.errors import AuthFailed, ConnectFailed
from messaging.state_log import StateLog

_log = logging.getLogger("test.state_log")


class Told:
    """A log over a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self._log = StateLog(_log, "there", lambda: self.now)

    def fails(self, error: Exception, *, final: bool = False) -> None:
        """One try that does not succeed."""
        self._log.note(State.CONNECTING, None, False)
        self._log.note(State.LOST, error, final)

    def succeeds(self) -> None:
        """One that does."""
        self._log.note(State.CONNECTING, None, False)
        self._log.note(State.READY, None, False)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was told as loudly as that, since the last look."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return found


def test_an_outage_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning at once, with the reason; then every minute, however often it is tried; the next one at once."""
    told = Told()
    refused = ConnectFailed("refused")
    with caplog.at_level(logging.DEBUG, logger="test.state_log"):
        for _ in range(180):
            told.fails(refused)
            told.now += 1.0
        assert len(caplog.records) == 359
        assert warnings(caplog) == ["there is lost: refused"] * 3
        told.succeeds()
        told.fails(refused)
        assert warnings(caplog) == ["there is lost: refused"]


def test_tries_of_an_outage_are_not_loud(caplog: pytest.LogCaptureFixture) -> None:
    """At INFO there are its beginning and its end, and nothing of the tries between."""
    told = Told()
    with caplog.at_level(logging.INFO, logger="test.state_log"):
        for _ in range(10):
            told.fails(ConnectFailed("refused"))
        told.succeeds()
    assert [record.getMessage() for record in caplog.records] == [
        "there is lost: refused",
        "there is ready",
    ]


def test_an_end_is_always_told(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal after which nothing is tried any more, however soon it comes after another failure."""
    told = Told()
    told.fails(ConnectFailed("refused"))
    warnings(caplog)
    told.fails(AuthFailed("who are you?"), final=True)
    assert warnings(caplog) == ["there is lost: who are you?"]
