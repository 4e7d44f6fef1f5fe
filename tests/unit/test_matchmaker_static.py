"""The matchmaker whose peers stand in the URL."""

from __future__ import annotations

import math

import pytest

from messaging.errors import InvalidUrl
from messaging.matchmaker.base import Record
from messaging.matchmaker.static import StaticMatchmaker
from messaging.url import Host


def test_the_table_is_the_urls_hosts() -> None:
    """Each host is a place whose inhabitant has to be asked; nothing ever changes, nothing is ever due."""
    made = StaticMatchmaker([Host("h1", 5555), Host("::1", 5556)])
    made.start(lambda: None, 0.0)
    assert {name: found.endpoint for name, found in made.records.items()} == {
        "h1:5555": "tcp://h1:5555",
        "[::1]:5556": "tcp://[::1]:5556",
    }
    assert all(found.sources is None and not found.incarnate for found in made.records.values())
    table = made.records
    assert made.tick(1.0) == math.inf
    made.refresh(1.0)
    made.suspect("h1:5555", 1.0)
    assert made.records is table


def test_registering_is_believed() -> None:
    """A server has nothing to write anywhere: it is registered as soon as it listens."""
    made = StaticMatchmaker([Host("h1", 5555)])
    own = Record(instance="own", endpoint="tcp://h1:5555")
    made.register(own, 0.0)
    assert (made.registered, made.failure) == (own, None)
    made.withdraw()
    assert (made.registered, made.failure) == (None, None)
    made.close()


@pytest.mark.parametrize("hosts", [[], [Host("h1")]])
def test_hosts_without_a_port_are_refused(hosts: list[Host]) -> None:
    """The error shows how it is written."""
    with pytest.raises(InvalidUrl, match="h1:5555"):
        StaticMatchmaker(hosts)
