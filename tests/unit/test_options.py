"""Typed option tables: conversion, precedence, and errors that name what is wrong, allowed and near."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from messaging.drivers.base import Settings
from messaging.errors import ConfigError
from messaging.options import OptionInfo, build_settings, describe_options, is_secret, nearest
from messaging.url import parse_url

URL = parse_url("memory://")


class Table(Settings, frozen=True, kw_only=True):
    """Options of every allowed type."""

    window: Annotated[int, Meta(ge=1, le=100, description="Deliveries.")] = 10
    heartbeat: Annotated[float, Meta(gt=0, description="Seconds.")] = 1.0
    name: str = "x"
    secure: bool = True
    force: bool | None = None
    mode: Literal["fast", "safe"] = "fast"
    level: Literal[1, 2] = 1
    limit: Annotated[int | None, Meta(description="Most.")] = None
    size: Annotated[int, Meta(ge=0)] | Literal["auto"] = "auto"
    label: Annotated[str, Meta(pattern="^[a-z]+$", examples=["abc"])] = "abc"
    password: Annotated[str, Meta(max_length=3)] = ""


class Required(Settings, frozen=True, kw_only=True):
    """A table with an option that has no default."""

    broker: str
    window: int = 1


def build(**options: Any) -> Table:
    """The table with options from the URL."""
    return build_settings(Table, [("the URL", options)], url=URL)


def failure(**options: Any) -> str:
    """The text of the error of a bad option."""
    with pytest.raises(ConfigError) as caught:
        build(**options)
    return str(caught.value)


@given(
    st.integers(1, 100),
    st.floats(min_value=0.001, max_value=1e9),
    st.text(),
    st.booleans(),
    st.sampled_from(["fast", "safe"]),
    st.sampled_from([1, 2]),
)
def test_a_value_and_its_text_are_the_same(
    window: int, heartbeat: float, name: str, secure: bool, mode: str, level: int
) -> None:
    """An option means the same as a keyword, from TOML, and as the text of a URL or the environment."""
    values = {"window": window, "heartbeat": heartbeat, "name": name, "secure": secure, "mode": mode, "level": level}
    typed = build(**values)
    assert build(**{option: str(value) for option, value in values.items()}) == typed
    assert (typed.window, typed.heartbeat, typed.name, typed.secure) == (window, heartbeat, name, secure)


@pytest.mark.parametrize("option", ["secure", "force"])
@pytest.mark.parametrize(("text", "value"), [("yes", True), ("ON", True), ("1", True), (" no ", False), ("off", False)])
def test_switches(option: str, text: str, value: bool) -> None:
    """A switch understands the usual words, with an unset state or without."""
    assert getattr(build(**{option: text}), option) is value


def test_unions() -> None:
    """An option of several types takes each of them."""
    assert [build(size=value).size for value in ("auto", "5", 0)] == ["auto", 5, 0]
    assert [build(limit=value).limit for value in ("5", None)] == [5, None]


def test_the_last_layer_wins() -> None:
    """A keyword goes before the URL, which goes before the environment, and the rest is the default."""
    layers: list[tuple[str, dict[str, Any]]] = [
        ("the environment", {"window": "1", "name": "environment"}),
        ("the URL", {"window": "2"}),
        ("a keyword", {"mode": "safe"}),
    ]
    table = build_settings(Table, layers, url=URL)
    assert (table.window, table.name, table.mode, table.heartbeat) == (2, "environment", "safe", 1.0)
    assert table.url is URL


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": "many"}, "option 'window' (the URL) must be a whole number ≥ 1 and ≤ 100, not 'many'"),
        ({"window": 0}, "≥ 1 and ≤ 100, not 0"),
        ({"window": True}, "a whole number ≥ 1 and ≤ 100, not True"),
        ({"heartbeat": "0"}, "a number > 0, not '0'"),
        ({"heartbeat": "nan"}, "a number > 0, not 'nan'"),
        ({"heartbeat": math.inf}, "a number > 0, not inf"),
        ({"secure": "maybe"}, "yes | no, not 'maybe'"),
        ({"force": "maybe"}, "yes | no, not 'maybe'"),
        ({"mode": "quick"}, "fast | safe, not 'quick'"),
        ({"level": "3"}, "1 | 2, not '3'"),
        ({"size": "big"}, "a whole number ≥ 0 | auto, not 'big'"),
        ({"label": "A"}, "text, for example abc, not 'A'"),
        ({"name": 5}, "text, not 5"),
        ({"windw": 1}, "unknown option 'windw' (the URL) - did you mean 'window'?"),
        ({"zzz": 1}, "unknown option 'zzz' (the URL); options of memory://: force, heartbeat, label, level"),
        ({"url": "x"}, "unknown option 'url'"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], said: str) -> None:
    """The error names the option, where it stands, what is allowed, and the nearest spelling."""
    assert said in failure(**options)


def test_a_secret_is_not_shown() -> None:
    """The value of an option that holds a secret stays out of errors, and their causes."""
    with pytest.raises(ConfigError) as caught:
        build(password="hunter2")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["password", "tls_key", "CURVE_SECRET", "api_token", "passphrase"])
def test_secrets_are_known_by_name(name: str) -> None:
    """Options of these kinds are never shown."""
    assert is_secret(name)


def test_a_required_option_is_asked_for() -> None:
    """A missing option without a default is an error that names it."""
    with pytest.raises(ConfigError, match="option 'broker' is required: text"):
        build_settings(Required, [], url=URL)
    assert build_settings(Required, [("x", {"broker": "b"})], url=URL).broker == "b"


def test_options_describe_themselves() -> None:
    """The table is the documentation: names, allowed values, defaults and descriptions, in order."""
    described = list(describe_options(Table))
    assert described[0] == OptionInfo("window", "a whole number ≥ 1 and ≤ 100", 10, "Deliveries.")
    assert [info.name for info in described][:3] == ["window", "heartbeat", "name"]
    assert {"url", "credentials"}.isdisjoint(info.name for info in described)
    assert next(iter(describe_options(Required))).default is None


def test_the_nearest_name() -> None:
    """A name is suggested when it is near, and nothing when none is."""
    assert nearest("windo", ["window", "mode"]) == " - did you mean 'window'?"
    assert nearest("zzz", ["window", "mode"]) == ""
