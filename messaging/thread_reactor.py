"""Threads as owners of a connection: one of ours, always available, and now and then a caller who waits anyway.

A caller that hands its message to our thread and waits costs two switches of threads per call, as much as all the rest
of it. So when its last operation has ended and nothing else is under way, our thread does not go back to the connection
at once but *parks*: for a moment nobody pumps. A caller that comes within that moment takes the *seat* and pumps for
itself (`exchange`), until its own answer is there, for 5 ms at the most, and only as long as nobody else wants
anything: then it leaves, and our thread goes on. Callers do not hand over to each other.

A server's worker does the same (`attend`): when quick requests come one by one, our thread parks as soon as it has
handed one out, and the worker brings its answer away by itself and waits there for the next request, which it then
serves. Our thread is called when a worker has waited in vain, and comes by itself when one stays away for a period.

The seat is a dictionary with one key, because `setdefault` decides between two who want it in one step of the
interpreter. The rule of the reactor holds for whoever sits there. It raises `_sleeping`, looks into the inbox, then
waits; and when it leaves, it raises `_sleeping`, frees the seat, looks into the inbox, and rings for our thread if
something is in there. A poster that finds `_sleeping` raised wakes the connection when somebody pumps, else our thread.

A signal handler may raise in a caller at any bytecode, in the middle of a driver too. What such a caller sits on is its
own lock, held by a `with`, which lets go of it whatever happens. So a seat whose lock is open belongs to nobody: our
thread, which looks after each period of parking, takes it, and gives up a connection that was left in the middle of
something for a new one. Nothing else was under way on it, so nobody else loses anything.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import LockType, allocate_lock, get_ident
from collections.abc import Callable
from functools import partial

from messaging.deadline import Clock
from messaging.drivers.base import Capabilities, Connection, State
from messaging.errors import Closed, ConnectionLost
from messaging.message import Outgoing
from messaging.reactor import Connect, Reactor
from messaging.relay import Relay

__all__ = ["ThreadReactor"]

_log = logging.getLogger(__name__)

_REST = 0.005
"""Seconds for which a driver must want to be left alone, for its connection to be left alone."""
_CLOSED = State.CLOSED
_CROWD = 0.05
"""Seconds for which nobody is let in after two callers have met: they would only make each other leave."""
_BURIAL = 1.0
"""Seconds for which a connection that was given up is helped to close."""
_SEAT = "seat"
_Ticket = tuple[LockType, int]
"""What somebody sits on: a lock that he lets go of when he is gone, and which thread he is."""
_OURS: _Ticket = (allocate_lock(), 0)
"""What our thread sits on; its lock is never open."""
_OURS[0].acquire()


class ThreadReactor(Reactor):
    """A thread of ours owns the connection, for blocking callers; between two operations one of them may."""

    period = 0.005
    """Seconds for which nobody may pump, and for which a caller may. Each period costs our thread one wake-up."""

    def __init__(
        self, connect: Connect, capabilities: Capabilities, *, name: str, clock: Clock = time.monotonic
    ) -> None:
        self._thread: threading.Thread | None = None
        self._ident = 0
        """Our thread."""
        self._seat: dict[str, _Ticket] = {_SEAT: _OURS}
        self._bell = allocate_lock()
        """Ends our thread's parking."""
        self._bell.acquire()
        self._parked = False
        self._wanted = False
        """Whether whoever left the seat has left something to do."""
        self._inviting = False
        """Whether a caller has waited for our thread, and might come again soon."""
        self._attended = False
        """Whether a worker has got a request, and will attend when it has answered."""
        self._workers: set[int] = set()
        self._visits = 0
        self._crowded_until = 0.0
        self._in_pump = False
        """Whether a caller is at the connection: if it never comes back, nobody knows what it has left there."""
        self._failure: Exception | None = None
        """What the driver raised while a caller pumped."""
        super().__init__(connect, capabilities, name=name, clock=clock)

    def is_owner(self) -> bool:
        """Whether the calling thread is the one that pumps."""
        holder = self._seat.get(_SEAT)
        if holder is _OURS:
            return get_ident() == self._ident
        return holder is not None and holder[1] == get_ident() and holder[0].locked()

    def _launch(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def _rouse(self) -> None:
        if self._parked:
            holder = self._seat.get(_SEAT)
            if holder is None or not holder[0].locked():
                if get_ident() not in self._workers:
                    self._ring()
                return
        self._connection.wake()

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            # Somebody else has just rung.
            pass

    # Our thread

    def _run(self) -> None:
        self._ident = get_ident()
        connection = self._connection
        inbox = self._inbox
        hint = 0.0
        try:
            while self.state is not _CLOSED:
                if inbox:
                    self._drain()
                wait = self._wait()
                if hint < wait:
                    wait = hint
                self._sleeping = True
                # The look that the invariant asks for: after the flag, before the wait.
                hint = connection.pump(0.0 if inbox or self._flushed else wait)
                self._sleeping = False
                if self._flushed:
                    self._run_flushed()
                if self._inviting and hint > _REST and not self.outstanding() and self._may_park():
                    self._park()
                    connection = self._connection
                    hint = 0.0
        except Exception as error:
            self._broke(error)
        else:
            self._finish(Closed("the transport was closed"))

    def _may_park(self) -> bool:
        """Whether nobody needs this connection to be pumped all the time."""
        return (
            not self._closing
            and self.state is State.READY
            and self.holding.reply_ready
            and self.clock() >= self._crowded_until
            and (self._attended or self._subscriptions.only_replies())
            # A caller in a library that blocks could not leave at its deadline.
            and self.capabilities.pump_stall == 0.0
        )

    def _park(self) -> None:
        """Leave the connection to whoever comes; return when something is to be done, or when nobody has come."""
        seat = self._seat
        self._inviting = self._attended = self._wanted = False
        self._sleeping = self._parked = True
        del seat[_SEAT]
        seen = -1
        while True:
            holder = seat.get(_SEAT)
            if holder is None:
                wanted = self._inbox or self._wanted or self._visits == seen
                if wanted and seat.setdefault(_SEAT, _OURS) is _OURS:
                    break
            elif not holder[0].locked() and seat.get(_SEAT) is holder:
                # Who leaves in order frees the seat first, and opens the lock after that.
                seat[_SEAT] = _OURS
                break
            seen = self._visits
            self._bell.acquire(timeout=self.period)
        self._sleeping = self._parked = False
        if self._failure is not None:
            raise self._failure
        if self._in_pump:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Give up a connection that was left in the middle of something, and make a new one."""
        old, relay = self._connection, self._relay
        relay.mute()
        self._in_pump = self._in_events = False
        self._direct = self.capabilities.threadsafe_publish
        self._relay = Relay(self)
        self._connection = self._connect(self._relay, self)
        self._subscriptions.move(self._connection)
        cause = ConnectionLost("an exception of a signal handler broke off what a caller was doing with the connection")
        self.on_state(State.LOST, cause, 0.0, None)
        self._bury(old, relay, self.clock() + _BURIAL, True)

    def _bury(self, old: Connection, relay: Relay, until: float, begin: bool = False) -> None:
        """Help a connection that nobody listens to any more to close."""
        try:
            if begin:
                old.close(0.0)
            old.pump(0.0)
        except Exception as error:  # whatever state it was left in
            _log.debug("%s: a connection that was given up did not close: %s", self.name, error)
            return
        if not relay.closed and self.clock() < until:
            self.timers.at(self.clock() + 0.02, partial(self._bury, old, relay, until))

    # Callers

    def exchange(self, outgoing: Outgoing, bell: LockType, until: float) -> bool:
        """See Reactor. The caller pumps for itself where it may."""
        answered = self._visit(outgoing, bell, until) if self._parked else None
        if answered:
            return True
        self._inviting = True
        if answered is None:
            self.publish(outgoing)
            if self._parked and get_ident() in self._workers:
                # It will not attend before this has ended.
                self._ring()
        return bell.acquire(timeout=max(0.0, until - self.clock()))

    def _visit(self, outgoing: Outgoing, bell: LockType, until: float) -> bool | None:
        """Take the seat, send, and pump until the answer is there; None: the message was not sent."""
        lock = allocate_lock()
        mine = (lock, get_ident())
        with lock:
            if self._seat.setdefault(_SEAT, mine) is not mine:
                self._crowded_until = self.clock() + _CROWD
                return None
            answered: bool | None = None
            if not self._inbox and self.outstanding() <= 1 and self.holding.may_go(outgoing) and not self._closing:
                try:
                    answered = self._pump_for(outgoing, bell, until)
                except Exception as error:
                    # In the main thread it may be a signal handler's, and so the caller's; here it is the driver's.
                    if threading.current_thread() is threading.main_thread():
                        raise
                    self._failure = error
                    answered = False
            # Who meets others, or comes too late to be alone, is no company for the next one either.
            if answered is None or self._inbox or self.outstanding():
                self._crowded_until = self.clock() + _CROWD
            self._leave(answered is None)
        return answered

    def _pump_for(self, outgoing: Outgoing, bell: LockType, until: float) -> bool:
        """Send, and pump until the answer is there, or until somebody else wants something."""
        timers = self.timers
        if 0.0 < outgoing.deadline < timers.due:
            timers.due = outgoing.deadline
        connection = self._connection
        now = self.clock()
        end = min(now + self.period, until)
        rest = self.period
        answered = False
        self._in_pump = True
        # Others post meanwhile, so that they find out, and nothing of theirs is on a connection that may be given up.
        self._direct = False
        connection.publish(outgoing)
        while (wait := min(end, timers.due) - now) > 0.0:
            self._sleeping = True
            # The look that the invariant asks for: after the flag, before the wait.
            if self._inbox:
                break
            rest = connection.pump(min(wait, rest))
            if bell.acquire(blocking=False):
                answered = True
                break
            now = self.clock()
        self._in_pump = False
        self._direct = self.capabilities.threadsafe_publish
        if not answered or rest < _REST or self._flushed:
            self._wanted = True
        return answered

    def _leave(self, hurried: bool) -> None:
        """Free the seat, and call our thread if anything is left to do."""
        if hurried:
            self._wanted = True
        self._visits += 1
        self._sleeping = True
        del self._seat[_SEAT]
        # The look that the invariant asks for: after the flag, before nobody looks.
        if self._wanted or self._inbox:
            self._ring()

    # Workers of a server

    def invite(self) -> None:
        """See Desk; called on the owner."""
        self._inviting = self._attended = True

    def employ(self, ident: int) -> None:
        """See Desk."""
        self._workers.add(ident)

    def dismiss(self, ident: int) -> None:
        """See Desk."""
        self._workers.discard(ident)

    def attend(self, found: Callable[[], int], stay: bool) -> None:
        """See Desk."""
        if not self._parked:
            return
        if not stay:
            if self._inbox:
                self._ring()
            return
        lock = allocate_lock()
        mine = (lock, get_ident())
        with lock:
            if self._seat.setdefault(_SEAT, mine) is not mine:
                return
            try:
                self._pump_until(found)
            except Exception as error:
                self._failure = error
                self._wanted = True
            # Several jobs are for several workers, and our thread hands out what comes meanwhile.
            self._leave(found() != 1)

    def _pump_until(self, found: Callable[[], int]) -> None:
        """Send what is in the inbox, and pump until there is a job."""
        timers = self.timers
        connection = self._connection
        inbox = self._inbox
        now = self.clock()
        end = now + self.period
        rest = self.period
        while not found() and not self._closing and not self._flushed:
            if inbox:
                self._drain()
                rest = self.period
            wait = min(end, timers.due) - now
            if wait <= 0.0:
                break
            self._sleeping = True
            # The look that the invariant asks for: after the flag, before the wait.
            rest = connection.pump(0.0 if inbox else min(wait, rest))
            self._sleeping = False
            now = self.clock()
        if rest < _REST or now >= timers.due or self._flushed:
            self._wanted = True
