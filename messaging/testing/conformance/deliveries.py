"""The driver contract, second half: what becomes of messages, seen from both ends of a pair of bare connections."""

from __future__ import annotations

import time

from messaging.drivers.base import State
from messaging.errors import Cancelled, ConnectionLost, DeadlineExceeded, Delivered, NoRoute
from messaging.message import Outgoing, Route, Source, Stage, Token
from messaging.testing.conformance.bare import Bare, together
from messaging.testing.conformance.case import Case
from messaging.testing.conformance.checks import check, equal
from messaging.testing.conformance.scenario import DRIVER, Group

__all__ = ["deliveries"]

deliveries = Group("deliveries", faces=DRIVER)


@deliveries.add("What is sent is reported, and arrives as it was sent.")
def message_arrives(case: Case) -> None:
    """Body, headers and who sent it; TAKEN where the transport confirms."""
    receiver, source = case.receiving()
    sender, route = case.sending()
    headers = {"message-id": "m-1", "x-plain": "text", "x-ünïcode": "☃", "x-number": 7}
    body = bytes(range(256)) * 40
    outgoing = sender.publish(route, body, headers=headers)
    together([sender, receiver], lambda: receiver.events.deliveries, "a delivery")
    (delivery,) = receiver.take()
    equal(delivery.source, source, "the source of the delivery")
    equal(bytes(delivery.body), body, "the body")
    equal({key: delivery.headers.get(key) for key in headers}, headers, "the headers")
    equal((delivery.attempt, delivery.redelivered, delivery.stale), (1, False, False), "attempt, redelivered, stale")
    equal((delivery.reply_to, delivery.budget), ("", None), "reply_to and budget of a message without")
    receiver.settle([delivery])
    together([sender, receiver], lambda: sender.final(outgoing), "news of the message")
    equal(sender.error(outgoing), None, "the error of the message")
    check(outgoing.stage is not None, "the message was sent and has no stage")
    if case.capabilities.confirms:
        equal(outgoing.stage, Stage.TAKEN, "the stage of a message that was confirmed")
    together([sender, receiver], lambda: receiver.events.settled, "news of the settlement")
    equal([id(settled) for settled in receiver.events.settled], [id(delivery)], "what was settled")


@deliveries.add("Answers find the one connection that asked; its address is random.", needs=("rpc",))
def reply_addresses(case: Case) -> None:
    """Two connections of one process have different addresses, and each gets its own answers."""
    receiver, _ = case.receiving()
    askers = [case.sending()[0] for _ in range(2)]
    for asker in askers:
        check(asker.subscribe(Source.reply()), "a connection that gets answers has no address")
    route = Route.any(case.exchange, case.topic)
    for number, asker in enumerate(askers):
        asker.publish(route, b"%d" % number, reply_to=True, budget=True, deadline=time.monotonic() + 5.0)
    together([*askers, receiver], lambda: len(receiver.events.deliveries) == 2, "two requests")
    requests = receiver.take()
    # Not what each calls its own address: a broker may know one name for all, and tell servers which is meant.
    addresses = [delivery.reply_to for delivery in requests]
    check(all(addresses) and addresses[0] != addresses[1], f"the reply addresses are {addresses}")
    for delivery in requests:
        check(delivery.budget is not None and 3.0 < delivery.budget <= 5.0, f"the budget of 5 s is {delivery.budget}")
        receiver.publish(Route.reply(delivery.reply_to), b"answer " + delivery.body, confirm=False)
        receiver.settle([delivery])
    together([*askers, receiver], lambda: all(asker.events.deliveries for asker in askers), "two answers")
    for number, asker in enumerate(askers):
        equal([bytes(answer.body) for answer in asker.take()], [b"answer %d" % number], f"the answers to {number}")


@deliveries.add("What has expired or was withdrawn before it is written is not sent.")
def expiry_and_withdrawal(case: Case) -> None:
    """An expired message is answered with DeadlineExceeded(NO), a withdrawn one not at all."""
    receiver, _ = case.receiving()
    sender, route = case.sending()
    late = sender.publish(route, b"late", deadline=time.monotonic() - 1.0)
    withdrawn = Outgoing(route, b"withdrawn", {}, Token(), withdrawn=True)
    sender.connection.publish(withdrawn)
    last = sender.publish(route, b"last", deadline=time.monotonic() + 10.0)
    together([sender, receiver], lambda: receiver.events.deliveries, "the message that has not expired")
    receiver.settle(receiver.events.deliveries)
    together([sender, receiver], lambda: sender.final(last) and sender.final(late), "news of both messages")
    error = sender.error(late)
    check(isinstance(error, DeadlineExceeded), f"the expired message ended with {error!r}")
    equal(getattr(error, "delivered", None), Delivered.NO, "delivered of the expired message")
    equal([bytes(delivery.body) for delivery in receiver.take()], [b"last"], "what has arrived")
    errors = [result.error for result in sender.news(withdrawn) if result.error is not None]
    equal(errors, [], "errors of the withdrawn message")


@deliveries.add("What cannot be sent is answered with its error; the connection lives.")
def refused_messages(case: Case) -> None:
    """No route where that is known; an `encode` that fails; afterwards messages pass as before."""
    receiver, _ = case.receiving()
    sender, route = case.sending()

    def broken(address: str, left: float | None) -> bytes:
        raise ValueError("this body cannot be made")

    failing = sender.publish(route, encode=broken)
    together([sender, receiver], lambda: sender.final(failing), "news of a message that cannot be encoded")
    error = sender.error(failing)
    equal(getattr(error, "delivered", None), Delivered.NO, f"delivered of {error!r}")
    if case.capabilities.no_route in ("consumer", "queue"):
        lost = sender.publish(route._replace(topic=f"{case.topic}-nobody"))
        together([sender, receiver], lambda: sender.final(lost), "news of a message to nobody")
        check(isinstance(sender.error(lost), NoRoute), f"a message to nobody ended with {sender.error(lost)!r}")
    good = sender.publish(route, b"good")
    together([sender, receiver], lambda: receiver.events.deliveries, "the message that is good")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(good), "news of the message that is good")
    equal(sender.error(good), None, "the error of the message that is good")


@deliveries.add("A body of `max_body` bytes passes.", hooks=("limited",))
def largest_body(case: Case) -> None:
    """What is declared as the most is carried, headers and envelope not counted."""
    options = dict(case.subject.limited or {})
    sender, route = case.sending(**options)
    receiver, _ = case.receiving(**options)
    most = sender.capabilities.max_body
    check(65_536 <= most < 262_144, f"the hook `limited` limits bodies to {most} bytes")
    outgoing = sender.publish(route, b"y" * most, headers={"x-more": "z" * 1000})
    together([sender, receiver], lambda: receiver.events.deliveries, "the body that just fits")
    equal(len(receiver.events.deliveries[0].body), most, "the size of what has arrived")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(outgoing), "news of the message")
    equal(sender.error(outgoing), None, "the error of the body that just fits")


@deliveries.add("A subscription never has more unsettled deliveries than its window; 0 holds it.")
def window_is_kept(case: Case) -> None:
    """What is settled makes room; a larger window lets more in, a window of 0 nothing."""
    receiver, source = case.receiving(window=3)
    sender, route = case.sending()
    messages = [sender.publish(route, b"%d" % number) for number in range(12)]
    refused_beyond = case.capabilities.acceptance == "peer"

    def quiet() -> bool:
        return len(receiver.events.deliveries) >= 3

    together([sender, receiver], quiet, "a full window")
    _turns([sender, receiver], 30)
    equal(len(receiver.events.deliveries), 3, "unsettled deliveries in a window of 3")
    done = receiver.take()
    receiver.connection.subscribe(source, 0)
    receiver.settle(done)
    together([sender, receiver], lambda: len(receiver.events.settled) == 3, "three settlements")
    _turns([sender, receiver], 30)
    held = receiver.take()
    check(len(held) <= 3, f"{len(held)} deliveries into a window of 0, and one old window is allowed")
    receiver.settle(held)
    _turns([sender, receiver], 10)
    equal(len(receiver.take()), 0, "deliveries into a window of 0")
    receiver.connection.subscribe(source, 100)
    seen = [*done, *held]

    def settle_all() -> bool:
        batch = receiver.take()
        seen.extend(batch)
        receiver.settle(batch)
        refused = sum(1 for message in messages if sender.error(message) is not None)
        return len(seen) + (refused if refused_beyond else 0) >= 12

    together([sender, receiver], settle_all, "all twelve messages")
    bodies = [bytes(delivery.body) for delivery in seen]
    equal(len(set(bodies)), len(bodies), "different messages among those delivered")


def _turns(connections: list[Bare], count: int) -> None:
    """Pump several connections some more, to see what still comes."""
    for _ in range(count):
        for bare in connections:
            bare.pump(0.002)


@deliveries.add("unsubscribe is answered by Cancelled; nothing comes after that, and nothing is lost.")
def unsubscribe_is_answered(case: Case) -> None:
    """What is sent later goes elsewhere or nowhere; it can be subscribed again."""
    receiver, source = case.receiving()
    receiver.connection.unsubscribe(source)
    receiver.until(lambda: receiver.events.unsubscribed, "the answer to unsubscribe")
    ((told, error),) = receiver.events.unsubscribed
    equal(told, source, "the source that was unsubscribed")
    check(isinstance(error, Cancelled), f"unsubscribe was answered by {error!r}")
    other, _ = case.receiving(server="b")
    sender, route = case.sending()
    sender.publish(route, b"for the other")
    together([sender, receiver, other], lambda: other.events.deliveries, "the message at the other")
    equal(receiver.take(), [], "deliveries after unsubscribe")
    other.settle(other.take())
    check(receiver.subscribe(source), "the address of the source that was subscribed again is empty")


@deliveries.add("A settlement of what is settled already is ignored and counted.")
def settled_twice(case: Case) -> None:
    """The second settlement does nothing: the message neither comes again nor harms the connection."""
    receiver, _ = case.receiving()
    sender, route = case.sending()
    first = sender.publish(route, b"first")
    together([sender, receiver], lambda: receiver.events.deliveries, "a delivery")
    (delivery,) = receiver.take()
    receiver.settle([delivery])
    together([sender, receiver], lambda: sender.final(first) and receiver.events.settled, "its settlement")
    before = _stale_settlements(receiver)
    receiver.settle([delivery])
    second = sender.publish(route, b"second")
    together([sender, receiver], lambda: receiver.events.deliveries, "the next delivery")
    equal([bytes(each.body) for each in receiver.events.deliveries], [b"second"], "what came after it")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(second), "the next message is taken")
    check(_stale_settlements(receiver) > before, f"the stale settlement is not counted: {receiver.connection.counts()}")


def _stale_settlements(bare: Bare) -> int:
    return sum(count for name, count in bare.connection.counts().items() if "stale" in name or "late" in name)


@deliveries.add(
    "What was delivered before a cut is stale after it, and settling it does nothing; or its subscription survives.",
    needs=("acceptance=backend",),
    hooks=("disconnect",),
)
def stale_after_a_cut(case: Case) -> None:
    """It is marked, its settlement is ignored and counted, and where the transport redelivers it comes again, once."""
    receiver, source = case.receiving()
    sender, route = case.sending()
    # With an id, as everything that comes from above has: a driver may know by it what its backend does not tell.
    sender.publish(route, b"unsettled", headers={"message-id": "m-1"})
    together([sender, receiver], lambda: receiver.events.deliveries, "a delivery")
    (old,) = receiver.take()
    case.cut(receiver.connection)
    receiver.until(lambda: State.LOST in receiver.events.states, "LOST after the cut")
    before = _stale_settlements(receiver)
    survives = not old.stale
    receiver.settle([old])
    receiver.until(lambda: source in receiver.events.subscribed, "the subscription after the cut")
    if survives:
        # Its subscription has, and so the settlement must hold.
        check(case.capabilities.settle == "cumulative", "the delivery of a lost subscription is not marked as stale")
        receiver.until(lambda: old in receiver.events.settled, "the settlement of what has survived the cut")
    else:
        check(_stale_settlements(receiver) > before, "the settlement of a stale delivery is not counted")
    if case.capabilities.redelivers == "on_loss":
        together([sender, receiver], lambda: receiver.events.deliveries, "the delivery comes again")
        (again,) = receiver.take()
        equal(bytes(again.body), b"unsettled", "what comes again")
        check(again.redelivered, "what comes again does not say that it was redelivered")
        check(again.generation != old.generation, "what comes again is of the same generation")
        receiver.settle([again])
    marker = sender.publish(route, b"marker")
    together([sender, receiver], lambda: receiver.events.deliveries, "a message after it")
    equal([bytes(each.body) for each in receiver.events.deliveries], [b"marker"], "what comes after it")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(marker), "news of the message after it")


@deliveries.add(
    "At a cut every message is answered: unwritten with NO, untaken with MAYBE.",
    needs=("acceptance=backend",),
    hooks=("disconnect",),
)
def answers_at_a_cut(case: Case) -> None:
    """No message is forgotten, and none is sent twice silently."""
    receiver, _ = case.receiving()
    sender, route = case.sending()
    case.cut(sender.connection)
    messages = [sender.publish(route, b"%d" % number) for number in range(20)]
    together([sender, receiver], lambda: all(map(sender.final, messages)), "news of 20 messages")
    written = set()
    for number, message in enumerate(messages):
        error = sender.error(message)
        if error is None:
            written.add(b"%d" % number)
            continue
        check(isinstance(error, ConnectionLost), f"message {number} ended with {error!r}")
        known = Delivered.NO if message.stage is None else Delivered.MAYBE
        equal(getattr(error, "delivered", None), known, f"delivered of message {number} at stage {message.stage}")
    together(
        [sender, receiver],
        lambda: written <= {bytes(delivery.body) for delivery in receiver.events.deliveries},
        "everything that was taken arrives",
    )
    _turns([sender, receiver], 30)
    arrived = [bytes(delivery.body) for delivery in receiver.take()]
    equal(len(arrived), len(set(arrived)), "different messages among those that arrived")
    unwritten = {b"%d" % number for number, message in enumerate(messages) if message.stage is None}
    equal(unwritten & set(arrived), set(), "messages that arrived though they were answered with NO")


@deliveries.add(
    "Without a broker, the loss of a peer is told: what it had is in doubt, and the next message finds it again.",
    needs=("acceptance=peer", "knows_servers"),
    hooks=("disconnect",),
)
def lost_peer_is_told(case: Case) -> None:
    """At once, not at the deadline: ConnectionLost for what was written, on_peer_lost for what was taken."""
    receiver, _ = case.receiving()
    sender, route = case.sending()
    taken = sender.publish(route, b"taken")
    together([sender, receiver], lambda: receiver.events.deliveries, "a delivery")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(taken), "it is taken")
    written = sender.publish(route, b"written", deadline=time.monotonic() + 20.0)
    together([sender, receiver], lambda: receiver.events.deliveries, "another delivery, which is not settled")
    case.cut(sender.connection)
    together([sender, receiver], lambda: sender.final(written), "news of the message whose peer is lost", 3.0)
    error = sender.error(written)
    check(isinstance(error, ConnectionLost), f"it ended with {error!r}")
    equal(getattr(error, "delivered", None), Delivered.MAYBE, "delivered")
    together([sender, receiver], lambda: sender.events.lost_peers, "on_peer_lost", 3.0)
    receiver.take()
    after = sender.publish(route, b"after", deadline=time.monotonic() + 10.0)
    together([sender, receiver], lambda: receiver.events.deliveries, "a message after the cut")
    receiver.settle(receiver.take())
    together([sender, receiver], lambda: sender.final(after), "news of the message after the cut")
    equal(sender.error(after), None, "its error")
