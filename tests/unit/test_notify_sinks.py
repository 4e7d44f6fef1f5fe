"""Sinks, and the rules that choose between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from messaging import ConfigError, notify
from messaging.notify import Event
from messaging.notify.sinks import masked, sinks_of


def _event(event_type: str = "user.create", level: str = "info", payload: Any = None) -> Event[Any]:
    return Event(
        event_type=event_type,
        publisher_id="me",
        level=level,
        payload=payload,
        context={"auth_token": "s3cret", "user": "eve"},
        timestamp=0.0,
        message_id="m1",
        headers={},
    )


@dataclass
class _Login:
    user: str
    password: str


def test_the_log_masks_passwords(caplog: pytest.LogCaptureFixture) -> None:
    """The log sink writes one line of JSON to the event type's own logger, without secrets."""
    with caplog.at_level(logging.DEBUG, logger="messaging.notification"):
        notify.Log().emit(_event(payload=[_Login("eve", "hunter2"), {"admin_pass": "x", "id": 1}]))
        notify.Log().emit(_event("disk.full", "critical"))
        notify.Log().emit(_event("meter", "sample"))
    first, second, third = caplog.records
    assert first.name == "messaging.notification.user.create"
    assert "hunter2" not in first.getMessage()
    assert "s3cret" not in first.getMessage()
    assert '"password":"***"' in first.getMessage()
    assert '"user":"eve"' in first.getMessage()
    assert [record.levelno for record in (first, second, third)] == [logging.INFO, logging.CRITICAL, logging.INFO]


def test_masking_reaches_everything() -> None:
    """Secrets are masked at any depth; other values stay."""
    assert masked({"a": [{"Password": 1}, 2], "api_key": "x", "n": None}) == {
        "a": [{"Password": "***"}, 2],
        "api_key": "***",
        "n": None,
    }


_RULES: Mapping[str, Any] = {
    "audits": {
        "log": {"accepted_events": ["user.*"], "accepted_levels": ["audit", "err*"]},
        "test": {"accepted_priorities": ["info"]},
    },
    "all": {"noop": {}, "test": {"accepted_events": ["disk.*"]}},
}


@pytest.mark.parametrize(
    ("event_type", "level", "chosen"),
    [
        ("user.create", "audit", ["log", "noop"]),
        ("user.create", "error", ["log", "noop"]),
        ("user.create", "info", ["test", "noop"]),
        ("disk.full", "info", ["test", "noop"]),
        ("disk.full", "warn", ["noop", "test"]),
        ("net.up", "warn", ["noop"]),
    ],
)
def test_rules_choose_sinks(event_type: str, level: str, chosen: list[str]) -> None:
    """Lists of one rule must both accept, one rule is enough for its sink, and a sink is chosen once."""
    names: dict[str, notify.Sink] = {"log": notify.Log(), "test": notify.Recording(), "noop": notify.Noop()}
    found = notify.Routing(_RULES, sinks=names).choose(_event(event_type, level))
    assert found == [names[name] for name in chosen]


def test_rules_are_read_from_toml(tmp_path: Path) -> None:
    """A file of rules says the same as a mapping."""
    path = tmp_path / "rules.toml"
    path.write_text('[audits.log]\naccepted_events = ["user.*"]\n[all.noop]\n', encoding="utf-8")
    assert len(notify.Routing(path).choose(_event())) == 2
    assert len(notify.Routing(str(path)).choose(_event("disk.full"))) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a", "cannot be read"),
        ("[a.log]\naccepted_event = []", "did you mean 'accepted_events'"),
        ("[a.log]\naccepted_events = 'x'", "must be a list of patterns"),
        ("a = 1", "must be a table"),
        ("[a.lgo]", "no sink is named 'lgo' - did you mean 'log'"),
    ],
)
def test_bad_rules_are_told(tmp_path: Path, text: str, told: str) -> None:
    """The error says where, what is allowed, and the nearest spelling."""
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        notify.Routing(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """Rules that are not there are an error when the sink is made."""
    with pytest.raises(ConfigError, match=r"none\.toml"):
        notify.Routing(tmp_path / "none.toml")


@pytest.mark.parametrize("sinks", ["log", [3], [notify.Log], ["nope"]])
def test_what_is_no_sink_is_refused(sinks: Any) -> None:
    """Sinks are objects with emit(), or known names."""
    with pytest.raises(ConfigError, match="sink"):
        sinks_of(sinks)


def test_packages_may_register_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point in the group messaging.notifiers is found by its name."""
    (tmp_path / "foreign_sink.py").write_text("class Pager:\n    def emit(self, event): ...\n", encoding="utf-8")
    info = tmp_path / "foreign_sink-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-sink\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[messaging.notifiers]\npager = foreign_sink:Pager\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(sinks_of(["pager"])[0]).__name__ == "Pager"
