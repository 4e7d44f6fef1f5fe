"""Which host is tried next, and when: a rotation over all hosts of the URL, with full-jitter backoff between attempts.

Pure: names are resolved and sockets opened elsewhere. The first host is drawn by lot, so that a thousand clients of a
cluster spread over its nodes, and after a loss the next one is tried, not the one that has just failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from messaging.backoff import Backoff
from messaging.url import Host

__all__ = ["Hosts"]


class Hosts:
    """The hosts of one connection. `random` gives a float from [0, 1)."""

    def __init__(self, hosts: Sequence[Host], random: Callable[[], float]) -> None:
        self._hosts = list(hosts)
        self._at = int(random() * len(self._hosts)) - 1
        self._backoff = Backoff(source=random)

    def next(self) -> Host:
        """The host that is tried now."""
        self._at = (self._at + 1) % len(self._hosts)
        return self._hosts[self._at]

    def delay(self) -> float:
        """Seconds before the next attempt."""
        return self._backoff.next()

    def whole_again(self) -> None:
        """Everything is back that was lost: the next loss is answered quickly again."""
        self._backoff.reset()
