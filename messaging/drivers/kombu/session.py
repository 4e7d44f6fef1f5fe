"""What a connection asks of one life at a server, whatever transport of kombu's is behind it.

Every method may block for a round trip, and raises one of the session's `broken` when the connection is gone; after
that the session is dropped. A session knows no outbox, no windows and no events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from messaging.drivers.kombu.messages import Written
from messaging.drivers.kombu.names import Place
from messaging.drivers.kombu.settings import VirtualSettings
from messaging.errors import MessagingError
from messaging.message import Route
from messaging.url import Host

__all__ = ["Connect", "Parcel", "Raw", "Reader", "Session"]


class Parcel(NamedTuple):
    """A message that is to be written."""

    route: Route
    message: Written
    store: float


class Raw(NamedTuple):
    """A message as it was read: kombu's dictionary, or the JSON of one, and the tag by which it is settled."""

    payload: dict[str, Any] | bytes
    tag: Any


class Reader(Protocol):
    """Reads one place, for as long as its session lives."""

    lossy: int
    """How many messages had to be dropped."""

    @property
    def descriptor(self) -> int | None:
        """Readable when there may be something to read; None: nothing tells of that."""

    @property
    def due(self) -> float:
        """When it is to be read though its descriptor says nothing, on the connection's clock; infinity: never."""

    @property
    def overdue(self) -> float:
        """Since when the server should have said something; infinity: it owes nothing."""

    def arm(self, room: int, now: float) -> None:
        """Have the server wait for messages if there is room for any."""

    def read(self, room: int, now: float) -> list[Raw]:
        """Take what there is, at most as many as there is room for."""

    def close(self) -> None:
        """Read no more; what was taken stays to be settled."""


class Session(Protocol):
    """One life of a connection."""

    broken: tuple[type[Exception], ...]
    """What is raised when it is over."""

    def publish(self, parcels: Sequence[Parcel], now: float) -> list[MessagingError | None]:
        """Write messages, and say what became of each."""

    def bury(self, queue: str, message: Written) -> None:
        """Write a dead letter."""

    def reader(self, place: Place, bound_to: tuple[str, str] | None) -> Reader:
        """Begin to read a place; `bound_to`: exchange and topic of a pool, which gets messages from then on."""

    def body_of(self, payload: dict[str, Any]) -> bytes:
        """The body of a message, out of what JSON could hold."""

    def accept(self, tags: Sequence[Any]) -> list[bool]:
        """Forget messages that are done with; False: somebody else has it by now, because it was held for too long."""

    def give_back(self, tags: Sequence[Any]) -> None:
        """Put messages back."""

    def look_after(self, tags: Iterable[Any], queues: Iterable[str]) -> int:
        """Keep what is in hand, and the queues of this process; returns how many were taken back from others."""

    def drop(self) -> None:
        """Close every socket, without a word to the server."""


Connect = Callable[[VirtualSettings, Host, tuple[str, str] | None], Session]
"""(settings, host, login) -> a session; blocks. Raises AuthFailed and ConnectFailed."""
