"""How the owner of a connection rests while the client library has nothing for it: on a descriptor of ours, because the
library has none and cannot be woken.

It knows neither producers nor consumers. A call that comes to nobody who rests is remembered, and ends the next rest
before it begins.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable

from messaging.drivers.wakeup import WakeUp

__all__ = ["Rest"]


class Rest:
    """The owner alone rests; whoever wants it calls `wake`."""

    __slots__ = ("_poller", "_resting", "_wakeup", "_woken")

    def __init__(self) -> None:
        self._wakeup = WakeUp()
        self._poller = select.poll()
        self._poller.register(self._wakeup.descriptor, select.POLLIN)
        self._resting = False
        self._woken = False

    def wake(self) -> None:
        """End a rest, this one or the next one; any thread, and signal handlers."""
        self._woken = True
        if self._resting:
            self._wakeup.ring()

    def called(self) -> bool:
        """Whether somebody has called since it was last asked, or since the last rest."""
        woken, self._woken = self._woken, False
        return woken

    def pause(self, seconds: float) -> None:
        """Rest for so long, whoever calls."""
        if self._poller.poll(max(1, math.ceil(1000 * seconds))):
            # A call that came as the last rest ended; it is remembered.
            self._wakeup.silence()

    def rest(self, seconds: float, wanted: Callable[[], object] = bool) -> None:
        """Rest until somebody calls, for `seconds` at most, unless something is `wanted`; by default nothing is."""
        self._resting = True
        # The look after the flag: whoever wants something and wakes does it the other way round.
        if not (self._woken or wanted()):
            self._poller.poll(math.ceil(1000 * seconds))
        self._resting = False
        self._woken = False
        self._wakeup.silence()
