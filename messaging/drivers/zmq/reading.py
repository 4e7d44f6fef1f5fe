"""Reading what a socket has, a bounded amount of it, message by message and frame by frame."""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.backend import zmq_poll

__all__ = ["NOBLOCK", "SNDMORE", "read_messages"]

NOBLOCK = int(zmq.NOBLOCK)
SNDMORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_MOST_MESSAGES = 64
_MOST_BYTES = 4 * 1024 * 1024
"""How much one socket may bring per pump, so that one busy peer does not silence the others and the timers."""
_MOST_BODIES = 16
"""How many frames a message may have beside the first: twice what any version of this protocol sends."""

OnMessage = Callable[[bytes, bytes, list[bytes]], bool]
"""Gets the identity (empty unless routed), the first frame, the others; returns False when the socket is gone by it."""

_NO_BODIES: list[bytes] = []


def read_messages(socket: zmq.Socket[bytes], routed: bool, on_message: OnMessage) -> bool:
    """Hand over what a socket has; True when there may be more.

    A message that has more frames than it may is read to its end, so that the next one begins at its beginning, and
    handed over as an empty one. The frame objects cost 0.2 us more than bytes, and 0.5 us less than asking the socket
    whether another frame follows.
    """
    try:
        return _read(socket, routed, on_message)
    except zmq.Again:
        return False


def _read(socket: zmq.Socket[bytes], routed: bool, on_message: OnMessage) -> bool:
    receive = socket.recv
    size = 0
    poll = [(socket, _POLLIN)]
    frame = receive(NOBLOCK, False)
    for _ in range(_MOST_MESSAGES):
        identity = b""
        if routed:
            identity = frame.bytes
            # ZeroMQ delivers all frames of a message at once, and the first one is never the last.
            frame = receive(NOBLOCK, False)
        data = frame.bytes
        bodies = _NO_BODIES
        if frame.more:
            bodies = []
            more = True
            while more:
                frame = receive(NOBLOCK, False)
                if len(bodies) < _MOST_BODIES:
                    bodies.append(frame.bytes)
                else:
                    data = b""
                more = frame.more
            size += sum(map(len, bodies))
        size += len(data)
        if not on_message(identity, data, bodies):
            return False
        if not zmq_poll(poll, 0):
            return False
        if size > _MOST_BYTES:
            return True
        frame = receive(NOBLOCK, False)
    return True
