"""Messages on their way out: which link, when there is credit, and what the peer says of each.

A message waits in the outbox of its link until the link has credit. Once it is handed to the engine it is WRITTEN, and
the peer's outcome, found again by the pointer of its delivery, ends it. At the loss of a connection the pointers are
dropped before the engine frees what they point to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from messaging.backoff import Backoff
from messaging.deadline import Clock
from messaging.drivers.amqp1.addresses import Addresses, Destination
from messaging.drivers.amqp1.encoding import encode_message, make_prefix
from messaging.drivers.amqp1.engine import Engine, Pointer
from messaging.drivers.amqp1.looks import Looks
from messaging.drivers.amqp1.news import News
from messaging.drivers.amqp1.options import Amqp1Settings
from messaging.drivers.amqp1.outcomes import Answer, judged, refused
from messaging.drivers.amqp1.profiles import Profile
from messaging.drivers.amqp1.routes import Plan, SendLink
from messaging.drivers.amqp1.types import encode_string
from messaging.drivers.outbox import Outbox, expired, in_doubt, unwritten
from messaging.drivers.unended import Unended
from messaging.errors import ConnectionLost, EncodeError, MessagingError, NoRoute, TooLarge, TransportError
from messaging.message import Outgoing, Route, RouteKind, SentResult, Stage, Token

__all__ = ["Copy", "Sending"]

_NULL = b"\x40"
_PATIENT = 0.1
"""Seconds that messages wait for the credit of a link for all addresses before they take a detour."""
_MOST_LINKS = 1_000
"""Links on a connection, each with a session, beyond which there are no more detours."""
_MOST_PLANS = 10_000
"""Addresses that are remembered encoded; a server that answers a million callers must not keep them all."""
_PRESETTLED = {
    "replies": (RouteKind.REPLY,),
    "requests": (RouteKind.REPLY, RouteKind.ANY, RouteKind.ONE, RouteKind.ALL),
}
_ANSWERS = {
    Engine.ACCEPTED: Answer.ACCEPTED,
    Engine.REJECTED: Answer.REJECTED,
    Engine.RELEASED: Answer.RELEASED,
    Engine.MODIFIED: Answer.MODIFIED,
}
_EVERYWHERE = Destination("")
_ROUTE = Route(RouteKind.REPLY)


class Copy(Token):
    """The token of a copy that the driver itself sends: of what shall come again later, or of a dead letter."""

    __slots__ = ("destination", "done")

    def __init__(self, destination: Destination, done: Callable[[Exception | None], None]) -> None:
        self.destination = destination
        self.done = done


class Life(NamedTuple):
    """What belongs to one life of the connection."""

    engine: Engine
    profile: Profile
    addresses: Addresses
    peer: str


class Sending:
    """All that one connection sends. It belongs to the connection's owner."""

    def __init__(
        self, news: News, clock: Clock, random: Callable[[], float], settings: Amqp1Settings, name: str
    ) -> None:
        self._news = news
        self._clock = clock
        self._random = random
        self._max_body = settings.max_body
        self._durable = settings.durable
        self._presettled = _PRESETTLED[settings.presettled]
        self._name = name
        self._life: Life | None = None
        self._cause: Exception | None = None
        self._plans: dict[Route, Plan] = {}
        self._links: dict[tuple[str | None, bool], SendLink] = {}
        self._by_link: dict[Pointer, SendLink] = {}
        self.under_way: dict[Pointer, tuple[Outgoing, str]] = {}
        """What was sent and not answered, by its delivery, with its address."""
        self._looks: Looks | None = None
        self._asked = Unended()
        """Calls that were written: when the connection goes, or the address for answers, theirs cannot come any more,
        also where the peer had taken them.
        """
        self._attached = 0
        self._reply_to = _NULL
        self._reply_address = ""
        self.blocked = False
        self.due = math.inf
        """When `run` is to be called next; too early after what was waiting has gone."""

    # Lives

    def begin(self, life: Life) -> None:
        """There is a connection: attach what serves all addresses."""
        self._life = life
        self.due = math.inf
        self._plans.clear()
        self._links.clear()
        proof = life.profile.proof
        self._looks = Looks(life.engine, proof, self._name) if proof is not None else None
        if life.profile.anonymous:
            self._link(_EVERYWHERE, False)
            self._link(_EVERYWHERE, True)

    def lose(self, cause: Exception) -> None:
        """The connection is gone, and every pointer with it."""
        self._life = None
        self._cause = cause
        self.replies_come_to("")
        self._by_link.clear()
        self._plans.clear()
        links, self._links = self._links, {}
        under_way, self.under_way = self.under_way, {}
        self.blocked = False
        for outgoing, _ in under_way.values():
            self._tell(in_doubt(outgoing, cause))
        looks, self._looks = self._looks, None
        for outgoing in looks.everything() if looks is not None else ():
            self._tell(in_doubt(outgoing, cause))
        self.answers_are_lost(cause, {id(outgoing) for outgoing, _ in under_way.values()})
        for link in links.values():
            for result in link.outbox.lose(cause):
                self._tell(result)

    def replies_come_to(self, address: str) -> None:
        """Answers reach this connection there from now on."""
        self._reply_address = address
        self._reply_to = encode_string(address) if address else _NULL

    def answers_are_lost(self, cause: Exception, told: Collection[int] = ()) -> None:
        """Nothing reaches the address for answers any more: say so to those who wait for one, but for those that were
        `told`, by their id().
        """
        asked, self._asked = self._asked, Unended()
        for waiting in asked:
            if id(waiting) not in told:
                self._tell(in_doubt(waiting, cause))

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing is unanswered."""
        held = self._looks is not None and self._looks.everything()
        return not self.under_way and not held and not any(link.outbox for link in self._links.values())

    @property
    def awaits_an_answer(self) -> bool:
        """Whether one call alone is under way, whose sender wants its answer and not what the peer says of it."""
        if len(self.under_way) != 1 or self._life is None or self._life.profile.routed:
            return False
        ((outgoing, _),) = self.under_way.values()
        return outgoing.reply_to and not outgoing.confirm

    # Messages

    def publish(self, outgoing: Outgoing) -> None:
        """Send a message, now or when its link has credit."""
        plan = self._plans.get(outgoing.route)
        if plan is None or type(outgoing.token) is Copy:
            if self._life is None:
                self._tell(unwritten(outgoing, self._cause))
                return
            try:
                plan = self._plan(self._life, outgoing)
            except MessagingError as error:
                self._tell(SentResult(outgoing, None, error))
                return
        self._send(plan, outgoing)

    def _send(self, plan: Plan, outgoing: Outgoing) -> None:
        link = plan.link
        if link.credit > 0 and not link.outbox:
            self._write(plan, outgoing)
        else:
            link.outbox.push(outgoing)
            if link.outbox.blocked:
                self.blocked = True
            if link.detour_at == math.inf:
                self._stalled(link)
            self.due = min(self.due, link.outbox.next_expiry, link.detour_at)

    def _plan(self, life: Life, outgoing: Outgoing, *, alone: bool = False) -> Plan:
        route = outgoing.route
        token = outgoing.token
        copy = type(token) is Copy
        destination = token.destination if type(token) is Copy else life.addresses.destination(route)
        address, annotations, _ = destination
        settled = not copy and route.kind in self._presettled
        if route.kind is RouteKind.REPLY and not life.profile.settles_answers:
            settled = False
        link = self._link(_EVERYWHERE if life.profile.anonymous and not alone else destination, settled)
        plan = Plan(
            link,
            make_prefix(address if life.profile.anonymous else None, annotations),
            address,
            route.kind,
            copy or route.kind is RouteKind.POOLS,
        )
        if not copy:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[route] = plan
        return plan

    def _write(self, plan: Plan, outgoing: Outgoing) -> None:
        # The stage first, then the look at `withdrawn`: its sender does it the other way round.
        outgoing.stage = Stage.WRITTEN
        if outgoing.withdrawn:
            return
        remaining = None
        if outgoing.deadline:
            remaining = outgoing.deadline - self._clock()
            if remaining <= 0.0:
                outgoing.stage = None
                self._tell(expired(outgoing))
                return
        body = outgoing.body
        budget = remaining if outgoing.budget else None
        # A reply, too, is worth nothing later: peers store it when its caller is gone.
        ttl = outgoing.store or (remaining if plan.kind is RouteKind.REPLY else budget) or None
        try:
            if outgoing.encode is not None:
                body = outgoing.encode(self._reply_address if outgoing.reply_to else "", budget)
            if len(body) > self._max_body:
                raise TooLarge(f"the message has {len(body)} bytes, {self._max_body} are allowed (option max_body)")
            message = encode_message(
                plan.prefix,
                body,
                outgoing.headers,
                self._reply_to if outgoing.reply_to else _NULL,
                self._durable and (plan.durable or outgoing.store > 0.0),
                ttl,
            )
        except MessagingError as error:
            outgoing.stage = None
            self._tell(SentResult(outgoing, None, error))
            return
        except Exception as error:
            # The sender's own `encode` may raise anything.
            outgoing.stage = None
            refusal = EncodeError(f"the message cannot be encoded: {error}")
            refusal.__cause__ = error
            self._tell(SentResult(outgoing, None, refusal))
            return
        life = self._life
        if life is None:
            raise TypeError("a link has credit and no connection")
        link = plan.link
        settled = link.settled
        delivery = life.engine.send(link.link, message, settled)
        link.credit -= 1
        if outgoing.reply_to:
            self._asked.add(outgoing)
        if not settled:
            self.under_way[delivery] = (outgoing, plan.address)
        elif outgoing.confirm:
            self._tell(SentResult(outgoing, Stage.WRITTEN))

    def answered(self, delivery: Pointer) -> None:
        """The peer has said something of a message; `delivery` is in `under_way`."""
        life = self._life
        if life is None:
            return
        engine = life.engine
        state = engine.remote_state(delivery)
        answer = _ANSWERS.get(state)
        if answer is None:
            if not engine.is_settled(delivery):
                return
            answer = Answer.NONE
        outgoing, address = self.under_way.pop(delivery)
        if answer is Answer.ACCEPTED:
            engine.settle(delivery)
            if self._looks is not None:
                self._looks.hold(address, outgoing)
            else:
                self._taken(life, outgoing)
            return
        condition = engine.rejection(delivery) if answer is Answer.REJECTED else None
        failed, undeliverable = engine.modification(delivery) if answer is Answer.MODIFIED else (False, False)
        engine.settle(delivery)
        error = judged(
            answer,
            address,
            life.peer,
            condition=condition,
            failed=failed,
            undeliverable=undeliverable,
            routed=life.profile.routed,
        )
        if isinstance(error, NoRoute) and outgoing.route.kind is RouteKind.ALL and type(outgoing.token) is not Copy:
            # To reach everybody who is there is no failure when nobody is.
            self._taken(life, outgoing)
        elif error is not None:
            self._tell(SentResult(outgoing, Stage.WRITTEN, error))

    def _taken(self, life: Life, outgoing: Outgoing) -> None:
        if outgoing.confirm or life.profile.routed:
            outgoing.stage = Stage.TAKEN
            self._tell(SentResult(outgoing, Stage.TAKEN))

    def _tell(self, result: SentResult) -> None:
        token = result.outgoing.token
        if type(token) is Copy:
            token.done(result.error)
        else:
            self._news.sent(result)

    # Links

    def _link(self, destination: Destination, settled: bool) -> SendLink:
        address = destination.address or None
        found = self._links.get((address, settled))
        if found is None:
            found = SendLink(address, destination.capabilities, settled, Backoff(source=self._random))
            self._links[address, settled] = found
            self._attach(found)
        return found

    def _stalled(self, link: SendLink) -> None:
        """Something waits for credit: see that it does not wait for an address that it has nothing to do with."""
        if link.address is None and link.granted and self._life is not None and self._life.profile.detours:
            link.detour_at = self._clock() + _PATIENT

    def _detour(self, life: Life, link: SendLink, now: float) -> None:
        """Some address keeps credit from the link of all: from now on those of what waits have links of their own."""
        link.detour_at = math.inf
        if len(self._links) >= _MOST_LINKS:
            return
        waiting = []
        while (outgoing := link.outbox.pop(now)) is not None:
            waiting.append(outgoing)
        link.detoured = True
        for outgoing in waiting:
            self._send(self._plan(life, outgoing, alone=True), outgoing)
        self._tell_expired(link.outbox)
        self._look_at_marks()

    def _attach(self, link: SendLink) -> None:
        life = self._life
        if life is None:
            return
        self._attached += 1
        link.retry_at = math.inf
        link.granted = False
        name = f"{self._name}/sender/{self._attached}"
        outcomes = life.profile.sender_outcomes
        link.link = life.engine.sender(name, link.address, outcomes, link.capabilities, settled=link.settled)
        self._by_link[link.link] = link

    def flowed(self, pointer: Pointer) -> None:
        """A link has got credit."""
        link = self._by_link.get(pointer)
        if link is None or self._life is None:
            return
        link.credit = self._life.engine.credit(pointer)
        if link.credit > 0:
            link.backoff.reset()
            link.granted = True
            link.detour_at = math.inf
            if link.detoured:
                link.detoured = False
                self._plans = {
                    route: plan for route, plan in self._plans.items() if plan.link.address is None or plan.link.outbox
                }
            # This is told for every message that is sent, too; most often nothing waits.
            if link.outbox:
                self._drain(link)

    def _drain(self, link: SendLink) -> None:
        now = self._clock()
        outbox = link.outbox
        while link.credit > 0:
            outgoing = outbox.pop(now)
            if outgoing is None:
                break
            plan = self._plans.get(outgoing.route)
            if plan is None or type(outgoing.token) is Copy:
                if self._life is None:
                    return
                plan = self._plan(self._life, outgoing, alone=link.address is not None)
            self._write(plan, outgoing)
        if outbox:
            # Its credit is used up.
            self._stalled(link)
            self.due = min(self.due, link.detour_at)
        self._tell_expired(outbox)
        self._look_at_marks()

    def links_of(self, session: Pointer) -> list[Pointer]:
        """Those of these links that are on a session."""
        life = self._life
        if life is None:
            return []
        looks = self._looks.links() if self._looks is not None else ()
        return [link for link in (*self._by_link, *looks) if life.engine.session_of(link) == session]

    def opened(self, pointer: Pointer) -> None:
        """The peer has answered an attach: where it was a look, its queue is there."""
        life = self._life
        if life is None or self._looks is None or not life.engine.link_is_attached(pointer):
            return
        look = self._looks.ended(pointer)
        for outgoing in look.held if look is not None else ():
            self._taken(life, outgoing)

    def ended(self, pointer: Pointer) -> None:
        """The peer has ended a link, perhaps one of these: what it had not answered is in doubt, and it is attached
        again.
        """
        life = self._life
        if life is None:
            return
        condition = life.engine.end_condition(pointer)
        link = self._by_link.get(pointer)
        if link is not None:
            self._end(life, link, refused(condition, link.address or "the sending link", life.peer))
            return
        look = self._looks.ended(pointer) if self._looks is not None else None
        if look is not None:
            cause = refused(condition, look.address, life.peer)
            for outgoing in look.held:
                self._tell(in_doubt(outgoing, cause))
            link = self._links.get((look.address, False))
            if link is not None and link.link is not None:
                self._end(life, link, cause, again=True)

    def _end(self, life: Life, link: SendLink, cause: TransportError, *, again: bool = False) -> None:
        """`again`: attaching it may make what it needs."""
        pointer = link.link
        del self._by_link[pointer]
        for delivery in [each for each in self.under_way if life.engine.link_of(each) == pointer]:
            outgoing, _address = self.under_way.pop(delivery)
            self._tell(in_doubt(outgoing, cause))
        link.link = None
        link.credit = 0
        life.engine.end(pointer, detach=False)
        if link.address is not None and not again:
            # What waits for this address alone cannot go, and its senders are told why; the next message asks again.
            del self._links[link.address, link.settled]
            self._plans = {route: plan for route, plan in self._plans.items() if plan.link is not link}
            self._refuse(link, cause)
        else:
            link.retry_at = self._clock() + link.backoff.next()
            self.due = min(self.due, link.retry_at)

    def _refuse(self, link: SendLink, cause: TransportError) -> None:
        now = self._clock()
        while (outgoing := link.outbox.pop(now)) is not None:
            self._tell(SentResult(outgoing, None, cause))
        self._tell_expired(link.outbox)
        self._look_at_marks()

    # Time

    def run(self, now: float) -> None:
        """Do what is due: expire what waits, attach again what was ended."""
        for link in list(self._links.values()):
            if now >= link.outbox.next_expiry:
                link.outbox.expire(now)
                self._tell_expired(link.outbox)
                self._look_at_marks()
            if now >= link.retry_at:
                self._attach(link)
            if now >= link.detour_at and self._life is not None:
                self._detour(self._life, link, now)
        self.due = min(
            (min(link.outbox.next_expiry, link.retry_at, link.detour_at) for link in self._links.values()),
            default=math.inf,
        )

    def _tell_expired(self, outbox: Outbox) -> None:
        for result in outbox.news():
            self._tell(result)

    def _look_at_marks(self) -> None:
        self.blocked = any(link.outbox.blocked for link in self._links.values())

    def copy(self, body: bytes, headers: dict[str, Any], copy: Copy) -> None:
        """Send a copy; its `done` is told whether it is stored."""
        if self._life is None:
            copy.done(ConnectionLost("the connection went before the copy was made"))
            return
        self.publish(Outgoing(_ROUTE, body, headers, copy))
