"""Messages that drivers remember until their senders have ended."""

from __future__ import annotations

from messaging.drivers.unended import Unended
from messaging.message import Outgoing, Route, Token

_ROUTE = Route.any("", "t")


def _message(size: int = 1) -> Outgoing:
    return Outgoing(_ROUTE, bytes(size), {}, Token())


def test_who_has_ended_is_not_seen() -> None:
    """What was added is there in its order, but for what was discarded, and what has ended."""
    messages = [_message() for _ in range(4)]
    unended = Unended()
    for message in messages:
        unended.add(message)
    unended.discard(messages[1])
    unended.discard(messages[1])
    messages[2].token = None
    assert list(unended) == [messages[0], messages[3]]
    assert [message in unended for message in messages] == [True, False, False, True]
    unended.clear()
    assert list(unended) == []


def test_what_has_ended_is_let_go_of() -> None:
    """However many are added and end, about as many are kept as have not ended; large ones sooner."""
    for size, number, most in ((1, 10_000, 300), (100_000, 1_000, 120)):
        unended = Unended()
        lasting = [_message(size) for _ in range(100)]
        for message in lasting:
            unended.add(message)
        for _ in range(number):
            message = _message(size)
            unended.add(message)
            message.token = None
            assert len(unended._kept) <= 100 + most
        assert list(unended) == lasting
