"""An address that another process has by now: a server dies, a server of something else gets its port, and a stale
record still sends callers there. It happens between containers that share a directory, where nobody can see that a
process of another one is dead.
"""

from __future__ import annotations

import json
from pathlib import Path

from messaging import Delivered, MessagingError
from tests.brokers.ports import free_port
from tests.faults.conftest import Stage
from tests.faults.history import Entry
from tests.faults.processes import until


def misdirected(stage: Stage, plant: str = "") -> tuple[list[MessagingError], list[Entry]]:
    """Call a server whose port another one has by now; returns what callers were told, and which handlers ran."""
    # One that neither the kernel nor another test gives away while nobody listens there.
    dead = stage.service("a", topic="first", transport={"ports": str(free_port())})
    (path,) = stage.records.glob("*.record")
    record = json.loads(path.read_bytes())
    dead.kill()
    port = record["endpoint"].rpartition(":")[2]
    client = stage.client(topic="first", timeout=1.0, retry=0)
    other = stage.service("b", topic="second", plant=plant, transport={"ports": port})
    assert {json.loads(found.read_bytes())["endpoint"] for found in stage.records.glob("*.record")} == {
        record["endpoint"]
    }, "the second server has got the port of the first"
    # The same record, from a container whose processes this one cannot see.
    _write(path, {**record, "namespace": "elsewhere"})
    told = []
    for id, there in (("any", client), ("named", client.prepare(server="a"))):
        error = stage.call(there, 1.0, "work", id)
        assert isinstance(error, MessagingError) or plant
        told += [error]
    # What came there has been looked at when a later call is answered.
    assert stage.client(topic="second").call(None, "name") == "b"
    until(lambda: other.ask("stats")["in_hand"] == 0, "nothing is in hand")
    return told, stage.entries("effect")


def _write(path: Path, record: dict[str, object]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(record), encoding="utf-8")
    draft.replace(path)


def test_a_stale_address_leads_to_nobody(stage: Stage) -> None:
    """Callers who are sent to the address of a dead server meet another one: no handler there runs, and each is told
    that its call was not delivered.
    """
    told, effects = misdirected(stage)
    assert effects == []
    assert [error.delivered for error in told] == [Delivered.NO, Delivered.NO]


def test_a_process_that_serves_whoever_comes_is_found(stage: Stage) -> None:
    """Planted: the process at the address says that it is whoever was looked for. Then handlers run for callers of
    another service, which is what the check looks for.
    """
    _told, effects = misdirected(stage, plant="serves_anybody")
    assert [entry.process for entry in effects] == ["b", "b"]
