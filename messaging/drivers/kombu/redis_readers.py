"""What waits at redis for one queue or fanout, without taking anything before there is room for it.

A reader has a connection of its own, because a command that waits occupies it. Waiting is `BLMOVE queue queue`, which
moves the next message to where it is: it comes back when there is one and changes nothing, so nothing is lost when the
connection breaks, or when another consumer is quicker. (kombu waits with BRPOP, which takes.) Readers know queues and
raw messages; whose they are, and what becomes of them, is decided above.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from messaging.drivers.kombu.redis_scripts import INDEX, TAKE, UNACKED
from messaging.drivers.kombu.session import Raw

__all__ = ["FanoutReader", "QueueReader", "ReplyReader"]

_MOST = 100
"""Messages that are read at once."""
_MOST_KEPT = 10_000
"""Fanouts that wait for room here, because redis keeps none of them."""


class _Waiting:
    """One connection on which redis is asked to wait for a message in a queue, for `patience` seconds at a time."""

    def __init__(self, pool: Any, queue: str, patience: float) -> None:
        self._pool = pool
        self.queue = queue
        self._patience = patience
        self._connection = pool.get_connection()
        self._owed: deque[bool] = deque()
        """What redis has yet to answer, in order; True: to a wait."""
        self._since = math.inf
        self.lossy = 0
        self.due = math.inf

    @property
    def descriptor(self) -> int | None:
        """See Reader."""
        return int(self._connection._sock.fileno())

    @property
    def overdue(self) -> float:
        """See Reader."""
        return self._since + self._patience if self._owed else math.inf

    def _send(self, *command: object, wait: bool = False) -> None:
        self._connection.send_command(*command, check_health=False)
        self._owed.append(wait)

    def arm(self, room: int, now: float) -> None:
        """See Reader."""
        if room > 0 and True not in self._owed:
            self._send("BLMOVE", self.queue, self.queue, "RIGHT", "RIGHT", self._patience, wait=True)
            self._since = now

    def _something_there(self) -> bool:
        """Read what redis has answered; whether a message waits."""
        found = False
        while self._owed and self._connection.can_read(timeout=0):
            answer = self._connection.read_response()
            found = (self._owed.popleft() and answer is not None) or found
        return found

    def close(self) -> None:
        """See Reader."""
        self._connection.disconnect()
        self._pool.release(self._connection)


class QueueReader(_Waiting):
    """Reads a queue whose messages are settled one by one. `expiry`: ms, of the queue; `tags` gives unique prefixes."""

    def __init__(self, client: Any, queue: str, patience: float, expiry: int, tags: Callable[[], str]) -> None:
        super().__init__(client.connection_pool, queue, patience)
        self._expiry = expiry
        self._tags = tags
        self._take = client.register_script(TAKE)

    def read(self, room: int, now: float) -> list[Raw]:
        """See Reader."""
        if not self._something_there() or room <= 0:
            return []
        prefix = self._tags()
        taken = self._take((self.queue, UNACKED, INDEX), (min(room, _MOST), prefix, self._expiry))
        return [Raw(message, f"{prefix}{number}") for number, message in enumerate(taken, 1)]


class ReplyReader(_Waiting):
    """Reads a queue that nobody else reads: what was read is removed with the next wait, so a broken connection costs
    a repetition and no message.
    """

    def __init__(self, client: Any, queue: str, patience: float) -> None:
        super().__init__(client.connection_pool, queue, patience)
        self._client = client

    def read(self, room: int, now: float) -> list[Raw]:
        """See Reader."""
        if not self._something_there():
            return []
        messages = self._client.lrange(self.queue, -_MOST, -1)
        self._send("LTRIM", self.queue, 0, -len(messages) - 1)
        return [Raw(message, None) for message in reversed(messages)]


class FanoutReader:
    """Reads what is published to a fanout while it is subscribed; there is no more to it in redis."""

    def __init__(self, client: Any, topic: str, timeout: float) -> None:
        self._pubsub = client.pubsub()
        self._kept: deque[bytes] = deque()
        self._more = False
        self.lossy = 0
        self._pubsub.subscribe(topic)
        # Only what is published after this answer is sure to come.
        if self._pubsub.get_message(timeout=timeout) is None:
            raise ConnectionError(f"redis did not confirm a subscription within {timeout:g} s")

    @property
    def overdue(self) -> float:
        """See Reader; redis owes nothing to a subscriber."""
        return math.inf

    @property
    def descriptor(self) -> int | None:
        """See Reader."""
        return int(self._pubsub.connection._sock.fileno())

    @property
    def due(self) -> float:
        """See Reader."""
        return -math.inf if self._more or self._kept else math.inf

    def arm(self, room: int, now: float) -> None:
        """See Reader; redis does not wait to be asked."""

    def read(self, room: int, now: float) -> list[Raw]:
        """See Reader. What there is no room for is kept here, up to a bound."""
        kept = self._kept
        self._more = True
        for _ in range(_MOST):
            message = self._pubsub.get_message(timeout=0.0)
            if message is None:
                self._more = False
                break
            if message["type"] == "message":
                kept.append(message["data"])
        while len(kept) > _MOST_KEPT:
            kept.popleft()
            self.lossy += 1
        return [Raw(kept.popleft(), None) for _ in range(min(room, len(kept)))]

    def close(self) -> None:
        """See Reader."""
        self._pubsub.close()
