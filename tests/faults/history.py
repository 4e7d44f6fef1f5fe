"""A record of what was done and what came of it, written by several processes into one file, and judged afterwards.

The library's own counts cannot prove that the library is right, so callers write what they asked for and what they
got, and handlers write that they ran. Each entry is one line, appended by one write, so the lines of a process that is
killed are whole and none is lost: the kernel has them. Times are those of the monotonic clock, which the processes of
one machine share. Nothing here knows the library but its errors.

Kinds of entries, as in the literature on such checkers: `invoke`, then one of `ok` (it was done, or its handler
failed), `fail` (proven not done) and `info` (nobody can know); and `effect`, written by the handler itself.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from messaging.errors import Delivered, MessagingError

__all__ = ["REDELIVERED", "Entry", "History", "Recorder", "read"]

REDELIVERED = "redelivered"
"""The detail of an effect whose message said that it may have come before."""


class Entry(NamedTuple):
    """One line of the record."""

    at: float
    process: str
    operation: str
    id: str
    kind: str
    detail: Any


class Recorder:
    """Writes entries of one process; thread-safe, because each is one write to a file that is open for appending."""

    def __init__(self, path: str | Path, process: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._process = process

    def write(self, kind: str, operation: str, id: str, detail: Any = None) -> None:
        """Append an entry."""
        line = json.dumps([time.monotonic(), self._process, operation, id, kind, detail], default=repr)
        os.write(self._file, line.encode() + b"\n")

    def run(self, operation: str, id: str, timeout: float, function: Callable[[], Any]) -> Any:
        """Do something and record what came of it; returns the value, or the error of the library that was raised."""
        self.write("invoke", operation, id, timeout)
        try:
            value = function()
        except MessagingError as error:
            self.failed(operation, id, error)
            return error
        self.write("ok", operation, id, value)
        return value

    def failed(self, operation: str, id: str, error: MessagingError) -> None:
        """Record an error by what it says of the handler."""
        kind = {Delivered.NO: "fail", Delivered.MAYBE: "info", Delivered.YES: "ok"}[error.delivered]
        self.write(kind, operation, id, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


def read(path: str | Path) -> list[Entry]:
    """Return all entries so far, by time. What is still being written is left out."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return sorted(Entry(*json.loads(line)) for line in whole.splitlines())


class History:
    """What happened, by id. Each check returns what is wrong, one line for people per finding; nothing wrong is []."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.effects: dict[str, list[Entry]] = defaultdict(list)
        self.invoked: dict[str, Entry] = {}
        self.ended: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.kind == "effect":
                self.effects[entry.id].append(entry)
            elif entry.kind == "invoke":
                self.invoked[entry.id] = entry
            else:
                self.ended[entry.id].append(entry)

    def outcomes(self) -> Counter[str]:
        """How many operations ended in which way."""
        return Counter(entry.kind for entries in self.ended.values() for entry in entries)

    def done(self, since: float, until: float) -> int:
        """How many operations ended well between two times."""
        return sum(entry.kind == "ok" and since <= entry.at < until for ends in self.ended.values() for entry in ends)

    def unended(self) -> list[str]:
        """Every operation ends, and ends once."""
        return [
            f"{id} was asked for and ended {len(self.ended[id])} times"
            for id in self.invoked
            if len(self.ended[id]) != 1
        ]

    def executed_twice(self, operation: str = "") -> list[str]:
        """No handler runs twice for one operation (of one kind), unless it was told that it may have run before."""
        return [
            f"{id} ran {len(effects)} times: {', '.join(effect.process for effect in effects)}"
            for id, effects in self.effects.items()
            if effects
            and operation in ("", effects[0].operation)
            and sum(effect.detail != REDELIVERED for effect in effects) > 1
        ]

    def lost(self, operation: str, receivers: Collection[str]) -> list[str]:
        """What was done reached every receiver: a process of that name, or of that name, a dot and more."""
        lost = []
        for id, entries in self.ended.items():
            if self.invoked[id].operation == operation and any(entry.kind == "ok" for entry in entries):
                reached = {effect.process.partition(".")[0] for effect in self.effects.get(id, ())}
                lost += [f"{id} was confirmed and did not reach {name}" for name in receivers if name not in reached]
        return lost

    def told_wrong(self, operation: str = "") -> list[str]:
        """What a caller (of one kind of operation) is told is true: `ok` did run, `fail` did not, and each got its own
        answer.
        """
        wrong = [finding for finding in self.denied() if operation in ("", self.invoked[finding.split()[0]].operation)]
        for id, entries in self.ended.items():
            for entry in entries:
                if operation in ("", entry.operation) and entry.kind == "ok":
                    if not self.effects.get(id):
                        wrong.append(f"{id} was answered and never ran: {entry.detail}")
                    if entry.detail not in (id, None):
                        wrong.append(f"{id} got another's answer: {entry.detail}")
        return wrong

    def denied(self) -> list[str]:
        """What failed as proven not done has not run."""
        return [
            f"{id} is said not to have run, and ran: {entry.detail}"
            for id, entries in self.ended.items()
            for entry in entries
            if entry.kind == "fail" and self.effects.get(id)
        ]

    def failed(self) -> list[str]:
        """Nothing failed."""
        return [
            f"{id} ended as {entry.kind}: {entry.detail}"
            for id, entries in self.ended.items()
            for entry in entries
            if entry.kind != "ok"
        ]

    def late(self, allowance: float) -> list[str]:
        """Every operation ends within its deadline and 100 ms, and an allowance for what this machine was stalled."""
        return [
            f"{id} took {entry.at - self.invoked[id].at:.3f} s of {self.invoked[id].detail:g} s: {entry.detail}"
            for id, entries in self.ended.items()
            for entry in entries
            if id in self.invoked and entry.at - self.invoked[id].at > self.invoked[id].detail + 0.1 + allowance
        ]

    def ran_too_late(self) -> list[str]:
        """No handler begins after its caller's deadline. What is wrong by less than 50 ms is not told: the budget is
        counted from the receipt.
        """
        return [
            f"{id} ran {effect.at - invoked.at:.3f} s after it was asked for, with {invoked.detail:g} s to live"
            for id, invoked in self.invoked.items()
            for effect in self.effects[id]
            if effect.at > invoked.at + invoked.detail + 0.05
        ]
