"""Every test of notifications runs on a transport with storage and on one without, unless it says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging import Transport, open_transport
from tests.notify.rig import balanced, memory_url, zmq_url


@pytest.fixture(params=["memory", "zmq"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of its own."""
    return memory_url() if request.param == "memory" else zmq_url(tmp_path)


@pytest.fixture
def transport(url: str) -> Iterator[Transport]:
    """A transport for everything in a test; at the end its counters balance."""
    with open_transport(url) as opened:
        yield opened
    balanced(opened)


@pytest.fixture
def stored() -> Iterator[Transport]:
    """A transport with storage."""
    with open_transport(memory_url()) as opened:
        yield opened
    balanced(opened)


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[Transport]:
    """A transport without storage."""
    with open_transport(zmq_url(tmp_path)) as opened:
        yield opened
    balanced(opened)
