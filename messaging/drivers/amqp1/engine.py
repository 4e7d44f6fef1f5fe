"""proton's protocol engine for one connection: bytes in, bytes out, and events between.

The only place that calls the C library, through its cffi module and not through the package `proton`: that one wraps
each C object in a Python object whose destructor touches the C reference counts on whatever thread drops it, and those
counts are not atomic. Here nothing has a destructor; `free` gives back everything at once, and after it no pointer of
this engine may be used. Whoever keeps one (links.py) drops it first.

No sockets, no clocks, no messages here. Pointers to sessions, links and deliveries are used as opaque keys above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cproton import ffi, lib

from messaging.drivers.amqp1.types import read_value

__all__ = ["PIECE", "Condition", "Engine", "Pointer"]

Pointer = Any
"""An object of the C library: a session, a link or a delivery. Hashable, and equal to itself."""

_CHUNK = 65536
PIECE = 16384
"""Bytes of a large message that are handed to the library, or come from it, at a time."""
_MAX_FRAME = 65536
_FOREVER = 2**32 - 1
_STATE_DURABLE = 2


class Condition(NamedTuple):
    """Why a peer ended something."""

    name: str
    description: str

    def __str__(self) -> str:
        return f"{self.description} ({self.name})" if self.description else self.name or "no reason given"


class Engine:
    """One connection. Not thread-safe: it belongs to the owner of the connection."""

    def __init__(
        self,
        *,
        container: str,
        hostname: str | None,
        idle_timeout: float,
    ) -> None:
        self._connection = lib.pn_connection()
        self._transport = lib.pn_transport()
        self._collector = lib.pn_collector()
        self._freed = False
        self.has_ended = False
        """Everything was said, the close or an error too; `take_output` finds it out."""
        self._out = ffi.new("char[]", _CHUNK)
        self._output = memoryview(ffi.buffer(self._out))
        self._pieces = bytearray()
        """Output that was taken while a large message was handed over."""
        self._scratch = ffi.new("char[]", _CHUNK)
        self._scratch_size = _CHUNK
        self._first: Pointer = None
        self._links_on: dict[Pointer, int] = {}
        """How many links each session has; the connection counts as a link of the first one."""
        self._leaving = 0
        """Sessions that were ended and have their channels until it is written."""
        self._unanswered: set[Pointer] = set()
        """Sessions without links whose Begin the peer has not answered; see `end`."""
        self._tags = 0
        self._tag_space = ffi.new("char[8]")
        self._tag_bytes = memoryview(ffi.buffer(self._tag_space))
        tag = ffi.new("pn_bytes_t*")
        tag.size = 8
        tag.start = self._tag_space
        self._keep = tag
        self._tag = tag[0]
        lib.pn_connection_collect(self._connection, self._collector)
        lib.pn_connection_set_container(self._connection, container.encode())
        if hostname:
            lib.pn_connection_set_hostname(self._connection, hostname.encode())
        lib.pn_transport_set_max_frame(self._transport, _MAX_FRAME)
        # proton asks the peer for half of it, and itself gives up after the whole.
        lib.pn_transport_set_idle_timeout(self._transport, int(idle_timeout * 1000))
        lib.pn_transport_bind(self._transport, self._connection)
        lib.pn_connection_open(self._connection)

    # Bytes

    def push(self, data: bytes) -> bool:
        """Take bytes that have come. False: the peer broke the protocol, or has said all."""
        size = len(data)
        transport = self._transport
        done = 0
        while done < size:
            room = lib.pn_transport_capacity(transport)
            if room <= 0:
                return False
            # More than it has room for is an overflow. The first piece is taken as it is: most often it is all.
            piece = data if not done and size <= room else data[done : done + room]
            taken = lib.pn_transport_push(transport, piece, len(piece))
            if taken <= 0:
                return False
            done += taken
        return True

    def take_output(self) -> bytes | memoryview | None:
        """Take bytes that have to be written, as a view that is good until the next call; None: none."""
        if self._pieces:
            pieces, self._pieces = self._pieces, bytearray()
            return bytes(pieces)
        size = lib.pn_transport_pending(self._transport)
        if size <= 0:
            self.has_ended = size < 0
            self._leaving = 0
            return None
        size = min(size, _CHUNK)
        lib.pn_transport_peek(self._transport, self._out, size)
        lib.pn_transport_pop(self._transport, size)
        return self._output[:size]

    def end_of_input(self) -> None:
        """Note that the peer will send nothing more."""
        lib.pn_transport_close_tail(self._transport)

    def tick(self, now: float) -> float:
        """Keep the idle timeouts; return when to call it next, in the seconds of `now`, or 0 for never."""
        return float(lib.pn_transport_tick(self._transport, int(now * 1000))) / 1000

    # Events

    def dispatch(self, handlers: Mapping[int, Callable[[Pointer], object]]) -> None:
        """Hand all events to their handlers, by type, with the object that each is about; what one read has brought,
        and the messages that are under way, bound their number.

        Types are the PN_ constants of the library; see `DELIVERY` and its neighbours. A handler may not `free`.
        """
        collector = self._collector
        peek, kind_of, context = lib.pn_collector_peek, lib.pn_event_type, lib.pn_event_context
        pop = lib.pn_collector_pop
        while event := peek(collector):
            handler = handlers.get(kind_of(event))
            if handler is not None:
                handler(context(event))
            pop(collector)

    DELIVERY = lib.PN_DELIVERY
    LINK_FLOW = lib.PN_LINK_FLOW
    LINK_REMOTE_OPEN = lib.PN_LINK_REMOTE_OPEN
    LINK_REMOTE_CLOSE = lib.PN_LINK_REMOTE_CLOSE
    LINK_REMOTE_DETACH = lib.PN_LINK_REMOTE_DETACH
    SESSION_REMOTE_OPEN = lib.PN_SESSION_REMOTE_OPEN
    SESSION_REMOTE_CLOSE = lib.PN_SESSION_REMOTE_CLOSE
    CONNECTION_REMOTE_OPEN = lib.PN_CONNECTION_REMOTE_OPEN
    CONNECTION_REMOTE_CLOSE = lib.PN_CONNECTION_REMOTE_CLOSE
    TRANSPORT_ERROR = lib.PN_TRANSPORT_ERROR

    # The connection

    def remote_properties(self) -> dict[str, Any]:
        """What the peer tells of itself: product, version, ..."""
        found = _read_data(lib.pn_connection_remote_properties(self._connection))
        return found if isinstance(found, dict) else {}

    def connection_condition(self) -> Condition | None:
        """Why the peer closed the connection."""
        return _condition(lib.pn_connection_remote_condition(self._connection))

    def transport_condition(self) -> Condition | None:
        """What went wrong below: a broken frame, an idle timeout."""
        return _condition(lib.pn_transport_condition(self._transport))

    def close(self) -> None:
        """Say that the connection ends."""
        lib.pn_connection_close(self._connection)

    def free(self) -> None:
        """Give everything back. Idempotent."""
        if self._freed:
            return
        self._freed = True
        lib.pn_connection_collect(self._connection, ffi.NULL)
        lib.pn_transport_unbind(self._transport)
        lib.pn_decref(self._transport)
        lib.pn_collector_free(self._collector)
        lib.pn_connection_release(self._connection)
        lib.pn_decref(self._connection)

    # Sessions and links

    def begin(self) -> Pointer:
        """Begin the first session, which stays as long as the connection."""
        self._first = self._session()
        self._links_on[self._first] = 1
        return self._first

    def _session(self) -> Pointer:
        session = lib.pn_session(self._connection)
        lib.pn_session_open(session)
        return session

    def _session_for_link(self) -> Pointer:
        """A session of its own while the peer allows one more (Broker-J: 256), then the one with the fewest links: when
        it has no channel for a session, proton writes nothing any more, and tells nobody.
        """
        allowed = lib.pn_transport_get_channel_max(self._transport) + 1
        if len(self._links_on) + self._leaving + len(self._unanswered) < allowed:
            session = self._session()
        else:
            # The first one last: with it goes the connection.
            others = [each for each in self._links_on if each != self._first and not self._is_ended(each)]
            session = min(others, key=self._links_on.__getitem__, default=self._first)
        self._links_on[session] = self._links_on.get(session, 0) + 1
        return session

    def _is_ended(self, session: Pointer) -> bool:
        return bool(lib.pn_session_state(session) & lib.PN_REMOTE_CLOSED)

    def sender(
        self, name: str, address: str | None, outcomes: tuple[str, ...], capabilities: tuple[str, ...], *, settled: bool
    ) -> Pointer:
        """Attach a sender; `address` None: each message says where it goes. `outcomes`: what it can take as answers;
        `capabilities`: what its address has to be; `settled`: it wants no answers.
        """
        link = lib.pn_sender(self._session_for_link(), name.encode())
        target = lib.pn_link_target(link)
        lib.pn_terminus_set_type(target, lib.PN_TARGET)
        if address is not None:
            lib.pn_terminus_set_address(target, address.encode())
        if capabilities:
            _put_symbols(lib.pn_terminus_capabilities(target), capabilities)
        source = lib.pn_link_source(link)
        lib.pn_terminus_set_type(source, lib.PN_SOURCE)
        lib.pn_terminus_set_address(source, name.encode())
        if outcomes:
            _put_symbols(lib.pn_terminus_outcomes(source), outcomes)
        lib.pn_link_set_snd_settle_mode(link, lib.PN_SND_SETTLED if settled else lib.PN_SND_UNSETTLED)
        lib.pn_link_open(link)
        return link

    def receiver(
        self,
        name: str,
        address: str | None,
        capabilities: tuple[str, ...],
        *,
        durable: bool,
        settled: bool,
    ) -> Pointer:
        """Attach a receiver; `address` None: the peer makes one. `durable`: a subscription that outlives its link."""
        link = lib.pn_receiver(self._session_for_link(), name.encode())
        source = lib.pn_link_source(link)
        lib.pn_terminus_set_type(source, lib.PN_SOURCE)
        if address is None:
            lib.pn_terminus_set_dynamic(source, True)
        else:
            lib.pn_terminus_set_address(source, address.encode())
        if durable:
            lib.pn_terminus_set_durability(source, _STATE_DURABLE)
            lib.pn_terminus_set_expiry_policy(source, lib.PN_EXPIRE_NEVER)
            lib.pn_terminus_set_timeout(source, _FOREVER)
        if capabilities:
            _put_symbols(lib.pn_terminus_capabilities(source), capabilities)
        target = lib.pn_link_target(link)
        lib.pn_terminus_set_type(target, lib.PN_TARGET)
        lib.pn_terminus_set_address(target, name.encode())
        # Asked for "unsettled", some routers never settle; "mixed" lets the sender of each message decide.
        lib.pn_link_set_snd_settle_mode(link, lib.PN_SND_SETTLED if settled else lib.PN_SND_MIXED)
        lib.pn_link_open(link)
        return link

    def link_is_attached(self, link: Pointer) -> bool:
        """Whether an attach of the peer stands: one that it refuses has neither source nor target."""
        side = lib.pn_link_remote_target if lib.pn_link_is_sender(link) else lib.pn_link_remote_source
        return bool(lib.pn_terminus_get_type(side(link)) != lib.PN_UNSPECIFIED)

    def remote_address(self, link: Pointer) -> str:
        """The address of a receiver's source, as the peer has it."""
        address = lib.pn_terminus_get_address(lib.pn_link_remote_source(link))
        return ffi.string(address).decode() if address else ""

    def end_condition(self, link: Pointer) -> Condition | None:
        """Why the peer ended a link or its session."""
        return _condition(lib.pn_link_remote_condition(link)) or _condition(
            lib.pn_session_remote_condition(lib.pn_link_session(link))
        )

    def session_of(self, link: Pointer) -> Pointer:
        """The session of a link."""
        return lib.pn_link_session(link)

    def end(self, link: Pointer, *, detach: bool) -> None:
        """Close a link, and its session with the last link, and free them; `detach` leaves a durable subscription to
        itself.
        """
        (lib.pn_link_detach if detach else lib.pn_link_close)(link)
        session = lib.pn_link_session(link)
        lib.pn_link_free(link)
        self._links_on[session] -= 1
        if self._links_on[session]:
            return
        del self._links_on[session]
        if lib.pn_session_state(session) & lib.PN_REMOTE_UNINIT:
            # proton forgets the channel with the session, and takes the answer to its Begin for a broken protocol then.
            self._unanswered.add(session)
        else:
            self._end_session(session)

    def begun(self, session: Pointer) -> None:
        """The peer has answered a Begin: end the session if nobody wants it any more."""
        if session in self._unanswered:
            self._unanswered.discard(session)
            self._end_session(session)

    def _end_session(self, session: Pointer) -> None:
        self._leaving += 1
        lib.pn_session_close(session)
        lib.pn_session_free(session)

    # Messages; the hot path

    credit = staticmethod(lib.pn_link_credit)
    flow = staticmethod(lib.pn_link_flow)
    link_of = staticmethod(lib.pn_delivery_link)
    is_partial = staticmethod(lib.pn_delivery_partial)
    is_readable = staticmethod(lib.pn_delivery_readable)
    is_settled = staticmethod(lib.pn_delivery_settled)
    remote_state = staticmethod(lib.pn_delivery_remote_state)
    settle = staticmethod(lib.pn_delivery_settle)

    def send(self, link: Pointer, message: bytes, settled: bool) -> Pointer:
        """Send a message on a link that has credit; `settled`: nobody will say what became of it."""
        self._tags += 1
        # Letters, because some peers take a tag for text.
        self._tag_bytes[:] = b"%08x" % (self._tags & 0xFFFFFFFF)
        delivery = lib.pn_delivery(link, self._tag)
        if len(message) <= PIECE:
            lib.pn_link_send(link, message, len(message))
        else:
            self._send_in_pieces(link, message)
        lib.pn_link_advance(link)
        if settled:
            lib.pn_delivery_settle(delivery)
        return delivery

    def _send_in_pieces(self, link: Pointer, message: bytes) -> None:
        # A delivery that is settled goes into a pool with its buffer as large as it has grown, and is used again: with
        # a thousand messages under way, large ones among them would in time leave a thousand large buffers behind.
        # The last piece stays with the library, which then ends the message with it: RabbitMQ does not understand an
        # end that carries nothing.
        for start in range(0, len(message), PIECE):
            if start:
                pieces = self._pieces
                self._pieces = bytearray()
                while (output := self.take_output()) is not None:
                    pieces += output
                self._pieces = pieces
            piece = message[start : start + PIECE]
            lib.pn_link_send(link, piece, len(piece))

    def receive_part(self, link: Pointer, delivery: Pointer) -> bytes:
        """Take what has come of a delivery that is not whole, for the same reason; b"": nothing more."""
        size = min(lib.pn_delivery_pending(delivery), _CHUNK)
        if not size:
            return b""
        read = lib.pn_link_recv(link, self._scratch, size)
        return bytes(ffi.buffer(self._scratch, read)) if read > 0 else b""

    def receive(self, link: Pointer, delivery: Pointer) -> bytes | None:
        """Read the rest of a delivery that is whole, and go on to the next; None: its sender has aborted it."""
        size = lib.pn_delivery_pending(delivery)
        if size > self._scratch_size:
            self._scratch = ffi.new("char[]", size)
            self._scratch_size = size
        read = lib.pn_link_recv(link, self._scratch, size)
        message = bytes(ffi.buffer(self._scratch, read)) if read >= 0 else (b"" if read == lib.PN_EOS else None)
        if size > _CHUNK:
            # One large message must not keep its memory for ever.
            self._scratch = ffi.new("char[]", _CHUNK)
            self._scratch_size = _CHUNK
        lib.pn_link_advance(link)
        return message

    def dispose(self, delivery: Pointer, state: int) -> None:
        """Settle a delivery with an outcome: `ACCEPTED`, `REJECTED` or `RELEASED`."""
        lib.pn_delivery_update(delivery, state)
        lib.pn_delivery_settle(delivery)

    def dispose_modified(self, delivery: Pointer, *, failed: bool, elsewhere: bool) -> None:
        """Settle a delivery as modified: it `failed` here, or shall go `elsewhere`."""
        local = lib.pn_delivery_local(delivery)
        lib.pn_disposition_set_failed(local, failed)
        lib.pn_disposition_set_undeliverable(local, elsewhere)
        self.dispose(delivery, lib.PN_MODIFIED)

    def rejection(self, delivery: Pointer) -> Condition | None:
        """Why the peer rejected a delivery."""
        return _condition(lib.pn_disposition_condition(lib.pn_delivery_remote(delivery)))

    def modification(self, delivery: Pointer) -> tuple[bool, bool]:
        """What the peer says of a modified delivery: (it failed there, it cannot go there)."""
        remote = lib.pn_delivery_remote(delivery)
        return bool(lib.pn_disposition_is_failed(remote)), bool(lib.pn_disposition_is_undeliverable(remote))

    ACCEPTED = lib.PN_ACCEPTED
    REJECTED = lib.PN_REJECTED
    RELEASED = lib.PN_RELEASED
    MODIFIED = lib.PN_MODIFIED


def _condition(found: Pointer) -> Condition | None:
    if not found or not lib.pn_condition_is_set(found):
        return None
    name, description = lib.pn_condition_get_name(found), lib.pn_condition_get_description(found)
    return Condition(
        ffi.string(name).decode("utf-8", "replace") if name else "",
        ffi.string(description).decode("utf-8", "replace") if description else "",
    )


def _read_data(data: Pointer) -> Any:
    """The first value of a `pn_data_t`, by way of its bytes."""
    size = lib.pn_data_encoded_size(data)
    if size <= 0:
        return None
    space = ffi.new("char[]", size)
    written = lib.pn_data_encode(data, space, size)
    return read_value(bytes(ffi.buffer(space, written)), 0)[0] if written > 0 else None


def _put_symbols(data: Pointer, symbols: tuple[str, ...]) -> None:
    """Write an array: peers take a list of symbols for a broken frame, and close the connection."""
    lib.pn_data_put_array(data, False, lib.PN_SYMBOL)
    lib.pn_data_enter(data)
    for symbol in symbols:
        text = ffi.from_buffer(symbol.encode("ascii"))
        lib.pn_data_put_symbol(data, (len(text), text))
    lib.pn_data_exit(data)
