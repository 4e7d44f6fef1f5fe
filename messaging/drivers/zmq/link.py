"""One conversation with another process, from either end: what is to be written, what is not settled yet, how it
becomes bytes.

The end that connected (`Peer`) and the end that was connected to (`Caller`) differ in how a message is sent and in
what their end means; what stands here is the same for both and is the hot path: between 1 and 1.5 us per message for
queueing, encoding and noting what awaits settlement.

A message that the socket does not take stays in the queue as it was: nothing has been noted, its budget is stamped
anew by the next attempt, and until then it may expire or be withdrawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from messaging.drivers.zmq.frames import INLINE, REPLIES, WANTS_REPLY, Message, encode
from messaging.drivers.zmq.news import News
from messaging.errors import DeadlineExceeded, Delivered, EncodeError, TooLarge
from messaging.message import CORRELATION_ID, MESSAGE_ID, Delivery, Outgoing, Stage

_WRITTEN = Stage.WRITTEN

__all__ = ["ENVELOPE", "Copy", "Group", "Item", "Link", "is_withdrawn", "outgoing_of", "unmark"]

_BATCH_BYTES = 256 * 1024
"""How many bytes of small bodies share one ZeroMQ message: more would only make the other end wait for the first of
them."""
_BATCH_RECORDS = 1000
_BATCH_BODIES = 8
ENVELOPE = 1024 * 1024
"""The largest first frame, in bytes: sockets take this much beyond the largest body."""
_DRIFT = 0.0005
"""By how much two clocks may differ in their rates: more than a kernel lets them."""
_BACKLOG = 10_000
"""How many settlements may wait for a process that does not read before it is given up."""


class Copy:
    """One of several copies of a message: for one server of a fanout, or for one pool of a notification."""

    __slots__ = ("ended", "group", "name", "outgoing", "written")

    def __init__(self, outgoing: Outgoing, group: Group, name: str) -> None:
        self.outgoing = outgoing
        self.group = group
        self.name = name
        self.written = False
        """Whether somebody may have it."""
        self.ended = False
        """Whether its group has been told without it: then nobody may get it any more."""


class Group:
    """What the copies of one message have come to; subclasses say when that is an answer."""

    __slots__ = ("until",)

    until: float
    """When the message is answered with what is known then; infinity: never."""

    def copy_ended(self, copy: Copy, error: Exception | None) -> None:
        """Note that one copy was taken (None), or has failed for good."""
        raise TypeError("a group says what the end of a copy means")

    def given(self) -> bool:
        """Whether somebody has, or may have, one of the copies."""
        raise TypeError("a group says what has become of its copies")


Item = Outgoing | Copy
"""What waits for settlement."""


def outgoing_of(item: Item) -> Outgoing:
    """The message behind an item."""
    return item.outgoing if isinstance(item, Copy) else item


def is_withdrawn(item: Item) -> bool:
    """Whether nobody wants it to be sent any more."""
    return item.ended or item.outgoing.withdrawn if isinstance(item, Copy) else item.withdrawn


def unmark(item: Item) -> None:
    """Nobody has it any more; of a message with copies somebody may have another one."""
    if isinstance(item, Copy):
        item.written = False
        if not item.group.given():
            item.outgoing.stage = None
    else:
        item.stage = None


class Link:
    """State of a conversation; subclasses know how to send."""

    __slots__ = (
        "accepted",
        "active_at",
        "address",
        "awaited",
        "dirty",
        "identity",
        "limit",
        "queue",
        "refused",
        "sequence",
        "settling",
        "transit",
        "transit_at",
        "unsettled",
    )

    def __init__(self, address: str, now: float) -> None:
        self.address = address
        """What the layers above call the other end: `taker` and `reply_to`."""
        self.identity = ""
        """Who the other end says it is."""
        self.limit = 0
        """The largest body that it takes, in bytes; 0: not known."""
        self.queue: list[tuple[Outgoing, int, Item]] = []
        """(message, subscription of the other end, what to note as unsettled)."""
        self.unsettled: dict[int, Item] = {}
        """What the other end has not settled, by sequence number, oldest first."""
        self.awaited: dict[object, float] = {}
        """Deadlines of the calls that were written and not answered, by message id: while there are any, the
        connection is in use though nothing may be unsettled.
        """
        self.sequence = 0
        self.accepted: list[int] = []
        self.refused: list[tuple[int, int, str]] = []
        self.settling: list[Delivery] = []
        """Deliveries whose settlement stands in `accepted` and `refused`."""
        self.dirty = False
        """Whether it stands in the connection's list of links to flush."""
        self.active_at = now
        self.transit = math.inf
        """The other end's clock to ours and the shortest way between them, in seconds."""
        self.transit_at = now

    def waited(self, sent: float, now: float) -> float:
        """How many seconds a batch lay somewhere before it was read: in a process that stood still, in its buffers.

        `sent` and `now` are of two clocks, whose distance nobody knows. But the batch that was the fastest so far has
        hardly waited, and by as much as another one is later than that, it has.
        """
        transit = now - sent
        shortest = self.transit + _DRIFT * (now - self.transit_at)
        if transit < shortest:
            shortest = transit
        self.transit = shortest
        self.transit_at = now
        return transit - shortest

    @property
    def load(self) -> int:
        """How many messages it has not settled, counting those about to be written."""
        return len(self.unsettled) + len(self.queue)

    def send_frames(self, frame: bytes, bodies: list[bytes]) -> bool:
        """Send one ZeroMQ message; False when the socket takes none now. Raises zmq.ZMQError when it never will."""
        raise TypeError("a link says how it sends")

    def overrun(self) -> bool:
        """Whether the other end has let too many settlements pile up."""
        return len(self.accepted) + len(self.refused) > _BACKLOG

    def flush(self, now: float, address: str, news: News, failed: list[tuple[Item, Exception]]) -> bool:
        """Write everything that is queued; `address` is this connection's own. What can never be written goes to
        `failed`.

        Returns False when the socket took no more; the rest stays queued then. Raises zmq.ZMQError when it never will.
        """
        self.active_at = now
        most = _BATCH_RECORDS
        while self.queue or self.accepted or self.refused:
            messages: list[Message] = []
            bodies: list[bytes] = []
            position = self._collect(messages, bodies, most, now, address, failed)
            frame, unfit = self._frame(messages, len(bodies), now)
            if unfit is not None and messages:
                self._take_back(messages, position)
                if len(messages) == 1:
                    failed.append((self.queue.pop(0)[2], unfit))
                # One message at a time from here on, so that the one that does not fit harms no other.
                most = 1
                continue
            sent = False
            try:
                sent = not (messages or self.accepted or self.refused) or self.send_frames(frame, bodies)
            finally:
                if not sent:
                    self._take_back(messages, position)
            if not sent:
                return False
            if position == len(self.queue):
                self.queue.clear()
            else:
                del self.queue[:position]
            if self.settling:
                news.settled += self.settling
                news.pending = True
                self.settling, self.accepted = [], []
            if self.refused:
                self.refused = []
        return True

    def _frame(self, messages: list[Message], bodies: int, now: float) -> tuple[bytes, Exception | None]:
        """Encode the first frame; with an error when what stands in it, that is the headers, cannot be sent."""
        try:
            frame = _encode_batch(messages, self.accepted, self.refused, bodies, now)
        except Exception as error:  # whatever somebody's header values raise
            return b"", _not_encoded("headers", error)
        return frame, _headers_too_large(len(frame)) if len(frame) > ENVELOPE else None

    def _collect(
        self,
        messages: list[Message],
        bodies: list[bytes],
        most: int,
        now: float,
        address: str,
        failed: list[tuple[Item, Exception]],
    ) -> int:
        """Make records of the first messages of the queue and note what awaits settlement; return how many it was."""
        sequence = self.sequence
        unsettled = self.unsettled
        awaited = self.awaited
        peer = self.address
        limit = self.limit
        inline = limit if 0 < limit < INLINE else INLINE
        size = position = 0
        for outgoing, subscription, item in self.queue[:most]:
            position += 1
            deadline = outgoing.deadline
            # The stage first, then the look at `withdrawn`: its sender does it the other way round.
            outgoing.stage = _WRITTEN
            if outgoing.withdrawn or (deadline <= now and deadline) or (item is not outgoing and is_withdrawn(item)):
                unmark(item)
                if not is_withdrawn(item):
                    failed.append((item, _expired()))
                continue
            reply_to = outgoing.reply_to
            remaining = deadline - now if outgoing.budget and deadline else None
            body: Any = outgoing.body
            if outgoing.encode is not None:
                try:
                    body = outgoing.encode(address if reply_to else "", remaining)
                except Exception as error:  # whatever the wire format's own code raises
                    unmark(item)
                    failed.append((item, _not_encoded("body", error)))
                    continue
            length = len(body)
            if length > inline:
                if limit and length > limit:
                    unmark(item)
                    failed.append((item, _too_large(length, limit)))
                    continue
                bodies.append(body)
                body = len(bodies)
                if body == _BATCH_BODIES:
                    size = _BATCH_BYTES  # as many as share one message
            else:
                size += length
            headers = outgoing.headers
            flags = 0
            if reply_to:
                flags = WANTS_REPLY
                awaited[headers.get(MESSAGE_ID)] = deadline
            # Nobody waits for the settlement of most answers.
            if subscription != REPLIES or outgoing.confirm:
                sequence += 1
                unsettled[sequence] = item
                outgoing.taker = peer
                messages.append((sequence, subscription, flags, remaining, headers, body))
            else:
                messages.append((0, subscription, flags, remaining, headers, body))
            if item is not outgoing:
                item.written = True  # type: ignore[union-attr]
            if size >= _BATCH_BYTES:
                break
        self.sequence = sequence
        return position

    def _take_back(self, messages: list[Message], position: int) -> None:
        """Undo what was noted for messages that were not written after all, and leave only those in front of the
        queue.
        """
        for message in messages:
            if message[0]:
                self.unsettled.pop(message[0], None)
        tried = self.queue[:position]
        del self.queue[:position]
        kept = []
        for outgoing, subscription, item in tried:
            # What was passed over (expired, withdrawn, too large) is not marked.
            marked = item.written if isinstance(item, Copy) else item.stage is _WRITTEN
            if marked and not is_withdrawn(item):
                unmark(item)
                kept.append((outgoing, subscription, item))
        self.queue[:0] = kept

    def answered(self, messages: Sequence[Message]) -> None:
        """Messages have come, answers among them perhaps."""
        forget = self.awaited.pop
        for message in messages:
            try:
                forget(message[4].get(CORRELATION_ID), None)
            except TypeError:
                # Not hashable, so the id of no call.
                continue

    def forget_expired(self, now: float) -> None:
        """No more answers are awaited for calls whose deadline has passed."""
        if self.awaited:
            self.awaited = {id: deadline for id, deadline in self.awaited.items() if deadline > now}

    def unfinished(self) -> bool:
        """Whether something is to be written, or somebody waits for the settlement of a message that has no other
        answer.
        """
        if self.queue or self.accepted or self.refused:
            return True
        return any(outgoing_of(item).confirm for item in self.unsettled.values())

    def take_queue(self) -> list[tuple[Outgoing, int, Item]]:
        """Take back what was not written, for another link."""
        queue, self.queue = self.queue, []
        return queue


def _encode_batch(
    messages: list[Message], accepted: list[int], refused: list[tuple[int, int, str]], bodies: int, now: float
) -> bytes:
    for message in messages:
        if message[3] is not None:
            return encode((0, messages, accepted, refused, bodies, now))
    if refused or bodies:
        return encode((0, messages, accepted, refused, bodies))
    return encode((0, messages, accepted)) if accepted else encode((0, messages))


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed before the message could be written", phase="send", delivered=Delivered.NO
    )


def _not_encoded(what: str, error: Exception) -> EncodeError:
    told = EncodeError(f"the {what} of a message cannot be encoded: {error}")
    told.__cause__ = error
    return told


def _too_large(length: int, limit: int) -> TooLarge:
    return TooLarge(
        f"a body of {length} bytes is more than the {limit} that the peer takes; raise max_message on both sides"
    )


def _headers_too_large(length: int) -> TooLarge:
    return TooLarge(
        f"the headers of a message and what goes with them are {length} bytes, more than {ENVELOPE}; shorten them"
    )
