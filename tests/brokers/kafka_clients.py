"""Settings of Kafka's client library that only a test wants."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from messaging.drivers.kafka import configuration

__all__ = ["tune"]


def tune(monkeypatch: pytest.MonkeyPatch, kind: Literal["consumer", "producer"], settings: dict[str, Any]) -> None:
    """Have all consumers, or producers, that are made until the end of the test made with these as well."""
    usual = getattr(configuration, kind)
    monkeypatch.setattr(configuration, kind, lambda *arguments: usual(*arguments) | settings)
