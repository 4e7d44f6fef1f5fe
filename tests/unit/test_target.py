"""Targets: values with checked parts, and the rule by which versions fit each other."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import ConfigError, InvalidTarget, Target
from messaging.target import version_compatible

versions = st.tuples(*(st.integers(0, 12) for _ in range(2))).map(lambda parts: ".".join(map(str, parts)))


def test_a_target_is_a_value() -> None:
    """Equal parts are equal targets, usable as keys; nothing can be changed, copies are made by calling it."""
    target = Target(topic="inventory", namespace="shop", version="1.3", legacy_namespaces=("old",))
    assert target == Target(topic="inventory", namespace="shop", version="1.3", legacy_namespaces=["old"])  # type: ignore[arg-type]
    assert {target: 1}[copy.copy(target)] == 1
    assert pickle.loads(pickle.dumps(target)) == target
    assert target(server="host-1", version=None) == Target(
        topic="inventory", namespace="shop", server="host-1", legacy_namespaces=("old",)
    )
    assert target.version == "1.3"
    with pytest.raises(AttributeError):
        target.topic = "other"  # type: ignore[misc]


def test_a_target_shows_what_is_set() -> None:
    """Its repr has the set parts only."""
    assert repr(Target(topic="t", version="1.0")) == "Target(topic='t', version='1.0')"
    assert repr(Target()) == "Target()"


def test_legacy_namespaces_come_after_the_own_one() -> None:
    """A request in any of them is accepted."""
    assert Target(namespace="new", legacy_namespaces=("old", "older")).accepted_namespaces == ("new", "old", "older")
    assert Target().accepted_namespaces == (None,)


@pytest.mark.parametrize("part", ["exchange", "topic", "namespace", "server"])
@pytest.mark.parametrize("value", ["", "x" * 201, "tab\there", "nul\0", 7, b"bytes"])
def test_names_are_checked(part: str, value: Any) -> None:
    """Empty, overlong, unprintable and of another type: refused, naming the part and what is allowed."""
    with pytest.raises(InvalidTarget, match=part) as told:
        Target(**{part: value})
    assert isinstance(told.value, ConfigError)


@pytest.mark.parametrize("part", ["exchange", "topic", "namespace", "server"])
@pytest.mark.parametrize("value", ["a", "x" * 200, "with space", "Ünïcode", "dots.and-dashes_/"])
def test_names_that_are_allowed(part: str, value: str) -> None:
    """Anything printable up to 200 characters."""
    assert getattr(Target(**{part: value}), part) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "1", "1.", ".1", "1.x", "v1.0", "1.0.0.0", "1.0\n", "-1.0", 1.0, 1])
def test_versions_are_checked(value: Any) -> None:
    """A version is a string MAJOR.MINOR, perhaps with a third part; the error shows an example."""
    with pytest.raises(InvalidTarget, match=r'"1\.3"'):
        Target(version=value)


@pytest.mark.parametrize(
    ("offered", "wanted", "fits"),
    [
        ("1.3", "1.3", True),
        ("1.3", "1.0", True),
        ("1.3", "1.4", False),
        ("1.3", "2.0", False),
        ("2.0", "1.9", False),
        ("1.10", "1.9", True),
        ("1.9", "1.10", False),
        ("1.3.2", "1.3.1", True),
        ("1.3.1", "1.3.2", False),
        ("1.4.0", "1.3.9", True),
        ("1.3", "1.3.0", True),
        ("1.3", "1.3.1", False),
        ("1.3.1", "1.3", True),
    ],
)
def test_which_versions_fit(offered: str, wanted: str, fits: bool) -> None:
    """The majors are equal and the offered rest is not smaller, compared as numbers."""
    assert version_compatible(offered, wanted) is fits


@given(versions, versions, versions)
def test_fitting_is_an_order(first: str, second: str, third: str) -> None:
    """Each fits itself; of two with one major at least one fits the other; and what fits what fits, fits."""
    assert version_compatible(first, first)
    same_major = first.split(".")[0] == second.split(".")[0]
    assert (version_compatible(first, second) or version_compatible(second, first)) is same_major
    if version_compatible(first, second) and version_compatible(second, third):
        assert version_compatible(first, third)
