"""The requests that a server has in hand: accepted late ones in time, gives signs of life, hears of cancels and of
callers that are gone.

A quick call costs nothing here but two dictionary entries. A call that has no answer after 50 ms is accepted, so that
its caller knows that a server has it; from then on its caller hears once per interval that it is alive, all calls of
one caller in one message. And where such a sign comes back because nobody has that address any more, nobody waits;
but not where an address survives a reconnect, because then its owner may be about to have it again.

Who answers, and who accepts, are different threads. Whoever takes an entry out of `_fresh` does it; that is one step of
the interpreter, so exactly one of them does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from messaging.errors import MessagingError, NoRoute
from messaging.message import CORRELATION_ID, Delivery, Outcome, Outgoing, Route, Stage, Token, by_source
from messaging.reactor import Reactor
from messaging.rpc.context import CurrentRequest
from messaging.wire.base import Wire

if TYPE_CHECKING:
    from messaging.coroutines import CoroutineJob

__all__ = ["InHand", "Monitor"]

_log = logging.getLogger(__name__)

ACCEPT_AFTER = 0.05
"""Seconds without an answer after which a call is accepted on its own."""
_SIGN_LIFE = 3.0
"""Seconds for which a sign of life is worth sending."""


class InHand(msgspec.Struct, eq=False):
    """One request from its receipt to its end. A struct, as all that is made once per call: a third of the time."""

    delivery: Delivery
    id: str
    reply_to: str
    """Where its answer is awaited; empty: nowhere."""
    until: float | None
    """When nobody waits for it any more, on the connection's clock."""
    gave_up: bool = False
    """Whether its caller has said that nobody waits any more, or is gone."""
    interval: float = 1.0
    next_sign: float = 0.0
    late: bool = False
    """Settled after the handler has returned, not before."""
    request: CurrentRequest | None = None
    job: CoroutineJob | None = None


class _SignNews(Token):
    """Hears of signs of life that could not be delivered; one serves all."""

    __slots__ = ("_gone",)

    def __init__(self, gone: Callable[[str], None]) -> None:
        self._gone = gone

    def sent(self, outgoing: Outgoing, stage: Stage | None, error: Exception | None, taker: Any) -> None:
        if isinstance(error, NoRoute):
            self._gone(outgoing.route.address)


class Monitor:
    """The calls that one server has in hand. `add` and the timers run on the owner, `answered` on any thread.

    `give_up` is called, on the owner, with the ids of calls whose caller is gone.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        own_address: Callable[[], str],
        wire: Wire,
        give_up: Callable[[Sequence[str]], None],
    ) -> None:
        self._reactor = reactor
        self._give_up = give_up
        self._sign_news = _SignNews(self._caller_gone)
        self._wire = wire
        self._server = server
        self._own_address = own_address
        self._fresh: dict[str, InHand] = {}
        self._accepted: dict[str, InHand] = {}
        self._ticking = False
        self._signing = False
        self.in_hand: dict[str, InHand] = {}
        """All requests, casts included."""

    def add(self, item: InHand) -> None:
        """Take a request in hand; owner only."""
        self.in_hand[item.id] = item
        if item.reply_to:
            self._fresh[item.id] = item
            if not self._ticking:
                self._ticking = True
                self._reactor.call_later(ACCEPT_AFTER, self._accept_late)

    def answered(self, item: InHand) -> bool:
        """Take a request out of hand; True when it was not accepted yet, so that whoever answers has to settle it."""
        self.in_hand.pop(item.id, None)
        if not item.reply_to:
            return False
        fresh = self._fresh.pop(item.id, None) is not None
        if not fresh:
            self._accepted.pop(item.id, None)
        return fresh

    def cancelled(self, ids: Sequence[str]) -> list[InHand]:
        """Mark requests whose callers gave up; returns those that are in hand here."""
        found = [item for item in map(self.in_hand.get, ids) if item is not None]
        for item in found:
            item.gave_up = True
            if item.request is not None:
                item.request.gave_up = True
        return found

    def _caller_gone(self, address: str) -> None:
        """Nobody has this address now: a caller has died, or was closed."""
        if self._reactor.capabilities.stable_reply_address:
            return
        ids = [item.id for item in list(self._accepted.values()) if item.reply_to == address and not item.gave_up]
        if ids:
            _log.info("%d calls are given up, because their caller %s is gone", len(ids), address)
            self._give_up(ids)

    def _accept_late(self) -> None:
        now = self._reactor.clock()
        capabilities = self._reactor.capabilities
        peer_settles = capabilities.acceptance == "peer"
        # Who knows the servers knows which one took a request. Over a router, that it was taken is all that is told.
        announces = not (peer_settles and capabilities.knows_servers)
        late: list[Delivery] = []
        for id, item in list(self._fresh.items()):
            if now - item.delivery.received < ACCEPT_AFTER:
                # They are in the order of their receipt.
                break
            if self._fresh.pop(id, None) is None:
                continue
            item.next_sign = now + item.interval
            self._accepted[id] = item
            if id not in self.in_hand:
                self._accepted.pop(id, None)
            if peer_settles:
                late.append(item.delivery)
            if announces:
                self._announce(item)
        if late:
            for batch in by_source(late):
                self._reactor.settle(batch, Outcome.ACCEPT)
        if self._accepted and not self._signing:
            self._signing = True
            self._reactor.call_later(self._shortest(), self._give_signs)
        self._ticking = bool(self._fresh)
        if self._ticking:
            self._reactor.call_later(ACCEPT_AFTER, self._accept_late)

    def _announce(self, item: InHand) -> None:
        body = self._wire.encode_accepted(self._own_address(), self._server)
        if body is not None:
            self._send(item.reply_to, body, {CORRELATION_ID: item.id})

    def _shortest(self) -> float:
        intervals = [interval for item in list(self._accepted.values()) if (interval := self._interval(item)) > 0]
        return max(0.05, min(intervals, default=1.0))

    def _interval(self, item: InHand) -> float:
        """Before a request is read, nobody knows whether its caller wants signs of life; some wires break on them."""
        return item.interval if item.request is not None or self._wire.tells_acceptance else 0.0

    def _give_signs(self) -> None:
        now = self._reactor.clock()
        due: dict[str, list[str]] = {}
        for item in list(self._accepted.values()):
            interval = self._interval(item)
            if interval > 0 and item.next_sign <= now + 0.02 and not item.gave_up:
                item.next_sign = now + interval
                due.setdefault(item.reply_to, []).append(item.id)
        for address, ids in due.items():
            for body in self._wire.encode_alive(ids, self._server):
                self._send(address, body, {})
        self._signing = bool(self._accepted)
        if self._signing:
            self._reactor.call_later(self._shortest(), self._give_signs)

    def _send(self, address: str, body: bytes, headers: dict[str, str]) -> None:
        deadline = self._reactor.clock() + _SIGN_LIFE
        try:
            self._reactor.publish(
                Outgoing(Route.reply(address), body, dict(headers), self._sign_news, deadline=deadline, confirm=False)
            )
        except MessagingError as error:
            _log.debug("a sign of life was not sent: %s", error)
