"""Rules about imports that import-linter cannot say: foreign modules, and what is loaded at start."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

from tests.house.source import ROOT, imported_modules, name, python_files, tree

_THREADING = ("threading", "_thread", "queue", "concurrent", "multiprocessing")
_CLIENT_LIBRARIES = ("zmq", "pika", "kombu", "amqp", "confluent_kafka", "proton", "redis", "tooz")
_FACES = "import messaging; from messaging import rpc, notify"


def _loaded_by(statement: str) -> set[str]:
    program = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return set(json.loads(found.stdout))


def test_drivers_have_no_threads() -> None:
    """No driver but the hub of memory:// imports threads, locks or processes: the reactor owns concurrency."""
    offenders = [
        f"{name(path)}:{line} imports {module}"
        for path in python_files("messaging/drivers")
        if "memory" not in path.relative_to(ROOT / "messaging/drivers").parts[0]
        for line, module in imported_modules(path)
        if module.split(".")[0] in _THREADING
    ]
    assert offenders == []


def test_nothing_imports_a_driver() -> None:
    """A driver is imported by its own modules only; everybody else reaches it by URL, through the table of schemes."""
    home = ROOT / "messaging/drivers"
    drivers = [directory.name for directory in home.iterdir() if directory.is_dir() and directory.name != "__pycache__"]
    offenders = [
        f"{name(path)}:{line} imports {module}"
        for driver in drivers
        for path in python_files("messaging")
        if not path.is_relative_to(home / driver)
        for line, module in imported_modules(path)
        if f"{module}.".startswith(f"messaging.drivers.{driver}.")
    ]
    assert offenders == []


def test_the_library_never_sleeps() -> None:
    """Nothing in the library calls time.sleep: a wait is for an event, with a deadline."""
    offenders = [
        f"{name(path)}:{line}"
        for path in python_files("messaging")
        for line, module in imported_modules(path)
        if module == "time.sleep"
    ]
    offenders += [
        f"{name(path)}:{node.lineno}"
        for path in python_files("messaging")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep"
    ]
    assert offenders == []


def test_importing_messaging_loads_no_client_library() -> None:
    """`import messaging` and its two faces stay quick: no driver or its library is loaded before a URL asks for it."""
    loaded = _loaded_by(_FACES)
    assert not loaded & set(_CLIENT_LIBRARIES)
    assert not {
        module
        for module in loaded
        if module.startswith(tuple(f"messaging.drivers.{driver}" for driver in ("memory", "zmq")))
    }


def test_the_library_needs_msgspec_alone() -> None:
    """Everything that the core imports is its own, of the standard library, or msgspec: the one hard dependency."""
    allowed = {"messaging", "msgspec", *sys.stdlib_module_names}
    foreign = [
        f"{name(path)}:{line} imports {module}"
        for path in python_files("messaging")
        if not {"drivers", "matchmaker"} & set(path.parts)
        for line, module in imported_modules(path)
        if module.split(".")[0] not in allowed
    ]
    assert foreign == []
