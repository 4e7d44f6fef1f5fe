"""What has to be declared before something can be published, and what is renewed or deleted beside the traffic.

On a channel of its own, opened when there is something to do and closed when there is not: a declaration that the
broker refuses closes its channel, and that must not be one on which messages are under way. What was declared is
remembered for as long as its address says, and forgotten with the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from messaging.drivers.rabbit.channels import ChannelOwner, Channels
from messaging.drivers.rabbit.methods import Answer, Method, passive
from messaging.drivers.rabbit.refusals import declaration_refused
from messaging.drivers.rabbit.topology import Address

__all__ = ["Declarations"]

Done = Callable[[Exception | None], None]


class Declarations(ChannelOwner):
    """Jobs, one after the other: the methods of each in order, then its `done(error)`.

    `declare` False: nothing is made, only looked for.
    """

    __slots__ = ("_channel", "_channels", "_current", "_declare", "_fresh", "_jobs", "_open")

    def __init__(self, channels: Channels, declare: bool) -> None:
        self._channels = channels
        self._declare = declare
        self._jobs: deque[tuple[tuple[Method, ...], Done]] = deque()
        self._current: tuple[tuple[Method, ...], Done] | None = None
        self._channel: int | None = None
        self._open = False
        self._fresh: dict[tuple[str, str], float] = {}
        """By exchange and key of the address, which is looked up for every message; until when it stands."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._current is None and not self._jobs

    def stands(self, address: Address, now: float) -> bool:
        """Whether what an address needs was declared, not too long ago."""
        return not address.needs or self._fresh.get(address[:2], 0.0) > now

    def ensure(self, address: Address, now: float, done: Done) -> None:
        """Declare what an address needs; `done` gets the error of a refusal."""

        def declared(error: Exception | None) -> None:
            if error is None:
                if len(self._fresh) > _REMEMBERED:
                    self._fresh.clear()
                self._fresh[address[:2]] = now + address.fresh
            done(error)

        self.run(address.needs if self._declare else passive(address.needs), declared)

    def forget(self, address: Address) -> None:
        """It may be gone: declare it again before the next message."""
        self._fresh.pop(address[:2], None)

    def forget_all(self) -> None:
        """Anything may be gone."""
        self._fresh.clear()

    def run(self, methods: tuple[Method, ...], done: Done) -> None:
        """Carry out methods, after everything that was asked before."""
        self._jobs.append((methods, done))
        self._next()

    def part(self, methods: tuple[Method, ...], done: Done) -> None:
        """Carry out each method by itself, whatever becomes of the others, and be done after the last."""
        for method in methods[:-1]:
            self.run((method,), _whatever)
        if methods:
            self.run(methods[-1:], done)
        else:
            done(None)

    def lose(self, cause: Exception) -> None:
        """The connection is gone, with what had been declared on it as far as we know."""
        jobs = [self._current] if self._current is not None else []
        jobs += self._jobs
        self._jobs.clear()
        self._current = None
        self._channel = None
        self._open = False
        self._fresh.clear()
        for _, done in jobs:
            done(cause)

    def _next(self) -> None:
        if self._current is not None or not self._channels.alive:
            return
        if not self._jobs:
            if self._channel is not None and self._open:
                self._channels.close(self._channel)
                self._channel = None
                self._open = False
            return
        if self._channel is None:
            self._channel = self._channels.open(self)
        if self._open:
            self._current = self._jobs.popleft()
            self._step(0)

    def _step(self, position: int) -> None:
        if self._current is None or self._channel is None:
            return
        methods, done = self._current
        if position == len(methods):
            self._current = None
            done(None)
            self._next()
            return

        def answered(_answer: Answer) -> None:
            self._step(position + 1)

        self._channels.request(self._channel, methods[position], answered)

    def on_channel_open(self) -> None:
        """See ChannelOwner."""
        self._open = True
        self._next()

    def on_channel_closed(self, code: int, text: str) -> None:
        """See ChannelOwner: the job under way was refused."""
        self._channel = None
        self._open = False
        current, self._current = self._current, None
        if current is not None:
            methods, done = current
            done(declaration_refused(code, text, methods, not self._declare))
        self._next()


def _whatever(_error: Exception | None) -> None:
    """For what is done to be tidy."""


_REMEMBERED = 10_000
