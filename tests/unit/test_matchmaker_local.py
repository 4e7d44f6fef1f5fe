"""The matchmaker that keeps records in a directory: leases, dead processes, what its readers see and when."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from messaging.errors import ConfigError
from messaging.matchmaker.base import Record
from messaging.matchmaker.local import LocalMatchmaker, default_directory
from messaging.message import Source, SourceKind

SOURCE = Source(SourceKind.ONE, "exchange", "topic", "server")


def keeper(directory: Path, *, lease: float = 10.0, refresh: float = 1.0) -> LocalMatchmaker:
    """A matchmaker that has begun at the time 0."""
    made = LocalMatchmaker(directory, lease=lease, refresh=refresh)
    made.start(lambda: None, 0.0)
    return made


def record(instance: str = "one", revision: int = 1) -> Record:
    """A record of one source."""
    return Record(instance=instance, endpoint="tcp://127.0.0.1:5555", revision=revision, sources={1: SOURCE})


def rewrite(directory: Path, instance: str, **fields: object) -> None:
    """Change fields of a record's file, as another process would write them."""
    path = directory / f"{instance}.record"
    content = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**content, **fields}))


def test_a_record_is_seen_by_others_and_by_its_owner(tmp_path: Path) -> None:
    """Registered, it stands in both tables as it was given, and `registered` says so."""
    owner, reader = keeper(tmp_path), keeper(tmp_path)
    owner.register(record(), 0.0)
    assert owner.registered == record()
    assert owner.failure is None
    reader.refresh(0.0)
    assert reader.records == owner.records == {"one": record()}


def test_changes_are_seen_without_reading_what_is_known(tmp_path: Path) -> None:
    """A new revision replaces the old one, a withdrawn record is gone, and an unchanged table is the same object."""
    owner, reader = keeper(tmp_path), keeper(tmp_path)
    owner.register(record(), 0.0)
    reader.refresh(0.0)
    table = reader.records
    reader.tick(1.0)
    reader.tick(2.0)
    assert reader.records is table
    owner.register(record(revision=2), 0.0)
    reader.refresh(0.0)
    assert reader.records["one"].revision == 2
    owner.withdraw()
    assert owner.registered is None
    reader.refresh(0.0)
    assert reader.records == {}
    assert list(tmp_path.iterdir()) == []


def test_two_changes_within_a_tick_of_the_clock_are_both_seen(tmp_path: Path) -> None:
    """Directory times are coarse; a change right after a look is found by the next one nevertheless."""
    owner, reader = keeper(tmp_path), keeper(tmp_path)
    for revision in range(1, 200):
        owner.register(record(revision=revision), 0.0)
        reader.refresh(0.0)
        assert reader.records["one"].revision == revision


def test_the_table_is_looked_at_again_by_itself(tmp_path: Path) -> None:
    """Every `refresh` seconds, which is what `tick` returns."""
    owner, reader = keeper(tmp_path), keeper(tmp_path, refresh=2.0)
    owner.register(record(), 0.0)
    assert reader.tick(1.0) == 2.0
    assert reader.records == {}
    assert reader.tick(2.0) == 4.0
    assert "one" in reader.records


def test_a_lease_that_is_not_renewed_ends(tmp_path: Path) -> None:
    """Renewed records stay however long, by the reader's own clock; one whose owner stands still is gone after its
    lease, and so is its file.
    """
    owner, reader = keeper(tmp_path, lease=10.0), keeper(tmp_path)
    owner.register(record(), 0.0)
    reader.refresh(0.0)
    for now in range(100):
        owner.tick(float(now))
        reader.tick(float(now))
        assert "one" in reader.records
    for now in range(100, 120):
        reader.tick(float(now))
    assert reader.records == {}
    assert list(tmp_path.glob("*.record")) == []
    owner.tick(200.0)
    reader.refresh(200.0)
    assert "one" in reader.records


def test_setting_the_clock_of_the_machine_ends_no_lease(tmp_path: Path) -> None:
    """A renewal's time in the past or the future does not matter, only that it changes."""
    owner, reader = keeper(tmp_path), keeper(tmp_path)
    owner.register(record(), 0.0)
    reader.refresh(0.0)
    for now in range(1, 60):
        jump = time.time() + (3000 if now % 2 else -40)
        os.utime(tmp_path / "one.record", (jump, jump))
        reader.tick(float(now))
        assert "one" in reader.records


def test_an_ancient_record_is_not_believed(tmp_path: Path) -> None:
    """A reader that has just come does not wait a lease for what nobody has renewed for ten."""
    owner = keeper(tmp_path, lease=10.0)
    owner.register(record(), 0.0)
    rewrite(tmp_path, "one", namespace="another machine's")
    old = time.time() - 101.0
    os.utime(tmp_path / "one.record", (old, old))
    assert keeper(tmp_path).records == {}


def test_a_dead_process_is_noticed_by_its_pid(tmp_path: Path) -> None:
    """When its record is read, or when somebody suspects it; its file goes with it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = keeper(tmp_path)
        owner.register(record(), 0.0)
        started = (Path("/proc") / str(child.pid) / "stat").read_text().rpartition(")")[2].split()[19]
        rewrite(tmp_path, "one", pid=child.pid, started=started)
        reader = keeper(tmp_path)
        assert "one" in reader.records
        reader.suspect("one", 0.0)
        assert "one" in reader.records
        child.kill()
        # Killed, and its parent has not asked for it yet: there is a pid, and nobody behind it.
        deadline = time.monotonic() + 5.0
        while "one" in reader.records:
            assert time.monotonic() < deadline
            reader.suspect("one", 0.0)
        assert list(tmp_path.glob("*.record")) == []


def test_a_pid_that_belongs_to_somebody_new_is_noticed_by_its_start(tmp_path: Path) -> None:
    """The time at which the process was started tells two with the same pid apart."""
    keeper(tmp_path).register(record(), 0.0)
    rewrite(tmp_path, "one", started="1")
    assert keeper(tmp_path).records == {}


def test_a_process_that_cannot_be_judged_keeps_its_record(tmp_path: Path) -> None:
    """A pid of another namespace means nothing here; only its lease ends it."""
    keeper(tmp_path).register(record(), 0.0)
    rewrite(tmp_path, "one", namespace="a container's", pid=2**22 + 1)
    reader = keeper(tmp_path)
    assert "one" in reader.records
    reader.suspect("one", 0.0)
    assert "one" in reader.records


def test_a_record_that_somebody_deleted_is_written_again(tmp_path: Path) -> None:
    """The next renewal finds it missing."""
    owner, reader = keeper(tmp_path), keeper(tmp_path)
    owner.register(record(), 0.0)
    for path in tmp_path.iterdir():
        path.unlink()
    owner.tick(5.0)
    reader.refresh(5.0)
    assert "one" in reader.records


def test_the_table_serves_while_the_directory_is_away(tmp_path: Path) -> None:
    """Without the directory readers keep what they have seen; when it is back the owner registers again."""
    directory, away = tmp_path / "peers", tmp_path / "away"
    owner, reader = keeper(directory), keeper(directory)
    owner.register(record(), 0.0)
    reader.refresh(0.0)
    directory.rename(away)
    reader.refresh(1.0)
    reader.tick(2.0)
    assert "one" in reader.records
    owner.tick(5.0)
    assert owner.registered == record()
    assert (directory / "one.record").exists()


def test_files_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    """Nonsense, drafts, and records of a later version with unknown kinds of sources do no harm."""
    owner = keeper(tmp_path)
    owner.register(record(), 0.0)
    (tmp_path / "bad.record").write_bytes(b"{nonsense")
    (tmp_path / "half.draft").write_bytes(b"{")
    (tmp_path / "directory.record").mkdir()
    rewrite(tmp_path, "one", rows=[[1, "stream", "e", "t", "", ""], [2, "any", "e", "t", "", ""]], new="field")
    assert keeper(tmp_path).records["one"].sources == {2: Source(SourceKind.ANY, "e", "t")}


def test_a_directory_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    """The error says what is wrong, and how another directory is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="zmq\\+local:///path"):
        keeper(tmp_path / "file" / "peers")


def test_the_default_directory_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under XDG_RUNTIME_DIR, else in the temporary directory with the user's number; made for the user alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_directory() == tmp_path / "messaging"
    made = LocalMatchmaker(None, lease=10.0, refresh=1.0)
    made.start(lambda: None, 0.0)
    assert stat.S_IMODE((tmp_path / "messaging").stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert default_directory().name == f"messaging-{os.getuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_directory().name == f"messaging-{os.getuid()}"


def test_a_default_directory_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write there could take over calls."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "messaging").mkdir()
    (tmp_path / "messaging").chmod(0o777)
    with pytest.raises(ConfigError, match="written by somebody else"):
        LocalMatchmaker(None, lease=10.0, refresh=1.0).start(lambda: None, 0.0)


def test_a_thousand_records_are_read_once(tmp_path: Path) -> None:
    """Looking at an unchanged directory of 1,000 records takes no reading; a look-up takes no system call at all."""
    for number in range(1000):
        keeper_of_one = LocalMatchmaker(tmp_path, lease=10.0, refresh=1.0)
        keeper_of_one._directory.mkdir(exist_ok=True)
        path = tmp_path / f"{number}.record"
        path.write_bytes(
            msgspec.json.encode(
                {
                    "format": 1,
                    "instance": str(number),
                    "endpoint": "tcp://127.0.0.1:1",
                    "revision": 1,
                    "rows": [],
                    "pid": 1,
                    "started": "",
                    "namespace": "elsewhere",
                    "lease": 10.0,
                }
            )
        )
    reader = keeper(tmp_path)
    assert len(reader.records) == 1000
    for path in tmp_path.iterdir():
        path.chmod(0)
    begin = time.process_time()
    reader.tick(1.0)
    assert time.process_time() - begin < 0.5
    assert len(reader.records) == 1000
