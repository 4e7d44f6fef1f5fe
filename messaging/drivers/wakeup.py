"""A descriptor that one thread makes readable to end another one's wait."""

from __future__ import annotations

import os
import sys

__all__ = ["WakeUp"]

_ONE = (1).to_bytes(8, sys.byteorder)


class WakeUp:
    """An eventfd where the system has it, else a pipe. `ring` is thread-safe.

    It is given back when nobody holds the object any more, not before: another thread may be in `ring`, and would
    write into whatever got the number next.
    """

    __slots__ = ("_writer", "descriptor")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.descriptor = self._writer = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self.descriptor, self._writer = os.pipe()
            os.set_blocking(self.descriptor, False)
            os.set_blocking(self._writer, False)

    def ring(self) -> None:
        """Make the descriptor readable."""
        try:
            # One as eight bytes in native order, which is what an eventfd takes; to a pipe it does not matter.
            os.write(self._writer, _ONE)
        except BlockingIOError:
            # It is readable already, and has been for long.
            pass

    def silence(self) -> None:
        """Make the descriptor unreadable again."""
        try:
            os.read(self.descriptor, 4096)
        except BlockingIOError:
            # Somebody has read it before.
            pass

    def __del__(self) -> None:
        os.close(self.descriptor)
        if self._writer != self.descriptor:
            os.close(self._writer)
