"""Messages on their way out: in order, with their deadlines, to the news of what became of them.

Two lanes, each a channel with a queue of its own, opened at the first message. What asks to be confirmed goes where
the broker confirms everything; calls and answers, which ask for nothing because a reply proves more, go where it
confirms nothing (confirms cost such traffic a third of its throughput). A message whose address needs something that is
not declared yet waits beside its lane, so that it holds up nobody else.

Copies of deliveries (later, or to the dead letters) are messages of the driver itself: they go on the confirmed lane
and tell the one who asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from messaging.drivers.outbox import Outbox, in_doubt, unwritten
from messaging.drivers.rabbit.channels import Channels
from messaging.drivers.rabbit.declarations import Declarations
from messaging.drivers.rabbit.lane import DriverCopy, Item, Lane, finished
from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.refusals import NOT_FOUND, about_publishing, no_route, publish_refused, refused_size
from messaging.drivers.rabbit.topology import Address, Topology
from messaging.drivers.stream import Stream
from messaging.drivers.unended import Unended
from messaging.errors import ConnectionLost, EncodeError, MessagingError, Rejected, TooLarge
from messaging.message import Outgoing, SentResult, Stage

__all__ = ["Publisher"]

_HIGH = 256 * 1024
"""Bytes that wait for the system to take them; beyond it messages stay where they can still be withdrawn."""


class Publisher:
    """Both lanes of one connection, over all its lives. `news` is taken by the connection at the end of a pump."""

    def __init__(
        self,
        channels: Channels,
        declarations: Declarations,
        topology: Topology,
        stream: Stream,
        *,
        max_body: int,
        clock: Callable[[], float],
        direct_replies: bool,
    ) -> None:
        self._channels = channels
        self._declarations = declarations
        self._topology = topology
        self._stream = stream
        self._max_body = max_body
        self._clock = clock
        self._confirmed = Lane(self, channels, True)
        self._plain = Lane(self, channels, False)
        self._asking = self._plain
        """What asks for answers: with direct replies it has to go where they are received."""
        self._lanes: tuple[Lane, ...] = (self._confirmed, self._plain)
        if direct_replies:
            self._asking = Lane(self, channels, False)
            self._asking.lodges = True
            self._lanes = (*self._lanes, self._asking)
        self._parked: dict[tuple[str, str, bool], Outbox] = {}
        self._count = 0
        self._repeated = Unended()
        """Messages that came back from an address whose queue they create, and are on their way again."""
        self._leaving: deque[tuple[int, Outgoing]] = deque()
        """Messages whose first byte the system may not have taken yet, by the place of that byte."""
        self.news: list[SentResult] = []
        self.waiting = False
        """Whether anything waits to be written."""
        self.reply_address = ""
        self.returned = 0

    def tell(self, result: SentResult) -> None:
        """Note news of a message."""
        self.news.append(result)

    # What comes in

    def publish(self, outgoing: Outgoing, at_once: bool) -> None:
        """Take a message; its news follow. `at_once`: it may be written now, if nothing waits before it."""
        if len(outgoing.body) > self._max_body:
            self.tell(SentResult(outgoing, None, self._too_large(len(outgoing.body))))
            return
        if outgoing.reply_to and self._asking.lodges:
            lane = self._asking
        else:
            lane = self._confirmed if outgoing.confirm else self._plain
        if at_once and not self.waiting and lane.free and len(self._stream.unwritten) < _HIGH:
            now = self._clock()
            if not outgoing.deadline or now < outgoing.deadline:
                self._write(lane, outgoing, now)
                return
        lane.outbox.push(outgoing)
        self.waiting = True

    def answers_come_to(self, channel: int | None) -> None:
        """With direct replies: the channel on which they are received, or None when it is gone."""
        lane = self._asking
        if not lane.lodges:
            return
        lane.lodge(channel)
        self.waiting = self.waiting or bool(lane)
        if channel is None:
            cause = ConnectionLost("the channel on which answers come was closed")
            self._tell_unanswerable(lane.unconfirmed.lose(), cause)

    def direct_returned(self, text: str, properties: Properties) -> None:
        """A message came back on the channel where the lane lodges."""
        self._asking.on_returned(text, properties)

    def copy(self, copy: DriverCopy) -> None:
        """Take a message of the driver's own."""
        self._confirmed.copies.append(copy)
        self.waiting = True

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"the message has {size} bytes, and {self._max_body} are allowed (option max_body)")

    # What is so

    @property
    def blocked(self) -> bool:
        """Whether so much waits that no more should be taken."""
        return any(lane.outbox.blocked for lane in self._lanes)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written or confirmed."""
        return not (self._parked or any(lane or (lane.confirms and len(lane.confirms)) for lane in self._lanes))

    @property
    def next_expiry(self) -> float:
        """When `expire` is to be called next."""
        earliest = min([lane.outbox.next_expiry for lane in self._lanes])
        for outbox in self._parked.values():
            earliest = min(earliest, outbox.next_expiry)
        return earliest

    def expire(self, now: float) -> None:
        """Tell of what has not been written by its deadline."""
        for outbox in (*(lane.outbox for lane in self._lanes), *self._parked.values()):
            if outbox.next_expiry <= now:
                outbox.expire(now)
                self.news += outbox.news()

    # What goes out

    def write(self) -> None:
        """Write what may go, as far as there is room."""
        waiting = bool(self._parked)
        for lane in self._lanes:
            if lane:
                if lane.open:
                    self._write_lane(lane)
                elif lane.channel is None:
                    lane.begin()
                waiting = waiting or bool(lane)
        self.waiting = waiting

    def _write_lane(self, lane: Lane) -> None:
        stream = self._stream
        now = self._clock()
        while lane.copies and len(stream.unwritten) < _HIGH:
            self._write_copy(lane, lane.copies.popleft(), now)
        outbox = lane.outbox
        while outbox and lane.free and len(stream.unwritten) < _HIGH:
            outgoing = outbox.pop(now)
            if outgoing is None:
                break
            self._write(lane, outgoing, now)
        self.news += outbox.news()

    def _write(self, lane: Lane, outgoing: Outgoing, now: float) -> None:
        topology = self._topology
        try:
            address = topology.mailbox(outgoing) if outgoing.store > 0.0 else topology.address(outgoing)
        except MessagingError as error:
            self.tell(SentResult(outgoing, None, error))
            return
        if address.needs and not self._declarations.stands(address, now):
            self._park(lane, outgoing, address, now)
            return
        channel = lane.channel
        if channel is None:
            lane.outbox.unpop(outgoing)
            return
        expires = address.expires
        remaining: float | None = None
        if outgoing.budget and outgoing.deadline:
            remaining = outgoing.deadline - now
            if expires is None or remaining < expires:
                expires = remaining
        # The stage first, then the look at `withdrawn`: its sender does it the other way round.
        outgoing.stage = Stage.WRITTEN
        if outgoing.withdrawn:
            return
        self._count = count = self._count + 1
        start = self._stream.given
        reply_to = self.reply_address if outgoing.reply_to else ""
        try:
            body = outgoing.body
            if outgoing.encode is not None:
                body = outgoing.encode(reply_to, remaining)
                if len(body) > self._max_body:
                    raise self._too_large(len(body))
            properties = topology.stamp(outgoing, f"{count:x}", reply_to, expires, address.persistent)
            self._channels.traffic.publish(channel, address.exchange, address.key, address.mandatory, properties, body)
        except MessagingError as error:
            outgoing.stage = None
            self.tell(SentResult(outgoing, None, error))
        except Exception as error:
            # The sender's own `encode`, or a header that cannot be written.
            outgoing.stage = None
            refusal = EncodeError(f"the message cannot be encoded: {error}")
            refusal.__cause__ = error
            self.tell(SentResult(outgoing, None, refusal))
        else:
            self._leaving.append((start, outgoing))
            message_id = properties.message_id or ""
            if lane.confirms is not None:
                lane.confirms.written(outgoing, message_id)
            else:
                if address.mandatory:
                    lane.unconfirmed.written(outgoing, message_id)
                if outgoing.confirm:
                    # Nobody confirms it here: that it was written is all that will be told.
                    self.tell(SentResult(outgoing, Stage.WRITTEN))

    def _write_copy(self, lane: Lane, copy: DriverCopy, now: float) -> None:
        address = copy.address
        if not self._declarations.stands(address, now):

            def declared(error: Exception | None) -> None:
                if error is None:
                    lane.copies.append(copy)
                    self.waiting = True
                else:
                    copy.done(error)

            self._declarations.ensure(address, now, declared)
            return
        if lane.channel is None or lane.confirms is None:
            lane.copies.appendleft(copy)
            return
        self._count += 1
        properties = copy.properties
        if not properties.message_id:
            properties.message_id = f"{self._count:x}"
        self._channels.traffic.publish(lane.channel, address.exchange, address.key, True, properties, copy.body)
        lane.confirms.written(copy, properties.message_id)

    def _park(self, lane: Lane, outgoing: Outgoing, address: Address, now: float) -> None:
        key = (address.exchange, address.key, lane.confirms is not None)
        parked = self._parked.get(key)
        if parked is not None:
            parked.push(outgoing)
            return
        parked = self._parked[key] = Outbox()
        parked.push(outgoing)

        def declared(error: Exception | None) -> None:
            waiting = self._parked.pop(key, None)
            if waiting is None:
                return
            instant = self._clock()
            while (free := waiting.pop(instant)) is not None:
                if error is not None:
                    self.tell(SentResult(free, None, _for_one(error)))
                elif lane.open:
                    self._write(lane, free, instant)
                else:
                    lane.outbox.push(free)
                    self.waiting = True
            self.news += waiting.news()

        self._declarations.ensure(address, now, declared)

    def flushed(self) -> None:
        """The system has taken bytes."""
        leaving = self._leaving
        taken = self._stream.taken
        while leaving and leaving[0][0] < taken:
            leaving.popleft()

    # What comes back

    def came_back(self, outgoing: Outgoing, text: str) -> None:
        """A confirmed message that no queue took."""
        self.returned += 1
        if outgoing.store > 0.0 and outgoing not in self._repeated:
            # Its mailbox was deleted since we declared it; it was not taken, so it may be sent again.
            self._repeated.add(outgoing)
            self._declarations.forget(self._topology.mailbox(outgoing))
            outgoing.stage = None
            self._confirmed.outbox.push(outgoing)
            self.waiting = True
            return
        self._repeated.discard(outgoing)
        self.tell(SentResult(outgoing, Stage.WRITTEN, no_route(outgoing.route, text)))

    def copy_ended(self, copy: DriverCopy, taken: bool, returned: str | None) -> None:
        """The last word on a copy."""
        if returned is not None and copy.again:
            self._declarations.forget(copy.address)
            self.copy(copy._replace(again=False))
        elif returned is not None or not taken:
            reason = returned or "its queue is full"
            copy.done(Rejected(f"the broker did not take the copy of a message for {copy.address.key!r}: {reason}"))
        else:
            copy.done(None)

    def lane_closed(self, lane: Lane, code: int, text: str) -> None:
        """The broker has closed a lane. Whatever was declared may be gone.

        Mostly one message is to blame. Its size tells which; and a broker works in order, so what was written before it
        has arrived, and what was written after it was ignored and is written again. Else it is one of those that nobody
        has accepted yet. Where it is none, calls go on as those of a lost connection whose answers survive.
        """
        self._declarations.forget_all()
        lost: list[Item] = lane.confirms.lose() if lane.confirms is not None else [*lane.unconfirmed.lose()]
        self._stop_watching(lost)
        cause = ConnectionLost(f"the broker has closed the channel: {code} {text}")
        size = refused_size(code, text)
        at = next((place for place, item in enumerate(lost) if len(item.body) == size), None)
        if at is not None:
            self._in_doubt(lost[:at], cause)
            self._refused(lane, lost[at], code, text)
            self._write_again(lane, lost[at + 1 :])
            return
        waiting = [item for item in lost if isinstance(item, DriverCopy) or item.confirm or _unaccepted(item)]
        if len(waiting) == 1 and about_publishing(code, text):
            self._refused(lane, waiting[0], code, text)
        else:
            self._in_doubt(waiting, cause, calls=about_publishing(code, text))

    def _write_again(self, lane: Lane, items: list[Item]) -> None:
        """Put back in front what was written and certainly ignored."""
        for item in reversed(items):
            if isinstance(item, DriverCopy):
                lane.copies.appendleft(item)
            else:
                item.stage = None
                lane.outbox.unpop(item)
        self.waiting = True

    def _refused(self, lane: Lane, outgoing: Item, code: int, text: str) -> None:
        """This message has closed its channel, so it was not taken."""
        if isinstance(outgoing, DriverCopy):
            outgoing.done(publish_refused(code, text))
            return
        again = code == NOT_FOUND and outgoing not in self._repeated and self._topology.address(outgoing).needs
        if not again:
            self.tell(SentResult(outgoing, Stage.WRITTEN, publish_refused(code, text)))
            return
        # What it needs has gone since we declared it: that is done again, once.
        self._repeated.add(outgoing)
        outgoing.stage = None
        lane.outbox.push(outgoing)
        self.waiting = True

    def _tell_unanswerable(self, outgoings: Iterable[Outgoing], cause: Exception) -> None:
        """Tell of messages whose answers cannot come any more."""
        lost = list(outgoings)
        self._stop_watching(lost)
        for outgoing in lost:
            if outgoing.reply_to and outgoing.stage is not None and not finished(outgoing):
                self.tell(in_doubt(outgoing, cause))

    def _stop_watching(self, items: Iterable[Item]) -> None:
        """Their last word is spoken: whether their bytes have left makes no difference any more."""
        spoken = {id(item) for item in items}
        if self._leaving:
            self._leaving = deque(entry for entry in self._leaving if id(entry[1]) not in spoken)

    def _in_doubt(self, items: Iterable[Item], cause: Exception, calls: bool = False) -> None:
        """Tell of what was written and is not confirmed; with `calls`, of what asks for no confirmation too."""
        for item in items:
            if isinstance(item, DriverCopy):
                item.done(ConnectionLost(f"the connection went before a copy was confirmed: {cause}"))
            elif (item.confirm or calls) and item.stage is not None:
                self.tell(in_doubt(item, cause))

    def lose(self, cause: Exception, answers_survive: bool) -> None:
        """The connection is gone. What was not written is NO; what was and is not confirmed is in doubt.

        What asks for no confirmation is told only where its answer cannot come any more. To be called while the stream
        still knows how much the system had taken.
        """
        self.flushed()
        stayed: list[SentResult] = []
        for _, outgoing in self._leaving:
            # It was made ready, but not a byte of it has left.
            outgoing.stage = None
            if not outgoing.withdrawn:
                stayed.append(unwritten(outgoing, cause))
        self._leaving.clear()
        self.news += stayed
        for lane in self._lanes:
            lane.channel = None
            lane.open = False
            if lane.confirms is not None:
                self._in_doubt(lane.confirms.lose(), cause)
            unconfirmed = lane.unconfirmed.lose()
            if not answers_survive:
                self._tell_unanswerable(unconfirmed, cause)
            copies, lane.copies = lane.copies, deque()
            self._in_doubt(copies, cause)
            self.news += lane.outbox.lose(cause)
        parked, self._parked = self._parked, {}
        for outbox in parked.values():
            self.news += outbox.lose(cause)
        self._repeated.clear()
        self.waiting = False


def _unaccepted(outgoing: Outgoing) -> bool:
    """Whether somebody waits for news of a message, and nobody is known to have it."""
    return outgoing.stage is Stage.WRITTEN and not finished(outgoing)


def _for_one(error: Exception) -> Exception:
    """An error of its own for each message: an error object belongs to one raiser."""
    if isinstance(error, MessagingError):
        own = type(error)(str(error), delivered=error.delivered, retryable=error.retryable)
        own.__cause__ = error
        return own
    return error
