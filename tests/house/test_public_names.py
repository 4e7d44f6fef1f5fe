"""Rules about the face of the package: what `messaging` exports."""

from __future__ import annotations

from types import ModuleType

import messaging

_MOST_NAMES = 40


def _exported() -> list[str]:
    return list(getattr(messaging, "__all__", []))


def test_all_is_sorted() -> None:
    """The names in `__all__` stand in order, so that a missing one is seen."""
    assert _exported() == sorted(_exported())


def test_all_is_small() -> None:
    """A newcomer can read the list: at most 40 names."""
    assert len(_exported()) <= _MOST_NAMES


def test_all_is_true() -> None:
    """Each name in `__all__` can be had, once."""
    assert len(set(_exported())) == len(_exported())
    assert [name for name in _exported() if not hasattr(messaging, name)] == []


def test_nothing_public_hides() -> None:
    """What `messaging` defines without an underscore is in `__all__`; submodules and `annotations` aside."""
    public = {
        name
        for name, value in vars(messaging).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert public <= set(_exported())
