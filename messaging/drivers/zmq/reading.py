"""Reading what a socket has, a bounded amount of it, message by message.

The two kinds of socket are read in two ways. A DEALER brings frames from one peer only, so its first frame may say how
many follow; what a peer gets wrong there only harms itself. A ROUTER brings everybody's, and the identity of the next
message has to be found whatever a stranger sends; asking a received frame whether another one follows costs 0.5 us.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.backend import zmq_poll

__all__ = ["NOBLOCK", "SNDMORE", "read_bodies", "read_dealer", "read_router", "send"]

NOBLOCK = int(zmq.NOBLOCK)
SNDMORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_MOST_MESSAGES = 64
_MOST_BYTES = 4 * 1024 * 1024
"""How much one socket may bring per pump, so that one busy peer does not silence the others and the timers."""
_MOST_BODIES = 16
"""How many frames a message may have beside the first: twice what any version of this protocol sends."""

send = zmq.backend.Socket.send
"""`send(socket, data, flags, copy)` without the look at options that these sockets do not have: 0.2 us."""

_NO_BODIES: list[bytes] = []


def read_dealer(socket: zmq.Socket[bytes], on_message: Callable[[bytes], bool], several: bool) -> int:
    """Hand over the first frame of each message; `on_message` reads the bodies, and returns False when the socket is
    gone.

    Returns how many messages came. Without `several` it is one at most, and the caller has to look again: where
    mostly one message comes at a time, that look is needed anyway.
    """
    receive = socket.recv
    count = size = 0
    try:
        while True:
            data = receive(NOBLOCK)
            count += 1
            size += len(data)
            if not on_message(data) or not several or count >= _MOST_MESSAGES or size > _MOST_BYTES:
                return count
            if not zmq_poll([(socket, _POLLIN)], 0):
                return count
    except zmq.Again:
        return count


def read_bodies(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The frames behind the first one."""
    bodies: list[bytes] = []
    while socket.rcvmore:
        body = socket.recv(NOBLOCK)
        if len(bodies) < _MOST_BODIES:
            bodies.append(body)
    return bodies


def read_router(
    socket: zmq.Socket[bytes], on_message: Callable[[bytes, bytes, list[bytes]], bool], several: bool
) -> int:
    """Hand over each message as (identity, first frame, other frames); else as read_dealer.

    A message that has more frames than it may is handed over as an empty one.
    """
    receive = socket.recv
    count = size = 0
    try:
        while True:
            # ZeroMQ delivers all frames of a message at once, and an identity is never the last.
            identity = receive(NOBLOCK)
            frame = receive(NOBLOCK, False)
            data = frame.bytes
            bodies = _NO_BODIES
            if frame.more:
                bodies = read_bodies(socket)
                if len(bodies) >= _MOST_BODIES:
                    data = b""
                size += sum(map(len, bodies))
            count += 1
            size += len(data)
            if not on_message(identity, data, bodies) or not several:
                return count
            if count >= _MOST_MESSAGES or size > _MOST_BYTES or not zmq_poll([(socket, _POLLIN)], 0):
                return count
    except zmq.Again:
        return count
