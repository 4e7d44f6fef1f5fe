"""Messages that go to several: what their copies have come to, and when that is an answer."""

from __future__ import annotations

from collections.abc import Iterable

from messaging.drivers.zmq.link import Copy, Group
from messaging.drivers.zmq.news import News
from messaging.errors import DeadlineExceeded, Delivered, MessagingError, NoRoute, TransportError
from messaging.message import Outgoing, Stage

__all__ = ["CopyGroup", "Fanout", "Pools"]


class CopyGroup(Group):
    """Counts the copies that are still out."""

    __slots__ = ("_given", "_news", "_out", "outgoing")

    def __init__(self, outgoing: Outgoing, news: News, names: Iterable[str], until: float) -> None:
        self.outgoing = outgoing
        self._news = news
        self.until = until
        self._out = {name: Copy(outgoing, self, name) for name in names}
        self._given = False
        """Whether somebody has, or may have, a copy that is not out any more."""

    @property
    def copies(self) -> list[Copy]:
        """The copies that are still out."""
        return list(self._out.values())

    @property
    def ended(self) -> bool:
        """Whether the news has been told."""
        return not self._out

    def copy_ended(self, copy: Copy, error: Exception | None) -> None:
        """See Group; late news of a copy are ignored once the group has ended."""
        if copy.name not in self._out:
            return
        del self._out[copy.name]
        self._given = self._given or copy.written
        self._note(copy, error)
        if not self._out:
            self._tell()

    def given(self) -> bool:
        """See Group."""
        return self._given or any(copy.written for copy in self._out.values())

    def close(self) -> None:
        """The deadline is near: tell what is known. A copy that nobody has been given is not delivered."""
        if self._out:
            for copy in self.copies:
                copy.ended = True
                if not copy.written:
                    del self._out[copy.name]
                    self._note(copy, _not_given())
            self._give_up(sorted(self._out))
            self._out.clear()
            self._tell()

    def _note(self, copy: Copy, error: Exception | None) -> None:
        raise TypeError("a group says what it notes of a copy")

    def _give_up(self, copies: list[str]) -> None:
        raise TypeError("a group says what copies without news mean")

    def _tell(self) -> None:
        raise TypeError("a group says what its end means")

    def _end(self, stage: Stage | None, error: Exception | None, taker: tuple[int, int] | None = None) -> None:
        if stage is not None:
            self.outgoing.stage = stage
        self._news.ended(self.outgoing, stage, error, taker)


class Fanout(CopyGroup):
    """One copy for each server: never an error, but the numbers of those that took it and those that did not.

    A server that turns out to have died before it was asked is in neither: it was not there.
    """

    __slots__ = ("_failed", "_sent")

    def __init__(self, outgoing: Outgoing, news: News, names: Iterable[str], until: float) -> None:
        super().__init__(outgoing, news, names, until)
        self._sent = 0
        self._failed = 0

    def _note(self, copy: Copy, error: Exception | None) -> None:
        if error is None:
            self._sent += 1
        elif not isinstance(error, NoRoute):
            self._failed += 1

    def _give_up(self, copies: list[str]) -> None:
        self._failed += len(copies)

    def _tell(self) -> None:
        self._end(Stage.TAKEN, None, (self._sent, self._failed))


class Pools(CopyGroup):
    """One copy for each pool: taken when every pool has taken it."""

    __slots__ = ("_errors", "_silent", "_taken")

    def __init__(self, outgoing: Outgoing, news: News, names: Iterable[str], until: float) -> None:
        super().__init__(outgoing, news, names, until)
        self._errors: dict[str, Exception] = {}
        self._taken: list[str] = []
        self._silent: list[str] = []

    def _note(self, copy: Copy, error: Exception | None) -> None:
        if error is None:
            self._taken.append(copy.name)
        else:
            self._errors[copy.name] = error

    def _give_up(self, copies: list[str]) -> None:
        self._silent = copies

    def _tell(self) -> None:
        errors = self._errors
        if not errors and not self._silent:
            self._end(Stage.TAKEN, None)
            return
        sure = not self._silent and all(
            isinstance(error, MessagingError) and error.delivered is Delivered.NO for error in errors.values()
        )
        parts = [f"pool {name!r} has not: {error}" for name, error in errors.items()]
        if self._silent:
            parts.append(f"no answer from {', '.join(map(repr, self._silent))}")
        if self._taken:
            parts.insert(0, f"taken by {', '.join(map(repr, self._taken))}")
        text = f"not every pool has taken the message: {'; '.join(parts)}"
        delivered = Delivered.NO if sure and not self._taken else Delivered.MAYBE
        only = next(iter(errors.values())) if len(errors) == 1 and not self._silent else None
        kind = type(only) if isinstance(only, TransportError) else TransportError
        error = kind(text, delivered=delivered)
        error.__cause__ = only
        self._end(self.outgoing.stage, error)


def _not_given() -> DeadlineExceeded:
    return DeadlineExceeded("nobody could be given it by its deadline", phase="send", delivered=Delivered.NO)
