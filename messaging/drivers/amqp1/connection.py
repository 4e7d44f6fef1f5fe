"""A connection to an AMQP 1.0 peer: the pump, the states, and the clock of a silent peer.

One socket, one engine, one session for each link while the peer allows so many: a peer ends a whole session for what
one link did wrong, and so it hits nobody else. The loop is our own; proton's reactor waits by select(), which cannot
watch descriptors from 1024 on, and handles 7,000 messages a second where this handles 30,000.

    a pump: wait, read, hand the engine's events to those whom they concern, tell what has happened, write
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence

from messaging.drivers.amqp1.dialing import Dialing, reason
from messaging.drivers.amqp1.engine import PIECE, Engine, Pointer
from messaging.drivers.amqp1.news import News
from messaging.drivers.amqp1.opening import REFUSED, Opening, refusal_of
from messaging.drivers.amqp1.options import Amqp1Settings, words
from messaging.drivers.amqp1.phases import ON_THE_WAY, Phase
from messaging.drivers.amqp1.profiles import Profile, capabilities_of
from messaging.drivers.amqp1.receiving import Receiving
from messaging.drivers.amqp1.sasl import Login, LoginFailed, NotSasl
from messaging.drivers.amqp1.sending import Life, Sending
from messaging.drivers.base import ConnectionEvents, Role, Services, State
from messaging.drivers.stream import Stream
from messaging.errors import Closed, ConfigError, ConnectFailed, ConnectionLost
from messaging.message import Delivery, Outcome, Outgoing, Source

__all__ = ["Amqp1Connection"]

_ROUNDS = 4
"""How often one pump tells what its own events have caused."""
_MOST_READS = 8
"""Reads in one pump, and what bounds it."""
_ANSWER = 40
"""Bytes that every answer has; an acceptance has 30."""
_PATIENCE = 0.005
"""Seconds for which a smaller frame may be left unread."""


class Amqp1Connection:
    """See messaging.drivers.base.Connection. `stream` is its socket, for tests."""

    def __init__(self, settings: Amqp1Settings, role: Role, events: ConnectionEvents, services: Services) -> None:
        self._settings = settings
        self._role = role
        self._clock = services.clock
        self._container = f"messaging-{secrets.token_hex(8)}"
        self._news = News(events)
        self._sending = Sending(self._news, self._clock, services.random, settings, self._container)
        self._receiving = Receiving(self._news, self._sending, self._clock, services.random, self._container)
        self.stream = Stream()
        self._dialing = Dialing(settings, services, self.stream)
        self._opening = Opening(settings)
        self._phase = Phase.NEW
        self._login: Login | None = None
        self._engine: Engine | None = None
        self._session: Pointer = None
        self._profile: Profile | None = None
        self._blocked = False
        self._restored = True
        self._due = 0.0
        """When the phase has to be looked at next."""
        self._heard = 0.0
        self._tick_at = math.inf
        self._close_by: float | None = None
        self._closing = False
        self._reconnects = 0
        self._handlers: dict[int, Callable[[Pointer], object]] = {
            Engine.DELIVERY: self._on_delivery,
            Engine.LINK_FLOW: self._sending.flowed,
            Engine.LINK_REMOTE_OPEN: self._on_link_open,
            Engine.LINK_REMOTE_CLOSE: self._on_link_end,
            Engine.LINK_REMOTE_DETACH: self._on_link_end,
            Engine.SESSION_REMOTE_OPEN: self._on_session,
            Engine.SESSION_REMOTE_CLOSE: self._on_session_end,
            Engine.CONNECTION_REMOTE_OPEN: self._on_open,
            Engine.CONNECTION_REMOTE_CLOSE: self._on_close,
            Engine.TRANSPORT_ERROR: self._on_transport_error,
        }
        self._failure: Exception | None = None
        """What an event has shown to be the end of this life; acted upon after the events."""

    # The owner's side

    def publish(self, outgoing: Outgoing) -> None:
        """See Connection."""
        self._sending.publish(outgoing)

    def subscribe(self, source: Source, window: int) -> None:
        """See Connection."""
        self._receiving.subscribe(source, window)
        self._restored = False

    def unsubscribe(self, source: Source) -> None:
        """See Connection."""
        self._receiving.unsubscribe(source)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float = 0.0, reason: str = "") -> None:
        """See Connection."""
        self._receiving.settle(deliveries, outcome, delay, reason)

    def wake(self) -> None:
        """See Connection; any thread, and signal handlers."""
        self.stream.wake()

    def fileno(self) -> int | None:
        """See Connection."""
        return self.stream.fileno() if self._phase is not Phase.CLOSED else None

    def counts(self) -> dict[str, int]:
        """See Connection."""
        return {
            "reconnects": self._reconnects,
            "stale_settlements": self._receiving.stale,
            "undecodable": self._receiving.undecodable,
        }

    def close(self, grace: float) -> None:
        """See Connection."""
        if self._close_by is None:
            self._close_by = self._clock() + grace
            self._due = 0.0

    def pump(self, timeout: float) -> float:
        """See Connection."""
        if self._phase is Phase.CLOSED:
            return math.inf
        if timeout > 0.0:
            self._flush()
            rest = self._next_due() - self._clock()
            if rest < timeout:
                timeout = max(0.0, rest)
            if self._news.pending:
                timeout = 0.0
        # Who waits for an answer need not wake up because its request was accepted: 40 of the caller's 200 µs.
        patient = 0.0 < timeout <= _PATIENCE and self._sending.awaits_an_answer
        if self.stream.wait(timeout, _ANSWER if patient else 1):
            self._on_socket()
        now = self._clock()
        if now >= self._next_due() or self._failure is not None or self._close_by is not None or self._dialing.has_news:
            self._step(now)
        for _ in range(_ROUNDS):
            self._flush()
            self._look_at_marks()
            if not self._news.pending:
                break
            self._news.tell()
        if self._failure is not None:
            return 0.0
        if self._is_closed():
            self.stream.dispose()
            return math.inf
        return 0.0 if self._news.pending else max(0.0, self._next_due() - self._clock())

    def _is_closed(self) -> bool:
        return self._phase is Phase.CLOSED

    def _next_due(self) -> float:
        due = self._due if self._due < self._tick_at else self._tick_at
        if self._phase is Phase.UP:
            due = min(due, self._sending.due, self._receiving.due)
        if self._close_by is not None and self._close_by < due:
            due = self._close_by
        return due

    # Bytes

    def _on_socket(self) -> None:
        try:
            if self._phase is Phase.CONNECTING:
                if self.stream.advance():
                    self._begin_login()
            elif self._login is not None:
                self._go_on_with_login(self._login)
            elif self._engine is not None:
                self._read(self._engine)
        except (OSError, EOFError) as error:
            self._fail(self._broken(error))

    def _read(self, engine: Engine) -> None:
        for _ in range(_MOST_READS):
            data = self.stream.read()
            if not data:
                return
            self._heard = self._clock()
            if not self._take(engine, data) or len(data) < 65536:
                return

    def _take(self, engine: Engine, data: bytes) -> bool:
        taken = True
        for start in range(0, len(data), 2 * PIECE):
            taken = taken and engine.push(data[start : start + 2 * PIECE] if len(data) > 2 * PIECE else data)
            engine.dispatch(self._handlers)
        if not taken and self._failure is None and not self._closing:
            condition = engine.transport_condition()
            self._fail(ConnectionLost(f"{self._title} broke the protocol, or ended the connection: {condition}"))
        return taken and self._failure is None

    def _flush(self) -> None:
        engine, login = self._engine, self._login
        if engine is None and login is None:
            return
        stream = self.stream
        try:
            if login is not None:
                stream.write(login.output)
                login.output = b""
            if stream.unwritten:
                stream.flush()
            while engine is not None and not stream.unwritten:
                output = engine.take_output()
                if output is None:
                    self._news.written()
                    if engine.has_ended and not self._closing:
                        # A broken frame shows only now.
                        engine.dispatch(self._handlers)
                        self._fail(ConnectionLost(f"{self._title} has ended the connection"))
                    return
                if self._news.unwritten:
                    self._news.leaving(stream.given)
                stream.write(output)
                stream.flush()
        except OSError as error:
            self._fail(self._broken(error))

    def _broken(self, error: BaseException) -> Exception:
        if self._phase is Phase.UP:
            lost: Exception = ConnectionLost(f"the connection to {self._title} broke: {error}")
        else:
            hint = self._opening.hint() if self._phase is Phase.LOGIN else ""
            lost = ConnectFailed(f"{self._title} cannot be connected: {reason(error)}{hint}")
        lost.__cause__ = error
        return lost

    @property
    def _title(self) -> str:
        return self._dialing.host.address

    def _fail(self, cause: Exception) -> None:
        if self._failure is None:
            self._failure = cause

    # Phases

    def _step(self, now: float) -> None:
        if self._close_by is not None and self._phase is not Phase.UP:
            self._try_to_close(now, self._close_by)
            return
        if self._failure is not None:
            cause, self._failure = self._failure, None
            if self._phase is not Phase.WAITING:
                self._lose(cause, now)
        elif self._phase is Phase.NEW or (self._phase is Phase.WAITING and now >= self._due):
            self._begin(now)
        elif self._phase is Phase.RESOLVING and self._dialing.has_news:
            self._connect(now)
        elif self._phase in ON_THE_WAY and now >= self._due:
            seconds = self._settings.connect_timeout
            spoken = self._opening.expected(connected=self._phase in (Phase.LOGIN, Phase.OPENING))
            told = f"{self._title} did not answer {spoken} within {seconds:g} s (connect_timeout)"
            if self._phase is Phase.RESOLVING:
                told = f"{self._title} has no address, or credentials= no answer, after {seconds:g} s (connect_timeout)"
            self._dialing.give_up()
            self._lose(ConnectFailed(told), now)
        elif self._phase is Phase.UP:
            self._run(now)
        if self._engine is not None and now >= self._tick_at:
            self._tick(self._engine, now)
        if self._close_by is not None:
            self._try_to_close(now, self._close_by)

    def _run(self, now: float) -> None:
        self._sending.run(now)
        self._receiving.run(now)
        silence = 2 * self._settings.heartbeat
        if now - self._heard >= silence:
            self._lose(ConnectionLost(f"{self._title} has been silent for {silence:g} seconds"), now)
            return
        self._due = self._heard + silence

    def _tick(self, engine: Engine, now: float) -> None:
        deadline = engine.tick(now)
        # proton moves its deadline only when it is ticked, so ticking at its deadline alone notices late.
        self._tick_at = min(deadline or math.inf, now + self._settings.heartbeat / 4)
        engine.dispatch(self._handlers)

    def _begin(self, now: float) -> None:
        if self._phase is Phase.WAITING:
            self._reconnects += 1
        self._due = now + self._settings.connect_timeout
        self._news.state(State.CONNECTING)
        self._phase = Phase.RESOLVING
        self._dialing.begin()
        if self._dialing.has_news:
            self._connect(now)

    def _connect(self, now: float) -> None:
        try:
            if self._dialing.connect():
                self._phase = Phase.CONNECTING
        except ConnectFailed as error:
            self._lose(error, now)
        except OSError as error:
            self._phase = Phase.CONNECTING
            self._lose(self._broken(error), now)

    def _begin_login(self) -> None:
        self._phase = Phase.LOGIN
        self._heard = self._clock()
        self._login = self._opening.login(self._dialing.host, self._dialing.login)
        self._flush()

    def _go_on_with_login(self, login: Login) -> None:
        data = self.stream.read()
        if not data:
            return
        try:
            rest = login.receive(data)
        except (LoginFailed, NotSasl) as error:
            self._fail(self._opening.login_failed(self._title, login, error))
            return
        if not login.done:
            self._flush()
            return
        self._login = None
        self._phase = Phase.OPENING
        self._heard = now = self._clock()
        self._engine = engine = self._opening.engine(self._container)
        self._tick(engine, now)
        self._take(engine, rest)
        self._flush()

    def _lose(self, cause: Exception, now: float) -> None:
        was_up = self._phase is Phase.UP
        if self._phase is Phase.CONNECTING and now < self._due:
            # A name may stand for several addresses, of which the next may answer.
            self.stream.drop()
            try:
                if self._dialing.try_next():
                    return
            except OSError as error:
                cause = self._broken(error)
        self._phase = Phase.WAITING
        final = self._opening.is_final(cause)
        retry_in = None if final else self._opening.retry_at_once() or self._dialing.delay()
        self._due = math.inf if retry_in is None else now + retry_in
        self._tick_at = math.inf
        self._blocked = False
        self._news.state(State.LOST, cause, retry_in)
        if was_up:
            self._sending.lose(cause)
            self._receiving.lose(cause, self.stream.taken)
        self._drop()

    def _drop(self) -> None:
        """Give the socket and the engine back; nobody holds pointers any more."""
        self.stream.drop()
        self._login = None
        self._session = None
        if self._engine is not None:
            self._engine.free()
            self._engine = None

    def _try_to_close(self, now: float, close_by: float) -> None:
        engine = self._engine
        if self._phase is Phase.UP and engine is not None and now < close_by and not self._failure:
            if not self._closing and self._sending.idle:
                self._closing = True
                self._receiving.give_back()
                engine.close()
                self._flush()
            if not (self._closing and engine.has_ended):
                self._due = min(self._due, close_by)
                return
        elif self._phase is Phase.UP and engine is not None and not self._closing and not self._failure:
            # No time is left; what can be said without waiting is.
            self._receiving.give_back()
            engine.close()
            self._flush()
        cause = Closed("the connection was closed")
        if self._phase is Phase.UP:
            self._sending.lose(cause)
            self._receiving.lose(cause, self.stream.taken)
        self._drop()
        self._phase = Phase.CLOSED
        self._news.state(State.CLOSED)
        self._failure = None

    def _look_at_marks(self) -> None:
        if self._phase is Phase.UP and self._sending.blocked is not self._blocked:
            self._blocked = not self._blocked
            self._news.state(State.BLOCKED if self._blocked else State.READY)

    # Events of the engine

    def _on_delivery(self, delivery: Pointer) -> None:
        if delivery in self._sending.under_way:
            self._sending.answered(delivery)
        else:
            self._receiving.arrived(delivery)

    def _on_open(self, _: Pointer) -> None:
        engine = self._engine
        if engine is None:
            return
        properties = engine.remote_properties()
        if properties.get(REFUSED):
            # The Close behind it says why; of such an Open the peer need not say which product it is.
            return
        try:
            self._profile = self._opening.profile(properties, self._role)
        except (ConfigError, ConnectFailed) as error:
            self._fail(error)
            return
        self._session = engine.begin()
        # The peer has said now how soon it takes us for dead, and proton keeps to that from its next tick on.
        self._tick_at = self._heard

    def _on_session(self, session: Pointer) -> None:
        # Broker-J sends its Open before it looks at the host name: only a Begin says that it is content.
        engine, profile = self._engine, self._profile
        if engine is not None:
            engine.begun(session)
        if session != self._session or engine is None or profile is None or self._phase is Phase.UP:
            return
        self._phase = Phase.UP
        self._opening.accepted()
        self._due = self._heard + 2 * self._settings.heartbeat
        confirms = self._settings.presettled != "requests"
        self._news.state(State.READY, peer=capabilities_of(profile, self._settings.max_body, confirms))
        vhost = "" if profile.hostname else self._settings.url.vhost or ""
        life = Life(
            engine, profile, profile.addresses(words(self._settings, vhost)), f"{profile.title} at {self._title}"
        )
        self._sending.begin(life)
        self._receiving.begin(life)
        self._restored = False
        self._look_if_restored()

    def _look_if_restored(self) -> None:
        if not self._restored and self._receiving.complete:
            self._restored = True
            self._dialing.whole_again()

    def _on_link_open(self, link: Pointer) -> None:
        if not self._receiving.opened(link):
            self._sending.opened(link)
        self._look_if_restored()

    def _on_link_end(self, link: Pointer) -> None:
        if not self._receiving.ended(link):
            self._sending.ended(link)

    def _on_session_end(self, session: Pointer) -> None:
        if session != self._session:
            for link in [*self._sending.links_of(session), *self._receiving.links_of(session)]:
                self._on_link_end(link)
        elif self._engine is not None and not self._closing:
            self._fail(ConnectionLost(f"{self._title} has ended the session"))

    def _on_close(self, _: Pointer) -> None:
        engine = self._engine
        if engine is None or self._closing:
            return
        condition = engine.connection_condition()
        if self._phase is Phase.UP:
            self._fail(ConnectionLost(f"{self._title} has closed the connection: {condition or 'no reason given'}"))
        else:
            self._fail(refusal_of(condition, self._title, self._settings))

    def _on_transport_error(self, _: Pointer) -> None:
        engine = self._engine
        if engine is None or self._closing:
            return
        condition = engine.transport_condition()
        if self._phase is Phase.OPENING:
            self._fail(ConnectFailed(f"{self._title} cannot be talked to: {condition}"))
        else:
            self._fail(ConnectionLost(f"the connection to {self._title} broke: {condition}"))
