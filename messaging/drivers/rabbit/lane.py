"""One channel for messages out: what waits to be written on it, and what was written and is not over yet.

A lane knows its own messages alone; what becomes of them it tells its publisher, who has all lanes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from messaging.drivers.outbox import Outbox
from messaging.drivers.rabbit.channels import ChannelOwner, Channels
from messaging.drivers.rabbit.confirms import Confirms, Unconfirmed
from messaging.drivers.rabbit.methods import Answer, ConfirmSelect
from messaging.drivers.rabbit.properties import Properties
from messaging.drivers.rabbit.refusals import nacked, no_route
from messaging.drivers.rabbit.topology import Address
from messaging.message import Outgoing, RouteKind, SentResult, Stage

if TYPE_CHECKING:
    from messaging.drivers.rabbit.publisher import Publisher

__all__ = ["DriverCopy", "Item", "Lane", "finished"]

_UNCONFIRMED = 1024
"""Messages that are written and not confirmed; more wait here, where they can still be withdrawn. A classic queue that
gets persistent messages faster than they are read has more work with each: 88 us of processor time with 10,000 under
way, 61 with 1,000, 50 with 256. But a busy queue that is behind confirms every 200 ms: then this is 5,000 a second.
"""


class DriverCopy(NamedTuple):
    """A message of the driver's own; `done` gets None when the broker has confirmed it."""

    address: Address
    properties: Properties
    body: bytes
    done: Callable[[Exception | None], None]
    again: bool = True
    """Whether it is published once more when it comes back: a delay queue may have expired meanwhile."""


Item = Outgoing | DriverCopy


class Lane(ChannelOwner):
    """One channel for messages out."""

    __slots__ = ("_channels", "_publisher", "channel", "confirms", "copies", "lodges", "open", "outbox", "unconfirmed")

    def __init__(self, publisher: Publisher, channels: Channels, confirmed: bool) -> None:
        self._publisher = publisher
        self._channels = channels
        self.confirms: Confirms[Item] | None = Confirms() if confirmed else None
        self.unconfirmed: Unconfirmed[Outgoing] = Unconfirmed(finished)
        self.outbox = Outbox()
        self.copies: deque[DriverCopy] = deque()
        self.channel: int | None = None
        self.open = False
        self.lodges = False
        """Whether it has no channel of its own: what asks for direct answers has to go where they are received."""

    def __bool__(self) -> bool:
        return bool(self.outbox) or bool(self.copies)

    @property
    def free(self) -> bool:
        """Whether one more message may be written."""
        return self.open and (self.confirms is None or len(self.confirms) < _UNCONFIRMED)

    def begin(self) -> None:
        """Ask for the channel."""
        if self.channel is None and self._channels.alive and not self.lodges:
            self.channel = self._channels.open(self)

    def lodge(self, channel: int | None) -> None:
        """Use the channel of another owner from now on; None: it is gone."""
        self.channel = channel
        self.open = channel is not None

    def on_channel_open(self) -> None:
        """See ChannelOwner."""
        if self.confirms is None or self.channel is None:
            self.open = True
        else:
            self._channels.request(self.channel, ConfirmSelect(), self._confirming)

    def _confirming(self, _answer: Answer) -> None:
        self.open = True

    def on_channel_closed(self, code: int, text: str) -> None:
        """See ChannelOwner: one message was refused so hard that the others on the channel suffer for it."""
        self.channel = None
        self.open = False
        self._publisher.lane_closed(self, code, text)

    def on_returned(self, text: str, properties: Properties) -> None:
        """See ChannelOwner."""
        message_id = properties.message_id or ""
        if self.confirms is not None:
            self.confirms.returned(message_id, text)
            return
        outgoing = self.unconfirmed.returned(message_id)
        if outgoing is not None:
            self._publisher.tell(SentResult(outgoing, Stage.WRITTEN, no_route(outgoing.route, text)))

    def on_confirmed(self, tag: int, multiple: bool, positive: bool) -> None:
        """See ChannelOwner."""
        if self.confirms is None:
            return
        publisher = self._publisher
        news = publisher.news
        for item, taken, returned in self.confirms.confirmed(tag, multiple, positive):
            if isinstance(item, DriverCopy):
                publisher.copy_ended(item, taken, returned)
            elif returned is not None:
                publisher.came_back(item, returned)
            elif taken:
                item.stage = Stage.TAKEN
                news.append(SentResult(item, Stage.TAKEN))
            else:
                news.append(SentResult(item, Stage.WRITTEN, nacked(item)))


def finished(outgoing: Outgoing) -> bool:
    """Whether nobody waits for news of a message that is not confirmed."""
    # Nobody tells the end of an answer, and a server writes them for ever: without this they stay, 800 bytes each.
    return outgoing.token is None or outgoing.route.kind is RouteKind.REPLY
