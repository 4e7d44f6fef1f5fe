"""What pipelines of calls promise beyond the conformance suite."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from messaging import DeadlineExceeded, PipelineFailed, Target, open_transport, rpc
from messaging.pending import Pending
from tests.notify.rig import LONG, memory_url


def test_a_full_pipeline_waits_for_an_owner_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where whoever ends what is overdue gets the processor half a second later, each ends at its deadline all the
    same.
    """
    gate = threading.Event()

    class Held:
        """Answers when the test says so."""

        @rpc.expose
        def wait(self, ctxt: dict[str, Any]) -> None:
            """Wait for it."""
            gate.wait(LONG)

    overdue = Pending.overdue
    monkeypatch.setattr(Pending, "overdue", lambda self, now: overdue(self, now - 0.5))
    monkeypatch.setattr(rpc.Pipeline, "limit", 3)
    with open_transport(memory_url()) as transport, rpc.Server(transport, Target(topic="t", server="s"), [Held()]):
        pipeline = rpc.Client(transport, Target(topic="t"), timeout=0.1).pipeline()
        for _ in range(4):
            pipeline.call(None, "wait")
        with pytest.raises(PipelineFailed) as caught:
            pipeline.wait()
        gate.set()
    assert [type(error) for error in caught.value.exceptions] == [DeadlineExceeded] * 4
