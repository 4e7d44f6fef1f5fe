"""A thread of ours as the owner of a connection: always available. The invariant is the reactor's."""

from __future__ import annotations

import threading

from messaging.drivers.base import State
from messaging.errors import Closed
from messaging.reactor import Reactor

__all__ = ["ThreadReactor"]


class ThreadReactor(Reactor):
    """A thread of ours owns the connection: always available, for blocking callers."""

    _thread: threading.Thread | None = None
    _ident = 0

    def is_owner(self) -> bool:
        """Whether the calling thread is the I/O thread."""
        return threading.get_ident() == self._ident

    def _launch(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def _rouse(self) -> None:
        self._connection.wake()

    def _run(self) -> None:
        self._ident = threading.get_ident()
        connection = self._connection
        inbox = self._inbox
        hint = 0.0
        try:
            while self.state is not State.CLOSED:
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
        except Exception as error:
            self._broke(error)
        else:
            self._finish(Closed("the transport was closed"))
