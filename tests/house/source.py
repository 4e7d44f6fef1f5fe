"""The files of this repository as the house rules see them: paths, texts and syntax trees. It knows no rule."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_CODE = ("messaging", "tests", "benchmarks", "examples", "docs")
_TEXT_SUFFIXES = {".py", ".md", ".toml", ".sh", ".yml", ".yaml", ".json", ".cfg", ".txt"}
_LOOSE_TEXTS = ("Makefile", ".ci/run", ".gitignore", "pyproject.toml")


@cache
def python_files(*directories: str) -> tuple[Path, ...]:
    """Return the Python files below these directories of the repository, or below all that hold code."""
    found: list[Path] = []
    for directory in directories or _CODE:
        found += sorted((ROOT / directory).rglob("*.py"))
    return tuple(path for path in found if "__pycache__" not in path.parts)


@cache
def text_files() -> tuple[Path, ...]:
    """Return every text file that people read: code, documents and settings."""
    found = [
        path for directory in _CODE for path in sorted((ROOT / directory).rglob("*")) if path.suffix in _TEXT_SUFFIXES
    ]
    found += [ROOT / name for name in _LOOSE_TEXTS]
    found += sorted(ROOT.glob("*.md"))
    return tuple(path for path in found if path.is_file() and "__pycache__" not in path.parts)


@cache
def tree(path: Path) -> ast.Module:
    """Parse one file; the same tree is handed to every rule."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name(path: Path) -> str:
    """Return the path as people write it, from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a file imports, `from a import b` as "a.b"."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
