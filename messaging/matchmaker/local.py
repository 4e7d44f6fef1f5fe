"""A directory of this machine: the zero-configuration matchmaker of `zmq://`.

One file per record. Renewing a lease is touching the file: one system call that does not wake the readers, whose
signal is the directory's own time. A file appears by renaming, so nobody reads half of one. Whoever sees that a
process is dead, by its pid and the time of its start, deletes what it left; a reader in another pid namespace (a
container that shares the directory) cannot see that and goes by the lease. A reader counts a lease on its own
monotonic clock from when it saw the last renewal, so that setting the machine's clock ends nobody's.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from messaging.errors import ConfigError
from messaging.matchmaker.base import Record
from messaging.message import Source, SourceKind

__all__ = ["LocalMatchmaker", "default_directory"]

_SUFFIX = ".record"
_COARSE = 20_000_000
"""Nanoseconds within which two changes of a directory may carry the same time (the kernel's tick is at most 10 ms)."""
_ANCIENT = 10
"""After how many leases by the machine's clock a record is not believed even by a reader that has just come."""


class _File(msgspec.Struct, frozen=True):
    """What stands in a file. Fields are only ever appended, with a default."""

    format: int
    instance: str
    endpoint: str
    revision: int
    rows: list[tuple[int, str, str, str, str, str]]
    pid: int
    started: str
    namespace: str
    lease: float


class _Entry:
    """A file that was read, and its lease as this reader sees it."""

    __slots__ = ("content", "inode", "record", "renewal", "seen_at")

    def __init__(self, inode: int, content: _File, record: Record) -> None:
        self.inode = inode
        self.content = content
        self.record = record
        self.renewal = 0
        self.seen_at = 0.0


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_File)
_KINDS = {kind.value: kind for kind in SourceKind}


def default_directory() -> Path:
    """Where records lie when the URL names no directory: `$XDG_RUNTIME_DIR/messaging`, else a directory of this
    user's in the temporary one.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return Path(runtime, "messaging")
    return Path(tempfile.gettempdir(), f"messaging-{os.getuid()}")


def _process_start(pid: int) -> str | None:
    """When a process was started, in the kernel's own count; empty where that cannot be known, None when it is dead.

    A pid alone may belong to somebody new by now, and one that was killed keeps its pid until its parent has asked
    for it.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            return ""
        return ""
    # The name of the program is in parentheses and may contain anything. Behind it: the state, and 19 fields later
    # the start.
    fields = line.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _namespace() -> str:
    """Which pids this process can judge."""
    try:
        return f"{os.uname().nodename}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename


class LocalMatchmaker:
    """Records in `directory`, leased for `lease` seconds, looked at again every `refresh` seconds when nothing else
    asks for it.
    """

    spans_machines = False

    def __init__(self, directory: Path | None, *, lease: float, refresh: float) -> None:
        self._directory = directory if directory is not None else default_directory()
        self._own_directory = directory is None
        self._lease = lease
        self._refresh = refresh
        self._pid = os.getpid()
        self._namespace = _namespace()
        self._files: dict[str, _Entry] = {}
        self._seen: int | None = None
        """The directory's time when it was last read; None when that reading may have missed a later change."""
        self._next_look = 0.0
        self._next_renewal = 0.0
        self.records: Mapping[str, Record] = {}
        self.registered: Record | None = None
        self.failure: Exception | None = None

    def start(self, wake: Callable[[], None], now: float) -> None:
        """Make the directory, and refuse one that others could write to. Raises ConfigError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.stat(self._directory)
        except OSError as error:
            raise ConfigError(
                f"the directory of the local matchmaker cannot be used: {error}; name another one as zmq+local:///path"
            ) from error
        if self._own_directory and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
            raise ConfigError(
                f"{self._directory} belongs to or can be written by somebody else, who could take over your calls; "
                "remove it, set XDG_RUNTIME_DIR, or name a directory as zmq+local:///path"
            )
        self._look(now)

    def tick(self, now: float) -> float:
        """Renew the own lease and look for changes, each when it is due."""
        if self.registered is not None and now >= self._next_renewal:
            self._renew(now)
        if now >= self._next_look:
            self._look(now)
        return self._next_look if self.registered is None else min(self._next_look, self._next_renewal)

    def refresh(self, now: float) -> None:
        """Ask the kernel whether the directory has changed (about a microsecond), and read it if so."""
        try:
            changed = self._seen is None or os.stat(self._directory).st_mtime_ns != self._seen
        except OSError:
            return
        if changed:
            self._look(now)

    def suspect(self, instance: str, now: float) -> None:
        """Look whether the record is gone, or the process behind it is dead, and if so remove it."""
        self.refresh(now)
        entry = self._files.get(instance + _SUFFIX)
        if entry is not None and not self._alive(entry.content):
            self._remove(instance + _SUFFIX)
            self._publish_table()

    def register(self, record: Record, now: float) -> None:
        """Write the own record; it is in place when this returns, or `failure` says why not."""
        rows = [
            (number, s.kind.value, s.exchange, s.topic, s.server, s.pool)
            for number, s in (record.sources or {}).items()
        ]
        content = _File(
            1,
            record.instance,
            record.endpoint,
            record.revision,
            rows,
            self._pid,
            _process_start(self._pid) or "",
            self._namespace,
            self._lease,
        )
        path = self._directory / (record.instance + _SUFFIX)
        draft = path.with_suffix(".draft")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_bytes(_encode(content))
            os.replace(draft, path)
        except OSError as error:
            self.failure = error
            return
        self.failure = None
        self.registered = record
        self._next_renewal = now + self._lease / 3
        self._look(now)

    def withdraw(self) -> None:
        """Delete the own record."""
        if self.registered is not None:
            self._remove(self.registered.instance + _SUFFIX)
            self.registered = None
            self._publish_table()

    def close(self) -> None:
        """Nothing is held open."""

    def _renew(self, now: float) -> None:
        record = self.registered
        if record is None:
            return
        try:
            # The full clock, because the kernel's coarse one may show two renewals as one.
            renewal = time.time_ns()
            os.utime(self._directory / (record.instance + _SUFFIX), ns=(renewal, renewal))
            self._next_renewal = now + self._lease / 3
        except OSError:
            # Somebody took the record for a dead one while this process was stopped, or emptied the directory.
            self.register(record, now)
            self._next_renewal = now + self._lease / 3

    def _look(self, now: float) -> None:
        """Read what is new, forget what is gone, delete what is dead."""
        self._next_look = now + self._refresh
        try:
            changed = os.stat(self._directory).st_mtime_ns
            with os.scandir(self._directory) as entries:
                found = {entry.name: entry.stat() for entry in entries if entry.name.endswith(_SUFFIX)}
        except OSError:
            # The store is down: the table goes on as it was.
            return
        # A change in the same tick of the kernel's clock would leave the time as it is: then the next look must not
        # trust it.
        self._seen = changed if time.time_ns() - changed > _COARSE else None
        for name in self._files.keys() - found.keys():
            del self._files[name]
        for name, status in found.items():
            entry = self._files.get(name)
            if entry is None or entry.inode != status.st_ino:
                entry = self._read(name, status.st_ino)
                if entry is None:
                    continue
                self._files[name] = entry
                if not self._believed(entry.content, status.st_mtime):
                    self._remove(name)
                    continue
            if entry.renewal != status.st_mtime_ns:
                entry.renewal = status.st_mtime_ns
                entry.seen_at = now
            elif now - entry.seen_at > entry.content.lease:
                self._remove(name)
        self._publish_table()

    def _publish_table(self) -> None:
        table = {entry.record.instance: entry.record for entry in self._files.values()}
        if table != self.records:
            self.records = table

    def _read(self, name: str, inode: int) -> _Entry | None:
        try:
            content = _decoder.decode((self._directory / name).read_bytes())
        except (OSError, msgspec.MsgspecError, ValueError):
            # Gone since it was listed, or not ours: either way nobody can be reached by it.
            return None
        sources = {
            number: Source(_KINDS[kind], exchange, topic, server, pool)
            for number, kind, exchange, topic, server, pool in content.rows
            if kind in _KINDS
        }
        record = Record(
            instance=content.instance, endpoint=content.endpoint, revision=content.revision, sources=sources
        )
        return _Entry(inode, content, record)

    def _believed(self, content: _File, renewed: float) -> bool:
        """Whether a record that is read for the first time is worth waiting a lease for.

        The machine's clock is asked only where nothing better is known: it may have been set since the renewal.
        """
        if content.namespace == self._namespace:
            return self._alive(content)
        return time.time() - renewed <= content.lease * _ANCIENT

    def _alive(self, content: _File) -> bool:
        if content.namespace != self._namespace:
            return True
        started = _process_start(content.pid)
        return started is not None and started in ("", content.started)

    def _remove(self, name: str) -> None:
        self._files.pop(name, None)
        try:
            os.unlink(self._directory / name)
        except OSError:
            # Somebody else was faster, or may do it and we may not: the lease ends it for every reader.
            pass
