"""Which driver a scheme gets, and what is said when there is none."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from messaging.drivers import known_schemes, load_driver, register_driver
from messaging.drivers.memory import Driver as MemoryDriver
from messaging.errors import ConfigError, DriverNotInstalled, UnknownDriver


class OwnDriver(MemoryDriver):
    """A driver that a program brings itself."""

    schemes: ClassVar[Collection[str]] = ("own",)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed distributions, one of which names drivers as entry points."""
    metadata = tmp_path / "others-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[messaging.drivers]\n"
        "others = others_driver:Driver\n"
        "others+fast = others_driver:Fast\n"
        "broken = others_broken:Driver\n"
        "empty = others_driver:Empty\n"
        "memory = others_driver:Driver\n"
    )
    (tmp_path / "others_driver.py").write_text(
        "from messaging.drivers.memory import Driver\nclass Fast(Driver): pass\nclass Empty: schemes = ()\n"
    )
    (tmp_path / "others_broken.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("others_driver", "others_broken"):
        sys.modules.pop(name, None)


def test_built_in_drivers_are_found() -> None:
    """memory:// gets the driver of ours."""
    assert isinstance(load_driver("memory"), MemoryDriver)


def test_an_unknown_scheme_names_the_nearest() -> None:
    """The error names what is known and what was probably meant."""
    with pytest.raises(UnknownDriver) as caught:
        load_driver("memroy")
    assert "memroy://" in str(caught.value)
    assert "did you mean 'memory'?" in str(caught.value)
    assert "zmq://" in str(caught.value)


def test_a_missing_library_is_a_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client library the error is the command that installs it, with the ImportError as its cause."""
    for name in [name for name in sys.modules if name == "zmq" or name.startswith(("zmq.", "messaging.drivers.zmq"))]:
        monkeypatch.delitem(sys.modules, name)
    # None in sys.modules is how Python marks a module that must not be found.
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(DriverNotInstalled) as caught:
        load_driver("zmq")
    assert "pip install 'messaging-rpc[zmq]'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_broken_library_shows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError that pip would not cure is raised as it is."""
    for name in [name for name in sys.modules if name.startswith("messaging.drivers.memory")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "messaging.drivers.memory.hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"messaging\.drivers\.memory\.hub"):
        load_driver("memory")


def test_an_entry_point_is_a_driver(distribution: Path) -> None:
    """What another distribution names is found under its scheme, listed, and a variant may have its own."""
    assert type(load_driver("others")).__name__ == "Driver"
    assert type(load_driver("others", "fast")).__name__ == "Fast"
    assert type(load_driver("others", "slow")).__name__ == "Driver"
    assert {"memory", "others", "zmq"} <= set(known_schemes())


def test_built_in_drivers_win(distribution: Path) -> None:
    """An entry point cannot take a built-in scheme away."""
    assert type(load_driver("memory")) is MemoryDriver


def test_a_broken_entry_point_shows_itself(distribution: Path) -> None:
    """The error of somebody else's driver is not disguised; a note says which entry point it was."""
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there") as caught:
        load_driver("broken")
    assert "others_broken:Driver" in caught.value.__notes__[0]


def test_what_is_no_driver_is_refused(distribution: Path) -> None:
    """An entry point that lacks parts of the contract is refused with the names of the parts."""
    with pytest.raises(ConfigError, match="options, capabilities, connect"):
        load_driver("empty")


@pytest.mark.parametrize("driver", [OwnDriver, OwnDriver()])
def test_a_program_registers_its_own(driver: Any) -> None:
    """A driver that a program registers, as a class or an object, is found until it is taken back."""
    unregister = register_driver("own", driver)
    assert isinstance(load_driver("own"), OwnDriver)
    assert "own" in known_schemes()
    with pytest.raises(ConfigError, match="registered already"):
        register_driver("own", OwnDriver)
    unregister()
    unregister()
    with pytest.raises(UnknownDriver):
        load_driver("own")


def test_a_built_in_scheme_cannot_be_registered() -> None:
    """A program cannot replace a built-in driver by accident."""
    with pytest.raises(ConfigError, match="built in"):
        register_driver("zmq", OwnDriver)


def test_a_registered_driver_goes_before_entry_points(distribution: Path) -> None:
    """What a program brings itself is what it wants."""
    unregister = register_driver("others", OwnDriver)
    try:
        assert isinstance(load_driver("others"), OwnDriver)
    finally:
        unregister()
