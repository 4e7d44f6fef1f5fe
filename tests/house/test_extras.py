"""What an extra installs is enough for the drivers that ask for it: users have nothing else in their environments."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from messaging.drivers import _BUILT_IN as BUILT_IN
from messaging.drivers import load_driver
from tests.house.source import ROOT

_OURS = "messaging-rpc"
_PROGRAM = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

hidden = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Absent())
importlib.import_module(sys.argv[1])
"""


def installed_by(extras: frozenset[str]) -> set[str]:
    """The distributions that come with ours when these extras are asked for."""
    found: set[str] = set()
    wanted = [(_OURS, extras)]
    while wanted:
        name, asked = wanted.pop()
        found.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            chosen = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in asked or {""}
            )
            if chosen and canonicalize_name(requirement.name) not in found:
                wanted.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


@pytest.mark.parametrize("scheme", BUILT_IN)
def test_an_extra_brings_all_that_its_driver_imports(scheme: str) -> None:
    """With every other distribution hidden, the driver can be imported."""
    entry = BUILT_IN[scheme]
    there = installed_by(frozenset(filter(None, entry.extra.split(","))))
    hidden = [
        module
        for module, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & there
    ]
    assert "pytest" in hidden
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, entry.place.partition(":")[0], ",".join(hidden)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert load_driver(*scheme.split("+")) is not None
