"""How the owner of a connection to the hub sleeps, and how it is woken.

A thread that pumps sleeps on a raw lock; an event loop cannot, so it gets an eventfd, made when it asks for a
descriptor. Measured over 20,000 round trips of two threads that share a hub: 50 us with the lock, 59 us with the
eventfd, whose write gives up the interpreter while the hub is held. Posters run in three places: in the hub (its lock
held), in `wake` (any thread, and signal handlers, so without any lock), and, for a virtual clock, in `advance`.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

__all__ = ["Wakeup"]


class _Descriptor:
    """An eventfd that is closed when nobody can write to it any more: a poster holds it while it writes, so its number
    is not reused.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.number)

    def write(self) -> None:
        os.eventfd_write(self.number, 1)

    def read(self) -> None:
        try:
            os.eventfd_read(self.number)
        except BlockingIOError:
            pass  # nobody had written


class Wakeup:
    """The bell of one connection.

    `armed` says that the owner sleeps, or may do so without looking again. It changes under the hub's lock only,
    together with the hub's look at what there is to do; so either the hub's poster sees it, or the owner sees what was
    posted.
    """

    __slots__ = ("_bell", "_descriptor", "_parked", "_woken", "armed", "watched")

    def __init__(self) -> None:
        self._bell = allocate_lock()
        self._bell.acquire()
        self._descriptor: _Descriptor | None = None
        self.watched = False
        """There is a descriptor, so its owner may be waiting elsewhere."""
        self._parked = False
        self._woken = False
        self.armed = False

    def ring(self) -> None:
        """Wake the owner if it sleeps. The hub's lock is held, and the work is posted after the ring, before the lock
        is left.

        In this order an exception from a signal handler in between costs a needless wake-up and not a message that
        nobody looks for.
        """
        if self.armed:
            self._strike()
            self.armed = False

    def wake(self) -> None:
        """Wake the owner, or keep it from sleeping next time. Thread-safe, and safe in signal handlers: it takes no
        lock.
        """
        self._woken = True
        self._strike()

    def _strike(self) -> None:
        if self._parked:
            try:
                self._bell.release()
            except RuntimeError:
                pass  # somebody else has just rung
        elif (descriptor := self._descriptor) is not None:
            descriptor.write()

    def lie_down(self) -> bool:
        """Get ready to sleep; False when somebody has called `wake`. The hub's lock is held, and there is nothing to
        do.
        """
        self._bell.acquire(blocking=False)  # a ring that came after the last sleep had ended by itself
        self._parked = self.armed = True
        # The look after the flag: `wake` does it the other way round, so one of the two notices.
        if self._woken:
            self._parked = self.armed = False
            return False
        return True

    def sleep(self, seconds: float) -> None:
        """Sleep until rung, or for some seconds; infinity is allowed. Called after `lie_down`, without the hub's
        lock.
        """
        self._bell.acquire(timeout=seconds if seconds < 1e6 else -1)
        self._parked = False

    def get_up(self, idle: bool) -> None:
        """Begin to work; the hub's lock is held. `idle`: there is nothing to do, so a left-over mark on the descriptor
        is worth a look.
        """
        if self._descriptor is not None and (not self.armed or self._woken or idle):
            self._woken = False
            self._descriptor.read()
        self._woken = self.armed = False

    def stand_by(self) -> None:
        """Arm the descriptor for an owner that waits elsewhere. The hub's lock is held, and there is nothing to do."""
        self.armed = True

    def fileno(self) -> int | None:
        """The descriptor, readable at first so that its watcher looks once; None where there is no eventfd (outside
        Linux).
        """
        if self._descriptor is None:
            if not hasattr(os, "eventfd"):
                return None
            self._descriptor = _Descriptor()
            self.watched = True
            self._descriptor.write()
        return self._descriptor.number

    def close(self) -> None:
        """Let the descriptor go. Ringing stays legal and does nothing."""
        self._descriptor = None
        self.watched = False
