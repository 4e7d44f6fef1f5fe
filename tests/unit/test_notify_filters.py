"""Filters, as the predecessor has them."""

from __future__ import annotations

from typing import Any

import pytest

from messaging.errors import ConfigError
from messaging.notify import Filter

_EVENT: dict[str, Any] = {
    "context": {"tenant": "abc", "user": {"name": "eve"}},
    "publisher_id": "compute.host-1",
    "event_type": "instance.create.end",
    "metadata": {"message_id": "m1", "timestamp": "2026-01-01 00:00:00"},
    "payload": {"state": "active", "count": 3},
}


@pytest.mark.parametrize(
    ("rules", "matches"),
    [
        ({}, True),
        ({"event_type": r"instance\."}, True),
        ({"event_type": r"create"}, False),
        ({"publisher_id": r"compute\..*", "event_type": r".*end$"}, True),
        ({"publisher_id": r"network\..*", "event_type": r".*end$"}, False),
        ({"context": {"tenant": "^abc$"}}, True),
        ({"context": {"tenant": "^xyz$"}}, False),
        ({"context": {"user": {"name": "e"}}}, True),
        ({"context": {"project": ".*"}}, False),
        ({"payload": {"state": "act"}}, True),
        ({"payload": {"count": "3"}}, False),
        ({"payload": "state"}, False),
        ({"metadata": {"message_id": "m\\d"}}, True),
    ],
)
def test_all_rules_must_match(rules: dict[str, Any], matches: bool) -> None:
    """Each rule matches from the start; what is missing or no string does not match."""
    assert Filter(**rules).match(**_EVENT) is matches


def test_a_bad_expression_is_named() -> None:
    """The error says which rule cannot be understood."""
    with pytest.raises(ConfigError, match=r"context.*tenant"):
        Filter(context={"tenant": "("})
